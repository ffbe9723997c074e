package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/engine"
	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/home"
	check "github.com/postern/postern/policies/check/aws"
	cost "github.com/postern/postern/policies/cost/aws"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// previewOffline prints what the program declares, what that costs, and what a
// cloud would refuse of it. It needs neither an account nor a provider, the
// CLI, or the engine.
func (d *driver) previewOffline(ctx context.Context) error {
	stack, err := d.load(ctx)
	if err != nil {
		return err
	}
	result, err := captured(stack, d.home)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Graph != "" {
		if err := writeGraph(d.Graph, result.Graph); err != nil {
			return err
		}
	}
	report, err := checked(stack, result.Graph)
	if err != nil {
		return err
	}
	if d.JSON {
		err = result.Graph.Encode(d.out)
	} else if err = describe(d.out, stack, result.Graph); err == nil {
		err = report.Print(d.out)
	}
	if err != nil {
		return err
	}
	if problems := check.Run(result.Graph, result.Arguments); len(problems) > 0 {
		return &refusedError{problems}
	}
	return errors.Join(broken(report), proved(stack, result.Graph))
}

// prove proves what the program declares. It needs no more than previewOffline does.
func (d *driver) prove(ctx context.Context) error {
	if d.State != "" || d.Live {
		return errors.New("this program proves stack files: run `postern prove`")
	}
	stack, err := d.load(ctx)
	if err != nil {
		return err
	}
	if stack.Target == stacks.TargetLocal {
		return errors.New("this program proves networks in a cloud: run `postern prove` for a stack on this machine")
	}
	defer proof.Slowly(os.Stderr, "running the program, and trying every mistake ...")()
	result, err := captured(stack, d.home)
	if err != nil {
		return err
	}
	report, err := proof.Of(stack, result.Graph, nil)
	if err != nil {
		return err
	}
	return report.Deliver(d.out, d.JSON, d.SVG)
}

// proved returns an error if an agent may reach what it must not, or if the proof cannot tell.
func proved(stack *stacks.Stack, g *graph.Graph) error {
	p, err := proof.Planned(stack, g, false)
	if err == nil && p != nil && !p.Holds() {
		err = &reach.OpenError{Proof: p}
	}
	return err
}

// captured returns what the program of the stack declares.
func captured(stack *stacks.Stack, home home.Folder) (*capture.Result, error) {
	opts := capture.Options{Project: engine.Project, Stack: stack.Name}
	if stack.AWS != nil {
		opts.Region, opts.Account = stack.AWS.Region, stack.AWS.Account
	}
	return capture.Run(func(ctx *pulumi.Context) error { return targets[stack.Target](ctx, stack, home, false) }, opts)
}

// judge checks and proves what the engine is about to make, before it is told of the first resource.
// An `up` in a cloud also keeps it, for `postern drift`.
func judge(stack *stacks.Stack, home home.Folder, up bool) error {
	result, err := captured(stack, home)
	if err != nil {
		return err
	}
	report, err := checked(stack, result.Graph)
	if err != nil {
		return err
	}
	err = errors.Join(broken(report), proved(stack, result.Graph))
	if err != nil || !up || stack.AWS == nil {
		return err
	}
	if err := os.MkdirAll(home.Root, 0o700); err != nil {
		return fmt.Errorf("write the plan's graph: %w", err)
	}
	return writeGraph(home.GraphFile(), result.Graph)
}

// refusedError is a plan that the cloud would refuse.
type refusedError struct{ problems []check.Problem }

func (e *refusedError) Error() string {
	text := fmt.Sprintf("the cloud would refuse this plan, for %d reasons:", len(e.problems))
	for _, p := range e.problems {
		text += "\n  " + p.Error()
	}
	return text
}

func describe(out io.Writer, stack *stacks.Stack, g *graph.Graph) error {
	proven, err := proof.Planned(stack, g, true)
	if err != nil {
		return err
	}
	resources, components := 0, 0
	for i := range g.Resources {
		if g.Resources[i].Custom {
			resources++
		} else {
			components++
		}
	}
	head := visible.Sprintf("stack %s, offline: %d resources in %d components\n", g.Stack, resources, components)
	if _, err := io.WriteString(out, head); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := g.Print(out); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := cost.Of(g).Print(out); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := proven.Print(out); err != nil {
		return fmt.Errorf("print the proof: %w", err)
	}
	return nil
}

// writeGraph replaces the file with the graph.
func writeGraph(path string, g *graph.Graph) error {
	var encoded bytes.Buffer
	if err := g.Encode(&encoded); err != nil {
		return err
	}
	if err := atomicfile.Write(path, encoded.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the plan's graph: %w", err)
	}
	return nil
}
