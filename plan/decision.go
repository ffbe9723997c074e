package plan

// Request is one request as an agent sends it.
type Request struct {
	Agent string
	// Scheme is "https" (CONNECT or captured TLS, intercepted), or "http"
	// (a plain request to the proxy or to a gateway port).
	Scheme string
	// Host and Port are the request's address: CONNECT's host for https, the URL or Host header for
	// http. For a gateway they are "localhost" or "127.0.0.1" and the gateway's port.
	Host string
	Port uint16
	// SNI and Authority are the names inside an https connection. "" means that of Host.
	SNI, Authority string
	Method         string
	// Path is the path as sent, without the query. Query is the query without its question mark.
	Path, Query string
	// Header holds the request's headers by lower-case name. It needs only the headers that rules
	// or [target.Overrides] ask for.
	Header map[string][]string
}

// Reason says why a request was decided as it was. Every event has one.
type Reason string

// The reasons that the policy itself gives.
const (
	// ReasonAllowed: a rule matched.
	ReasonAllowed Reason = "allowed"
	// ReasonAgent: there is no such agent in the plan.
	ReasonAgent Reason = "agent_unknown"
	// ReasonHost: no rule of the agent names the host and port.
	ReasonHost Reason = "host_not_allowed"
	// ReasonMethod: rules name the host, but none names the method; or one names the path, but none
	// names both the method and the path.
	ReasonMethod Reason = "method_not_allowed"
	// ReasonPath: rules name the host, and one names the method, but none names the path.
	ReasonPath Reason = "path_not_allowed"
	// ReasonCondition: a rule names host, path and method, but not all of its conditions hold.
	ReasonCondition Reason = "condition_not_met"
	// ReasonAmbiguous: a rule allows the request, but some server reads the request differently:
	// see [target.Check].
	ReasonAmbiguous Reason = "ambiguous_request"
	// ReasonDenied: a rule that denies matched.
	ReasonDenied Reason = "denied_by_rule"
	// ReasonScheme: plain HTTP to a destination that is not a gateway.
	ReasonScheme Reason = "plain_http_not_allowed"
	// ReasonName: CONNECT, SNI and Host do not name the same destination.
	ReasonName Reason = "name_mismatch"
)

// The reasons that only the data plane can give, after the policy has allowed the request.
const (
	// ReasonKilled: an operator has killed the agent.
	ReasonKilled Reason = "agent_killed"
	// ReasonAddress: the host resolved to a private or metadata address.
	ReasonAddress Reason = "address_not_allowed"
	// ReasonCredential: the rule's credential was unavailable (fail closed).
	ReasonCredential Reason = "credential_unavailable"
	// ReasonUpstream: the destination could not be reached or verified.
	ReasonUpstream Reason = "upstream_failed"
	// ReasonTLS: the agent's TLS handshake with the proxy failed.
	ReasonTLS Reason = "tls_handshake_failed"
	// ReasonLimit: a limit of the rule is exhausted.
	ReasonLimit Reason = "limit_exceeded"
	// ReasonEnded: the rule has ended, and the control plane has not taken it away.
	ReasonEnded Reason = "rule_ended"
	// ReasonUnrecorded: the node cannot record its decisions, so it refuses every request.
	ReasonUnrecorded Reason = "not_recorded"
	// ReasonMalformed: the request could not be parsed.
	ReasonMalformed Reason = "malformed_request"
	// ReasonUnsent: a rule allows the request, but it ended before it was sent anywhere.
	ReasonUnsent Reason = "not_sent"
	// ReasonUnknown: Envoy ended the request itself; the policy was not the reason.
	ReasonUnknown Reason = "proxy_error"
)

// Reasons lists all reasons.
var Reasons = []Reason{
	ReasonAllowed, ReasonAgent, ReasonHost, ReasonMethod, ReasonPath, ReasonCondition, ReasonAmbiguous, ReasonDenied, ReasonScheme, ReasonName,
	ReasonKilled, ReasonAddress, ReasonCredential, ReasonUpstream, ReasonTLS, ReasonLimit, ReasonMalformed, ReasonEnded, ReasonUnrecorded, ReasonUnsent, ReasonUnknown,
}

// Decision is the verdict on a request. The zero value denies.
type Decision struct {
	Allow bool `json:"allow"`
	// Rule is the ID of the rule that decided; [DefaultRule] if none matched.
	Rule   string `json:"rule"`
	Reason Reason `json:"reason"`
	// Credential is the name of the injected credential, or "".
	Credential string `json:"credential,omitempty"`
	// Nearest is the ID of the rule that came closest to allowing a denied request, or "".
	Nearest string `json:"nearest,omitempty"`
}
