package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cmd/postern/records"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// errDrift makes the exit status 1. Failures have the status 2 here, as in diff.
var errDrift = errors.New("the account is not what was planned")

func newDriftCmd() *cobra.Command {
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "drift [--graph FILE]",
		Short: "Compare what is live in AWS with the plan, and list every difference by risk",
		Long: `Reads security group rules, routes, network ACLs, endpoints, gateways, machines and roles of the
stack's networks, whoever made them, and compares them with the plan. A refresh does not see what was
added by hand next to the plan's own resources. Nothing is changed.`,
		Example: `  postern drift -s prod-aws
  postern preview prod-aws --offline --graph plan.json && postern drift -s prod-aws --graph plan.json --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := drift(cmd, from, asJSON)
			if err != nil && !errors.Is(err, errDrift) {
				return exit.BadUsage(err)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&from, "graph", "", "compare with this plan instead of the one that was brought up last (postern preview STACK --offline --graph FILE)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the differences as JSON")
	return cmd
}

func drift(cmd *cobra.Command, from string, asJSON bool) error {
	stack, home, err := openAWS(cmd)
	if err != nil {
		return err
	}
	g, err := readGraph(stack, home, from)
	if err != nil {
		return err
	}
	account, err := openAccount(cmd.Context(), stack, stack.AWS.Region)
	if err != nil {
		return err
	}
	found, err := account.Drift(cmd.Context(), g)
	if err != nil {
		return err
	}
	if err := printDrift(cmd.OutOrStdout(), stack, found, asJSON); err != nil {
		return err
	}
	if len(found) > 0 {
		return errDrift
	}
	return nil
}

// openAWS loads the stack that the global flags name. It must be on AWS.
func openAWS(cmd *cobra.Command) (*stacks.Stack, home.Folder, error) {
	stack, home, err := openStack(cmd)
	if err != nil {
		return nil, home, err
	}
	if stack.AWS == nil {
		return nil, home, fmt.Errorf("%s: its target is %s: this command is for stacks with target: aws", stack.Path, stack.Target)
	}
	return stack, home, nil
}

// readGraph reads the plan from a file, or as it was brought up last.
func readGraph(stack *stacks.Stack, home home.Folder, from string) (*graph.Graph, error) {
	if from == "" {
		from = home.GraphFile()
	}
	f, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: write it with `postern preview %s --offline --graph FILE`, and name it with --graph", from, stack.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	defer f.Close()
	g, err := graph.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if g.Stack != stack.Name {
		return nil, fmt.Errorf("%s is a plan of stack %s, not of %s", from, g.Stack, stack.Name)
	}
	return g, nil
}

func printDrift(w io.Writer, stack *stacks.Stack, found []cloud.Difference, asJSON bool) error {
	if asJSON {
		if found == nil {
			found = []cloud.Difference{}
		}
		return visible.Encode(w, struct {
			Stack       string             `json:"stack"`
			Account     string             `json:"account"`
			Region      string             `json:"region"`
			Differences []cloud.Difference `json:"differences"`
		}{stack.Name, stack.AWS.Account, stack.AWS.Region, found}, "  ")
	}
	if len(found) == 0 {
		visible.Printf(w, "stack %s in %s of account %s is as planned\n",
			stack.Name, stack.AWS.Region, stack.AWS.Account)
	}
	for _, f := range found {
		where := f.Resource
		if f.ID != "" {
			where += " (" + f.ID + ")"
		}
		visible.Printf(w, "%-8s  %s: %s\n          %s\n",
			f.Risk, records.Plain(where), records.Plain(f.What), records.Plain(f.Do))
	}
	return nil
}
