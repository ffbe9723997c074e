package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/explain"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newEffectiveCmd() *cobra.Command {
	var agent string
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "effective [--agent A] [--all]",
		Short: "List everything that an agent may do, and where each rule comes from",
		Long: `Lists every rule of an agent in the order in which the rules are asked: rules that deny come first.
For each rule it shows the line of the stack file, the preset if there is one, the credential, the
limits and the end. What is not in the list is denied. With --all it also shows what has ended. Then
it says what isolates the agent's commands, if they run on this machine, and which tools the agent has
outside its sandbox.`,
		Example: `  postern effective
  postern effective --json | jq '.rules[] | select(.credential)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stack, _, err := openStack(cmd)
			if err != nil {
				return err
			}
			if agent, _, err = stacks.ChooseAgent(stack.Plan, agent); err != nil {
				return err
			}
			effective, err := explain.Effective(stack, agent, time.Now())
			if err != nil {
				return err
			}
			if !all {
				effective.Rules = slices.DeleteFunc(effective.Rules, func(r explain.EffectiveRule) bool { return r.Expired })
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return visible.Encode(w, effective, "")
			}
			effective.Print(w)
			return nil
		},
	}
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent (default: $POSTERN_AGENT, or the only one)")
	cmd.Flags().BoolVar(&all, "all", false, "also show what has ended")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}
