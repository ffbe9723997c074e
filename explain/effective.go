package explain

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// Agent is everything that an agent may do, and what isolates its commands.
type Agent struct {
	Agent string `json:"agent"`
	// Runtime, Image and Workspace are those of commands on this machine. A stack elsewhere has
	// none.
	Runtime   plan.Runtime    `json:"runtime,omitempty"`
	Image     string          `json:"image,omitempty"`
	Workspace *plan.Workspace `json:"workspace,omitempty"`
	// Rules are in the order in which they are asked: rules that deny come first.
	Rules []EffectiveRule `json:"rules"`
	// Git are the repositories of its git outside the sandbox, and Tools the programs that run for
	// it there.
	Git   []string    `json:"git,omitempty"`
	Tools []tool.Tool `json:"tools,omitempty"`
}

// EffectiveRule is one rule of an agent, with what people ask about it.
type EffectiveRule struct {
	plan.Rule
	// Source is the place of the rule.
	Source  string `json:"source"`
	Expired bool   `json:"expired,omitempty"`
	// Sends says how the credential is sent.
	Sends string `json:"sends,omitempty"`
}

// Effective returns everything that the agent may do.
func Effective(stack *stacks.Stack, agent string, now time.Time) (*Agent, error) {
	a, err := stack.Agent(agent)
	if err != nil {
		return nil, err
	}
	alive := map[string]bool{}
	for _, r := range (&plan.Plan{Agents: []plan.Agent{*a}}).At(now).Agents[0].Rules {
		alive[r.ID] = true
	}
	out := []EffectiveRule{}
	for _, r := range a.Rules {
		e := EffectiveRule{Rule: r, Source: stack.Source(r.ID), Expired: !alive[r.ID]}
		if r.Credential != "" {
			e.Sends = Sends(stack.Plan, r.Credential)
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b EffectiveRule) int {
		switch {
		case a.Deny == b.Deny:
			return 0
		case a.Deny:
			return -1
		}
		return 1
	})
	e := &Agent{Agent: agent, Rules: out}
	if stack.Target == stacks.TargetLocal {
		w := a.WorkspaceOrDefault()
		e.Runtime, e.Image, e.Workspace = a.RuntimeOrDefault(), a.Image, &w
		e.Git, e.Tools = a.Git, a.Tools
	}
	return e, nil
}

// runs says what isolates the agent's commands, or "".
func (a *Agent) runs() string {
	switch {
	case a.Runtime == "":
		return ""
	case a.Image != "":
		return fmt.Sprintf("its commands run under %s, in image %s, with workspace %s", a.Runtime, a.Image, a.Workspace)
	}
	return fmt.Sprintf("its commands run under %s, with workspace %s", a.Runtime, a.Workspace)
}

// Print writes what the agent may do, for people.
func (a *Agent) Print(w io.Writer) {
	agent := a.Agent
	for _, r := range a.Rules {
		verb := "may"
		if r.Deny {
			verb = "may never"
		}
		visible.Printf(w, "%s %s %s\n", agent, verb, r.What())
		note := func(key, value string) {
			if value != "" {
				visible.Printf(w, "    %-11s %s\n", key+":", value)
			}
		}
		note("rule", WithSource(r.ID, r.Source))
		note("if", Conditions(&r.Rule))
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
			at := r.Upstream.Address
			if r.Upstream.Plain {
				at += ", over plain HTTP"
			}
			note("at", at)
		}
		note("limits", Limits(r.Limits))
		if r.Expired {
			note("expired", r.Expires)
		} else {
			note("until", r.Expires)
		}
		note("reason", r.Reason)
		note("owner", r.Owner)
	}
	if len(a.Rules) > 0 {
		visible.Printf(w, "everything else is denied by %s\n", plan.DefaultRule(agent))
	} else {
		visible.Printf(w, "%s may do nothing\n", agent)
	}
	if runs := a.runs(); runs != "" {
		visible.Println(w, runs)
	}
	if len(a.Git) > 0 {
		visible.Printf(w, "git runs for it outside its sandbox, for %s\n", strings.Join(a.Git, ", "))
	}
	for _, t := range a.Tools {
		visible.Printf(w, "tool %s runs for it outside its sandbox: %s\n", t.Name, strings.Join(t.Command, " "))
	}
}
