package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/explain"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newExplainCmd() *cobra.Command {
	var agent, method string
	var query, headers []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [-X METHOD] URL [--agent A]",
		Short: "Show whether an agent may make a request, and why",
		Long: `Shows what the policy of the stack file decides on a request: the rule, the layer, the reason and the
credential. For a denial it also shows the nearest rule, and what would have to change.

It asks the stack file, not the fleet: changes that are not published count. There is one exception.
Whether an agent is killed is read from what is published. A killed agent may do nothing.`,
		Example: `  postern explain https://api.example.com/v1/users
  postern explain -X POST http://localhost:8080/v1/messages
  postern explain https://git.example.com/a/b/info/refs --query service=git-upload-pack
  postern explain wss://api.example.com/live --header 'Upgrade: websocket'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stack, home, err := openStack(cmd)
			if err != nil {
				return err
			}
			if agent, _, err = stacks.ChooseAgent(stack.Plan, agent); err != nil {
				return err
			}
			if _, err := stack.Agent(agent); err != nil {
				return err
			}
			r, err := explain.ParseRequest(agent, method, args[0], query, headers)
			if err != nil {
				return exit.BadUsage(err)
			}
			e := explain.Request(stack, r, time.Now())
			killed, err := isKilled(cmd, home, agent)
			if err != nil {
				visible.Printf(cmd.ErrOrStderr(), "note: it is not known whether %s is killed: %v\n", agent, err)
			}
			if killed {
				e.Kill(stack.File, agent)
			}
			w := cmd.OutOrStdout()
			if asJSON {
				if err := visible.Encode(w, e, ""); err != nil {
					return err
				}
			} else {
				printExplanation(w, &e)
			}
			if !e.Allow {
				return fmt.Errorf("%s may not %s %s", agent, method, args[0])
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent that makes the request (default: $POSTERN_AGENT, or the only one)")
	cmd.Flags().StringVarP(&method, "request", "X", "GET", "the method")
	cmd.Flags().StringArrayVar(&query, "query", nil, "a query parameter, as NAME=VALUE, in addition to those of the URL")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a request header, as 'NAME: VALUE'")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the explanation as JSON")
	return cmd
}

// isKilled reports whether the newest publication stops the agent.
func isKilled(cmd *cobra.Command, home home.Folder, agent string) (bool, error) {
	if _, err := os.Stat(home.Root); errors.Is(err, fs.ErrNotExist) {
		return false, nil // nothing was ever published
	}
	o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
	defer cancel()
	b, err := o.Newest(ctx)
	if errors.Is(err, bundle.ErrNone) {
		return false, nil
	}
	return err == nil && b.Killed.Agent(agent), err
}

func printExplanation(w io.Writer, e *explain.Explanation) {
	verdict := "denied"
	if e.Allow {
		verdict = "allowed"
	}
	line := func(key, value string) {
		if value != "" {
			visible.Printf(w, "%-11s %s\n", key, value)
		}
	}
	visible.Printf(w, "%s: %s\n", verdict, e.Reason)
	if e.Rule != "" {
		line("rule:", explain.WithSource(e.Rule, e.Source))
	}
	line("decided by:", e.Layer)
	if e.Credential != "" {
		line("credential:", e.Credential+" is sent, "+e.Sends)
	}
	if e.Nearest != "" {
		line("nearest:", explain.WithSource(e.Nearest, e.NearestSource))
	}
	for _, t := range e.Then {
		line("then:", t)
	}
	for _, c := range e.Change {
		line("to allow:", c)
	}
}
