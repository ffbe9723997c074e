package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/postern/postern/plan"
)

func newExplainCmd() *cobra.Command {
	var agent, method string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [-X METHOD] URL --agent A",
		Short: "Say whether an agent may make a request, and why",
		Long: `Says what the policy of the stack file decides on a request, by which rule and for which
reason. It asks the stack file, not the fleet: what is written but not published yet counts.

Exit status 0 if the request is allowed, 1 if it is denied.`,
		Example: `  postern explain https://api.example.com/v1/users --agent demo
  postern explain -X POST http://localhost:8080/v1/messages --agent demo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stack, _, _, err := openStack(cmd)
			if err != nil {
				return err
			}
			r, err := parseRequest(agent, method, args[0])
			if err != nil {
				return usageError{err}
			}
			d := stack.Plan.Decide(r)
			w := cmd.OutOrStdout()
			if asJSON {
				if err := json.NewEncoder(w).Encode(d); err != nil {
					return err
				}
			} else {
				verdict := "denied"
				if d.Allow {
					verdict = "allowed"
				}
				fmt.Fprintf(w, "%s: %s\n", verdict, d.Reason)
				fmt.Fprintf(w, "rule:       %s\n", withSource(d.Rule, stack.Source(d.Rule)))
				if d.Credential != "" {
					fmt.Fprintf(w, "credential: %s is injected\n", d.Credential)
				}
				if d.Nearest != "" {
					fmt.Fprintf(w, "nearest:    %s\n", withSource(d.Nearest, stack.Source(d.Nearest)))
				}
				if d.Reason == plan.ReasonHost || d.Reason == plan.ReasonMethod || d.Reason == plan.ReasonPath {
					fmt.Fprintf(w, "to allow:   %s\n", allowCommand(r))
				}
			}
			if !d.Allow {
				return fmt.Errorf("%s may not %s %s", agent, method, args[0])
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent that makes the request (required)")
	cmd.Flags().StringVarP(&method, "request", "X", "GET", "the method")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the decision as JSON")
	_ = cmd.MarkFlagRequired("agent")
	return cmd
}

// parseRequest reads the URL as an agent's client would.
func parseRequest(agent, method, raw string) (plan.Request, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return plan.Request{}, fmt.Errorf("%q is not a URL that starts with https:// or http://", raw)
	}
	r := plan.Request{Agent: agent, Scheme: u.Scheme, Host: u.Hostname(), Port: 443, Method: method, Path: u.EscapedPath()}
	if u.Scheme == "http" {
		r.Port = 80
	}
	if u.Port() != "" {
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || n == 0 {
			return plan.Request{}, fmt.Errorf("%q: a port is a number from 1 to 65535", raw)
		}
		r.Port = uint16(n)
	}
	if r.Path == "" {
		r.Path = "/"
	}
	return r, nil
}

func allowCommand(r plan.Request) string {
	host := r.Host
	if r.Port != 443 {
		host += ":" + strconv.Itoa(int(r.Port))
	}
	return fmt.Sprintf("postern allow %s --agent %s --method %s --path '%s'", host, r.Agent, r.Method, r.Path)
}

func withSource(rule, source string) string {
	if source == "" {
		return rule
	}
	return rule + " (" + source + ")"
}
