package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/postern/postern/engine/pack"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/policies/cel"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// check checks what `up` would create, or what is in a file, and changes nothing.
func (d *driver) check(ctx context.Context) error {
	g, o, source, err := d.subject(ctx)
	if err != nil {
		return err
	}
	report := guardrail.Check(g, o)
	switch {
	case d.SARIF:
		err = report.SARIF(d.out, source, o.More)
	case d.JSON:
		err = visible.Encode(d.out, report, "  ")
	default:
		err = report.Print(d.out)
	}
	if err == nil && report.Blocks() {
		err = exit.With(exit.Open, fmt.Errorf("guardrails do not hold for %s: correct what is named, or waive it in the "+
			"stack file", visible.Text(source)))
	}
	return err
}

// subject returns what is checked, how, and the file that it is from.
func (d *driver) subject(ctx context.Context) (*graph.Graph, guardrail.Options, string, error) {
	if d.State == "" {
		stack, err := d.load(ctx)
		if err != nil {
			return nil, guardrail.Options{}, "", err
		}
		result, err := captured(stack, d.home)
		if err != nil {
			return nil, guardrail.Options{}, "", err
		}
		o, err := options(stack.Guardrails)
		o.Plan = stack.Plan
		return result.Graph, o, stack.Path, err
	}
	o := guardrail.Options{Production: true, Today: today()}
	if d.Request.Stack != "" || d.File != "" {
		file, err := stacks.Choose(d.File, d.Request.Stack)
		if err != nil {
			return nil, o, "", err
		}
		stack, err := file.Load()
		if err != nil {
			return nil, o, "", err
		}
		if o, err = options(stack.Guardrails); err != nil {
			return nil, o, "", err
		}
		o.Plan = stack.Plan
	}
	g, err := open(d.State)
	return g, o, d.State, err
}

// maxResources bounds the file of resources, in bytes.
const maxResources = graph.MostBytes

// open reads the resources in a file. "-" is the standard input.
func open(path string) (*graph.Graph, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		text, err := hostpath.ReadFile(path, maxResources)
		if err != nil {
			return nil, fmt.Errorf("read the resources: %w", err)
		}
		in = bytes.NewReader(text)
	}
	g, err := graph.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", visible.Text(path), err)
	}
	return g, nil
}

func today() string { return time.Now().UTC().Format(time.DateOnly) }

// options are what a file says of guardrails.
func options(g stacks.Guardrails) (guardrail.Options, error) {
	o := guardrail.Options{Production: g.Production, Today: today()}
	for _, w := range g.Waivers {
		o.Waivers = append(o.Waivers, guardrail.Waiver(w))
	}
	if g.Policies == "" {
		return o, nil
	}
	own, err := ownPolicies(g.Policies)
	if err != nil {
		return o, err
	}
	o.More = own.Rails()
	return o, nil
}

// ownPolicies loads the policies of a folder. An agent who may write there could take one away.
func ownPolicies(folder string) (*cel.Set, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	if err := folders.CheckFolder(folder); err != nil {
		return nil, fmt.Errorf("use the policies in %s: %w", visible.Text(folder), err)
	}
	return cel.Load(folder, folders.Check)
}

// testPolicies runs the tests of the policies of a folder, or of a stack.
func (d *driver) testPolicies(context.Context) error {
	folder := d.Folder
	if folder == "" {
		file, err := stacks.Choose(d.File, d.Request.Stack)
		if err != nil {
			return err
		}
		stack, err := file.Load()
		if err != nil {
			return err
		}
		if folder = stack.Guardrails.Policies; folder == "" {
			return fmt.Errorf("%s has no policies of its own: write guardrails: {policies: FOLDER}", visible.Text(file.Path))
		}
	}
	own, err := ownPolicies(folder)
	if err != nil {
		return err
	}
	failed := 0
	results := own.Test()
	for _, r := range results {
		word := "ok"
		if r.Problem != "" {
			word = "failed"
			failed++
		}
		if !d.JSON {
			visible.Printf(d.out, "%-7s %s %s", word, r.Policy, r.Test)
			if r.Problem != "" {
				visible.Printf(d.out, ": %s (%s)", r.Problem, r.At)
			}
			visible.Println(d.out)
		}
	}
	if d.JSON {
		if err := visible.Encode(d.out, results, "  "); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d tests failed", failed, len(results))
	}
	return nil
}

// packFile says, next to PulumiPolicy.yaml, what a stack file says below guardrails.
const packFile = "guardrails.yaml"

// servePack serves the guardrails to the engine, which starts this program in the folder of the pack.
func servePack(ctx context.Context) error {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the policy pack: %w", err)
	}
	if err := folders.CheckFolder(here); err != nil {
		return fmt.Errorf("use the policy pack: %w", err)
	}
	g, err := stacks.LoadGuardrails(filepath.Join(here, packFile))
	if errors.Is(err, fs.ErrNotExist) {
		g, err = stacks.Guardrails{Production: true}, nil
	}
	if err != nil {
		return err
	}
	o, err := options(g)
	if err != nil {
		return err
	}
	return pack.Serve(ctx, o)
}

// checked checks what a stack would create.
func checked(stack *stacks.Stack, g *graph.Graph) (*guardrail.Report, error) {
	o, err := options(stack.Guardrails)
	if err != nil {
		return nil, err
	}
	o.Plan = stack.Plan
	return guardrail.Check(g, o), nil
}

// broken returns an error if the resources must not be created. It says how many warnings there are.
func broken(report *guardrail.Report) error {
	if report.Blocks() {
		return &guardrail.BrokenError{Report: report}
	}
	return nil
}
