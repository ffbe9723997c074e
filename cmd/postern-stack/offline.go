package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/engine"
	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/graph/check"
	"github.com/postern/postern/graph/cost"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
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
	if d.graph != "" {
		if err := writeGraph(d.graph, result.Graph); err != nil {
			return err
		}
	}
	if d.json {
		err = result.Graph.Encode(d.out)
	} else {
		err = describe(d.out, result.Graph)
	}
	if err != nil {
		return err
	}
	if problems := check.Run(result.Graph, result.Arguments); len(problems) > 0 {
		return &refusedError{problems}
	}
	return nil
}

// captured returns what the program of the stack declares.
func captured(stack *stacks.Stack, home home.Folder) (*capture.Result, error) {
	opts := capture.Options{Project: engine.Project, Stack: stack.Name}
	if stack.AWS != nil {
		opts.Region, opts.Account = stack.AWS.Region, stack.AWS.Account
	}
	return capture.Run(func(ctx *pulumi.Context) error { return targets[stack.Target](ctx, stack, home) }, opts)
}

// keepGraph keeps what an `up` is about to make, for `postern drift`.
func keepGraph(stack *stacks.Stack, home home.Folder) error {
	result, err := captured(stack, home)
	if err != nil {
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

func describe(out io.Writer, g *graph.Graph) error {
	resources, components := 0, 0
	for i := range g.Resources {
		if g.Resources[i].Custom {
			resources++
		} else {
			components++
		}
	}
	if _, err := fmt.Fprintf(out, "stack %s, offline: %d resources in %d components\n", g.Stack, resources, components); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := g.Print(out); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := cost.Of(g).Print(out); err != nil {
		return fmt.Errorf("print the plan: %w", err)
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
