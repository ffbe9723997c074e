package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/explain"
	"github.com/postern/postern/plan"
)

func newEffectiveCmd() *cobra.Command {
	var agent string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "effective --agent A",
		Short: "List everything that an agent may do, and where each rule comes from",
		Long: `Lists every rule of an agent in the order in which the rules are asked: rules that deny come first.
For each rule it shows the line of the stack file, the preset if there is one, the credential, the
limits and the end. What is not in the list is denied.`,
		Example: `  postern effective --agent coder
  postern effective --agent coder --json | jq '.[] | select(.credential)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stack, _, err := openStack(cmd)
			if err != nil {
				return err
			}
			rules, err := explain.Effective(stack, agent, time.Now())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(w).Encode(rules)
			}
			printEffective(w, agent, rules)
			return nil
		},
	}
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent (required)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the rules as JSON")
	_ = cmd.MarkFlagRequired("agent")
	return cmd
}

func printEffective(w io.Writer, agent string, rules []explain.EffectiveRule) {
	if len(rules) == 0 {
		fmt.Fprintf(w, "%s may do nothing\n", agent)
		return
	}
	for _, r := range rules {
		verb := "may"
		if r.Deny {
			verb = "may never"
		}
		fmt.Fprintf(w, "%s %s %s\n", agent, verb, r.What())
		note := func(key, value string) {
			if value != "" {
				fmt.Fprintf(w, "    %-11s %s\n", key+":", value)
			}
		}
		note("rule", explain.WithSource(r.ID, r.Source))
		note("if", explain.Conditions(&r.Rule))
		if r.Credential != "" {
			note("credential", r.Credential+", "+r.Sends)
		}
		if r.OwnCredentials {
			note("credential", "what the agent itself sends")
		}
		if r.Gateway != 0 {
			note("gateway", fmt.Sprintf("http://localhost:%d", r.Gateway))
		}
		if r.Upstream != nil {
			note("at", r.Upstream.Address)
		}
		note("limits", explain.Limits(r.Limits))
		if r.Expired {
			note("expired", r.Expires)
		} else {
			note("until", r.Expires)
		}
		note("reason", r.Reason)
		note("owner", r.Owner)
	}
	fmt.Fprintf(w, "everything else is denied by %s\n", plan.DefaultRule(agent))
}
