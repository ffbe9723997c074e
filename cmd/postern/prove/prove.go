// Package prove is the command that proves what a stack lets out: see package proof. It does the
// work for stacks on this machine, for states, and for what exists in an account. For a stack in a
// cloud the Pulumi program does, which declares the network.
package prove

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/stacks"
)

// Here does what it can without the Pulumi program. It reports false if that program must.
// becomeCloud runs the same command with drivers of clouds.
func Here(
	cmd *cobra.Command, r *drive.Request, becomeCloud func(context.Context, io.Writer, string) error,
) (bool, error) {
	if r.State != "" {
		return true, state(cmd, r)
	}
	if r.Live {
		return true, live(cmd, r, becomeCloud)
	}
	file, err := stacks.Choose(r.File, r.Stack)
	if err != nil {
		return true, err
	}
	if r.Sign || r.Verify {
		home, err := file.Home()
		if err == nil && !bundle.Linked(home.BundleURL()) {
			err = becomeCloud(cmd.Context(), cmd.ErrOrStderr(), "the bundle store is "+home.BundleURL())
		}
		switch {
		case err != nil:
			return true, err
		case r.Verify:
			return true, verify(cmd, r, file, publish.Operator(home, nil))
		}
		return true, sign(cmd, r, file, publish.Operator(home, nil))
	}
	stack, err := file.Load()
	if err != nil {
		return true, err
	}
	if stack.Target != stacks.TargetLocal {
		return false, nil
	}
	report, err := proof.Of(stack, nil, sandboxes(stack.Plan))
	if err != nil {
		return true, err
	}
	return true, report.Deliver(cmd.OutOrStdout(), r.JSON, r.SVG)
}

// state proves what somebody saved.
func state(cmd *cobra.Command, r *drive.Request) error {
	in := cmd.InOrStdin()
	if r.State != "-" {
		text, err := hostpath.ReadFile(r.State, graph.MostBytes)
		if err != nil {
			return fmt.Errorf("read the state: %w", err)
		}
		in = bytes.NewReader(text)
	}
	defer proof.Slowly(cmd.ErrOrStderr(), "reading the state, and trying every mistake ...")()
	g, err := graph.Read(in)
	if err != nil {
		return fmt.Errorf("%s: %w", r.State, err)
	}
	report, err := proof.Of(nil, g, nil)
	if err != nil {
		return err
	}
	return report.Deliver(cmd.OutOrStdout(), r.JSON, r.SVG)
}

// sandboxes says what a command of each agent reaches on this machine, as `postern run` would start
// it.
func sandboxes(p *plan.Plan) []reach.Verdict {
	out := []reach.Verdict{}
	for i := range p.Agents {
		a := &p.Agents[i]
		v := reach.Verdict{
			Assertion: a.Name + " -> a network: never, but by its own socket at the proxies", Result: reach.Holds,
		}
		how, err := run.NoNetwork(a.RuntimeOrDefault())
		if err != nil {
			v.Result, v.Note = reach.Fails, err.Error()
		} else {
			v.Note = fmt.Sprintf("%s: %s; this trusts the kernel and the runtime of this machine, and a command that "+
				"`postern run` starts", a.RuntimeOrDefault(), how)
		}
		out = append(out, v)
	}
	return out
}
