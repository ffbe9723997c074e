package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/clients"
	"github.com/postern/postern/stacks/edit"
	"github.com/postern/postern/visible"
)

// editFlags are the flags that allow and revoke share.
type editFlags struct {
	agent, client     string
	dryRun, noPublish bool
	yes, withOthers   bool
	learned           bool // see [publish.Review.Learned]
}

func (f *editFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.agent, "agent", "a", "", "the agent whose access changes (default: $POSTERN_AGENT, or the only one)")
	cmd.Flags().StringVar(&f.client, "client", "", "take the hosts from the configuration of a package client on this machine: "+strings.Join(clients.Names(), ", "))
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().BoolVar(&f.noPublish, "no-publish", false, "only edit the file; `postern push` makes it live")
	cmd.Flags().BoolVar(&f.withOthers, "with-other-changes", false, "also publish other changes of the stack file that are not live")
	addYes(cmd, &f.yes)
	_ = cmd.RegisterFlagCompletionFunc("client", cobra.FixedCompletions(clients.Names(), cobra.ShellCompDirectiveNoFileComp))
}

// hosts returns the hosts of the command line and of the client.
func (f *editFlags) hosts(ctx context.Context, args []string) ([]stacks.HostPort, error) {
	if len(args) == 0 && f.client == "" {
		return nil, exit.BadUsage(errors.New("no host: name one, or a --client whose hosts to take"))
	}
	var hosts []stacks.HostPort
	for _, arg := range args {
		hp, err := stacks.ParseHostPort(arg)
		if err != nil {
			return nil, exit.BadUsage(err)
		}
		hosts = append(hosts, hp)
	}
	if f.client == "" {
		return hosts, nil
	}
	more, err := stacks.ClientHosts(ctx, f.client)
	if err != nil {
		return nil, err
	}
	return append(hosts, more...), nil
}

func newAllowCmd() *cobra.Command {
	var flags editFlags
	var methods, paths []string
	var lease time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "allow [HOST[:PORT]]... [--agent A] [--method M,...] [--path P,...] [--client CLIENT] [--for D] [--reason R]",
		Short: "Allow an agent to reach a host, while it runs",
		Long: `Edits the stack file and keeps its comments and order. Shows the whole difference to what is live,
and publishes it. Returns when every node has acknowledged it. If a node refuses it, the file gets
its old content back.

If the file has other changes that are not live, nothing is changed (exit status 5), unless you give
--with-other-changes. Changes of high risk need an answer on the terminal, or --yes. A stack file that
an agent may write is only a proposal: it always needs an answer on a terminal (exit status 3).

Without --method every method is allowed (with --client: GET and HEAD). Without --path every path is
allowed. A path is literal, with two exceptions: * is one segment, and ** at the end is any rest. A
host is one name, or '*.example.com' for every name below it.

If the agent reaches the host already, what is added leads there in the same way: to the same upstream,
by the same gateway, with the same credential. The difference names them.

With --for the access ends by itself. If the agent has, or had, just this access for a time, its end is
moved. What has ended is taken out of the file.`,
		Example: `  postern allow api.example.com
  postern allow api.example.com:8443 --method GET,HEAD --path '/v1/**'
  postern allow api.example.com --for 30m --reason "the release"
  postern allow --client pip --agent coder
  postern allow api.example.com --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := stackFile(cmd)
			if err != nil {
				return err
			}
			hosts, err := flags.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			if flags.client != "" && len(methods) == 0 {
				methods = clients.Methods
			}
			request := edit.AllowRequest{
				Agent: flags.agent, Hosts: hosts, Methods: methods, Paths: paths, Reason: reason,
			}
			if cmd.Flags().Changed("for") {
				if lease < time.Second {
					return exit.BadUsage(errors.New("--for is how long from now, such as 30m or 2h"))
				}
				request.Expires = time.Now().Add(lease)
			}
			edited, err := edit.Allow(file, request)
			if err != nil {
				return err
			}
			return flags.apply(cmd, edited)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringSliceVarP(&methods, "method", "m", nil, "methods to allow, such as GET,HEAD (default: every method; with --client: GET and HEAD)")
	cmd.Flags().DurationVar(&lease, "for", 0, "for how long, such as 30m (default: until it is revoked)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people who read the stack file")
	cmd.Flags().StringSliceVarP(&paths, "path", "p", nil, "path patterns to allow, such as '/v1/**' (default: every path)")
	return cmd
}

// apply makes the edit live. It shows the whole difference to what is live, asks a person where
// that is required, writes the file and publishes the plan. If the fleet does not take the plan, it
// restores the file.
func (f *editFlags) apply(cmd *cobra.Command, edited *edit.Edit) error {
	w := cmd.OutOrStdout()
	for _, text := range edited.Lookalikes() {
		visible.Println(cmd.ErrOrStderr(), "warning:", text)
	}
	for _, text := range edited.Ended {
		visible.Println(cmd.ErrOrStderr(), "note:", text)
	}
	if f.noPublish && !f.dryRun {
		return onlyEdit(w, edited)
	}
	home, err := edited.Home()
	if err != nil {
		return err
	}
	o, live, err := openLive(cmd, home, edited.Old)
	if err != nil {
		return err
	}
	others := plan.Diff(live.Plan, edited.Old)
	if f.dryRun {
		publish.PrintChanges(w, edited.Changes())
		if live.Seq > 0 && len(others) > 0 {
			visible.Printf(w, "also in %s, and not live:\n", edited.Path)
			publish.PrintChanges(w, others)
		}
		return nil
	}
	for _, c := range o.Controls {
		if _, err := c.Status(cmd.Context()); err != nil {
			return fmt.Errorf("the fleet is not up, so nothing was changed (%w): run `%s` first, or add --no-publish to only edit the file",
				err, edited.Command("up"))
		}
	}
	switch {
	case len(edited.Changes()) == 0 && len(others) == 0:
		visible.Printf(w, "nothing to change: %s already says this, and it is live\n", edited.Path)
		return nil
	case len(others) > 0 && !f.withOthers:
		visible.Println(w, "asked for:")
		publish.PrintChanges(w, edited.Changes())
		visible.Printf(w, "also in %s, and not live:\n", edited.Path)
		publish.PrintChanges(w, others)
		return &publish.OtherChangesError{File: edited.Path, Count: len(others), Push: edited.Command("push")}
	}
	r := review(cmd, edited.File, home, plan.Diff(live.Plan, edited.Plan), f.yes)
	r.Learned = f.learned
	r.Print(w)
	if err := r.Ask(cmd.Context()); err != nil {
		return err
	}
	if err := edited.Write(); err != nil {
		return err
	}
	if err := publishPlan(cmd.Context(), w, o, home, edited.Plan); isPartial(err) {
		return err // it is published
	} else if err != nil {
		err = publish.Refused(err, edited.Source)
		if back := edited.Restore(); back != nil {
			return fmt.Errorf("%w; %s could not be restored: %w", err, edited.Path, back)
		}
		return fmt.Errorf("%w; %s is as it was before", err, edited.Path)
	}
	return home.Claim(edited.File.Owner())
}

// onlyEdit publishes nothing.
func onlyEdit(w io.Writer, edited *edit.Edit) error {
	changes := edited.Changes()
	if len(changes) == 0 {
		visible.Printf(w, "nothing to change: %s already says this\n", edited.Path)
		return nil
	}
	if err := edited.Write(); err != nil {
		return err
	}
	publish.PrintChanges(w, changes)
	visible.Printf(w, "%s is edited, not published: run `%s`\n", edited.Path, edited.Command("push"))
	return nil
}
