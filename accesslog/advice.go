package accesslog

import (
	"strings"

	"github.com/postern/postern/plan"
)

// Said holds what people are told about a reason.
type Said struct {
	// Means says what the reason means, for the documentation.
	Means string
	// Message is for the agent.
	Message string
	// Hint says what can be done. HOST, AGENT and URL stand for those of the request, and STACK for
	// the flag that names the stack: see [Hint].
	Hint string
}

const (
	denied = "denied by policy"
	audits = "an operator sees why with: postern audit --agent AGENT STACK"
	status = "an operator sees why with: postern status STACK"
)

// Advice holds what people are told about each reason.
var Advice = map[plan.Reason]Said{
	plan.ReasonAllowed: {"a rule allows the request", "", ""},
	plan.ReasonAgent:   {"the live version of the policy has no such agent", denied, status},
	plan.ReasonHost: {
		"no rule of the agent names the host and port", denied,
		"an operator can allow it: postern allow HOST --agent AGENT STACK",
	},
	plan.ReasonMethod: {
		"rules name the host, but not the method, or not this method for this path", denied,
		"an operator can allow it: postern allow HOST --agent AGENT STACK --method METHOD --path PATH",
	},
	plan.ReasonPath: {
		"rules name the host and method, but not this path", denied,
		"an operator can allow it: postern allow HOST --agent AGENT STACK --method METHOD --path PATH",
	},
	plan.ReasonCondition: {
		"rules name the host and path, but their query or header conditions are not met", denied,
		"an operator can see why: postern explain URL --agent AGENT STACK",
	},
	plan.ReasonAmbiguous: {
		"servers read this request in different ways, or it asks for two different things", denied,
		"servers read this path, query, header or body in different ways: write it plainly, and send no body with GET or " +
			"HEAD; docs/policy.md says how",
	},
	plan.ReasonDenied: {
		"a rule with `deny: true` matches", denied,
		"an operator can see why: postern explain URL --agent AGENT STACK",
	},
	plan.ReasonScheme: {
		"plain HTTP to a destination that is not a gateway", denied,
		"use https, or a gateway: an operator can give the destination one with gateway: PORT in the stack file",
	},
	plan.ReasonName: {
		"CONNECT, TLS server name and Host do not name the same destination; it may also be an attack", denied,
		"CONNECT, server name (SNI) and Host header must name the same destination",
	},
	plan.ReasonKilled: {
		"an operator has killed the agent", denied,
		"an operator can let it work again: postern unkill --agent AGENT STACK",
	},
	plan.ReasonAddress: {
		"the host resolves to a private or metadata address", denied,
		"its address is private or a metadata address; " +
			"an operator can name the destination's address with upstream: in the stack file",
	},
	plan.ReasonCredential: {
		"the secret is unavailable; nothing was sent", "the credential for this destination is unavailable", status,
	},
	plan.ReasonUpstream: {
		"the destination cannot be reached, or its certificate does not verify",
		"the destination cannot be reached, or its certificate does not verify", audits,
	},
	plan.ReasonTLS: {
		"the client does not trust the CA, or asked for a name outside the policy", denied,
		"the client must trust the proxy's CA; docs/troubleshooting.md says how",
	},
	plan.ReasonLimit: {
		"a limit of the policy, or a bound of the node, is exceeded", "a limit of the policy is exceeded",
		"an operator can raise the limit with limits: in the stack file",
	},
	plan.ReasonEnded: {
		"the rule that allows this has ended, and the control plane has not taken it away",
		"the rule that allowed this has ended", status,
	},
	plan.ReasonUnrecorded: {
		"the node's supervisor does not take Envoy's log: it hangs, or waits for its disk",
		"the proxy cannot record decisions at present, so it refuses every request", status,
	},
	plan.ReasonMalformed: {
		"Envoy cannot read the request", "the request is malformed or too large", audits,
	},
	plan.ReasonUnsent: {
		"the request ended before it was sent anywhere: the client left, or the node stopped", "", audits,
	},
	plan.ReasonUnknown: {
		"Envoy ended the request itself; the policy was not the reason",
		"the request failed at the proxy", audits,
	},
}

// Words are what a hint is about. What is "" stays as [Advice] writes it.
type Words struct {
	// Postern is how an operator starts postern.
	Postern string
	// About is the flag, with a space before it, that names the stack.
	About string
	Agent string
	Host  string
	// URL is one word of a shell.
	URL string
}

// InStack returns the flag by which a command of postern is about the stack, with a space before,
// or "" if the stack has no name.
func InStack(stack string) string {
	if stack == "" {
		return ""
	}
	return " --stack=" + stack
}

// Hint returns what can be done about a decision with that reason, or "" if there is no hint, or if
// it needs a host and there is none.
func Hint(reason plan.Reason, w Words) string {
	return w.In(Advice[reason].Hint)
}

// In returns the hint with the words.
func (w Words) In(hint string) string {
	if w.Host == "" && strings.Contains(hint, "HOST") {
		return ""
	}
	pairs := []string{" STACK", w.About}
	for word, by := range map[string]string{"postern": w.Postern, "AGENT": w.Agent, "HOST": w.Host, "URL": w.URL} {
		if by != "" {
			pairs = append(pairs, word, by)
		}
	}
	return strings.NewReplacer(pairs...).Replace(hint)
}
