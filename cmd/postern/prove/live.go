package prove

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// live proves what exists in an account. Without a stack, the networks that are named are
// somebody's own: then no stack file is read.
func live(
	cmd *cobra.Command, r *drive.Request, becomeCloud func(context.Context, io.Writer, string) error,
) error {
	var file *stacks.File
	var stack *stacks.Stack
	target, networks, account, region := stacks.TargetAWS, cloud.Networks{IDs: r.VPCs}, "", ""
	if r.Stack != "" || r.File != "" || len(r.VPCs) == 0 {
		var err error
		if file, err = stacks.Choose(r.File, r.Stack); err != nil {
			return err
		}
		if err := publish.RefuseProposal(file); err != nil { // it says which account is asked
			return err
		}
		if stack, err = file.Load(); err != nil {
			return err
		}
		if stack.AWS == nil {
			return fmt.Errorf("%s: its target is %s: --live is for stacks with target: aws", stack.Path, stack.Target)
		}
		target, account, region = stack.Target, stack.AWS.Account, stack.AWS.Region
		networks.Stack = stack.Name
	}
	if !cloud.Linked(target) {
		return becomeCloud(cmd.Context(), cmd.ErrOrStderr(), "the network is in a cloud: "+target)
	}
	defer proof.Slowly(cmd.ErrOrStderr(), "reading what exists, and trying every mistake ...")()
	open, err := cloud.Open(cmd.Context(), target, account, region)
	if err != nil {
		return err
	}
	g, missing, err := open.Live(cmd.Context(), networks, steps(cmd.ErrOrStderr()))
	if err != nil {
		return err
	}
	var unread []reach.Unknown
	for _, u := range missing {
		unread = append(unread, reach.Unknown{Resource: u.Action, Type: "question", Why: "not answered: " + u.Why})
	}
	report, err := proof.Live(stack, g, unread)
	if err != nil {
		return err
	}
	if stack != nil {
		if err := compare(cmd, r, file, stack, report); err != nil {
			return err
		}
	}
	return report.Deliver(cmd.OutOrStdout(), r.JSON, r.SVG)
}

// compare compares with a plan: that of a file, or the one that this machine has brought up last.
func compare(
	cmd *cobra.Command, r *drive.Request, file *stacks.File, stack *stacks.Stack, report *proof.Report,
) error {
	from := r.Graph
	if from == "" {
		folder, err := file.Home()
		if err != nil && !errors.Is(err, home.ErrUnclaimed) {
			return err
		}
		from = folder.GraphFile()
	}
	text, err := hostpath.ReadFile(from, graph.MostBytes)
	if errors.Is(err, fs.ErrNotExist) && r.Graph == "" {
		visible.Println(cmd.ErrOrStderr(), "this machine has not brought the stack up: name its plan with "+
			"--graph to compare what each control refuses")
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	g, err := graph.Decode(bytes.NewReader(text))
	if err == nil && g.Stack != report.Stack {
		err = fmt.Errorf("it is a plan of stack %s, not of %s", g.Stack, report.Stack)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	plan, err := proof.Of(stack, g, nil)
	if err != nil {
		return err
	}
	report.Compare(plan)
	return nil
}

// steps returns a function that says on w what is read, as soon as the step before took a second.
func steps(w io.Writer) func(string) {
	since := time.Now()
	return func(what string) {
		if now := time.Now(); now.Sub(since) > time.Second {
			visible.Printf(w, "reading %s ...\n", what)
			since = now
		}
	}
}
