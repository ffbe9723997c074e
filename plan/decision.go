package plan

// Request is one request as an agent makes it.
type Request struct {
	Agent string
	// Scheme is "https" (CONNECT or captured TLS, intercepted), or "http"
	// (a plain request to the proxy or to a gateway port).
	Scheme string
	// Host and Port are where the request is addressed to: of the CONNECT
	// authority for https, of the URL or Host header for http. For a gateway
	// they are "localhost" or "127.0.0.1" and the gateway's port.
	Host string
	Port uint16
	// SNI and Authority are the names inside an https connection; "" means
	// the same as Host (and Port).
	SNI, Authority string
	Method         string
	// Path is the path as sent, without the query, and Query the query
	// without its question mark.
	Path, Query string
	// Header holds the request's headers by lower-case name, as far as rules or
	// [target.Overrides] ask for them.
	Header map[string][]string
}

// Reason says why a decision fell as it did. It is part of every event.
type Reason string

// The reasons that the policy itself gives.
const (
	// ReasonAllowed: a rule matched.
	ReasonAllowed Reason = "allowed"
	// ReasonAgent: there is no such agent in the plan.
	ReasonAgent Reason = "agent_unknown"
	// ReasonHost: no rule of the agent names the host and port.
	ReasonHost Reason = "host_not_allowed"
	// ReasonMethod: rules name the host, but none the method, or none both the method and
	// the path although one names the path.
	ReasonMethod Reason = "method_not_allowed"
	// ReasonPath: rules name the host, and one the method, but none the path.
	ReasonPath Reason = "path_not_allowed"
	// ReasonCondition: a rule names host, path and method, but not all of its
	// conditions hold.
	ReasonCondition Reason = "condition_not_met"
	// ReasonAmbiguous: a rule allows the request, but some server reads it as
	// another: see [target.Check].
	ReasonAmbiguous Reason = "ambiguous_request"
	// ReasonDenied: a rule that denies matched.
	ReasonDenied Reason = "denied_by_rule"
	// ReasonScheme: plain HTTP to anything but a gateway.
	ReasonScheme Reason = "plain_http_not_allowed"
	// ReasonName: CONNECT, SNI and Host do not name the same destination.
	ReasonName Reason = "name_mismatch"
)

// The reasons that only the data plane can give, after the policy allowed.
const (
	// ReasonKilled: an operator has stopped the agent.
	ReasonKilled Reason = "agent_killed"
	// ReasonAddress: the host resolved to a private or metadata address.
	ReasonAddress Reason = "address_not_allowed"
	// ReasonCredential: the rule's credential could not be had (fail closed).
	ReasonCredential Reason = "credential_unavailable"
	// ReasonUpstream: the destination could not be reached or verified.
	ReasonUpstream Reason = "upstream_failed"
	// ReasonTLS: the agent's TLS handshake with the proxy failed.
	ReasonTLS Reason = "tls_handshake_failed"
	// ReasonLimit: a limit of the rule is exhausted.
	ReasonLimit Reason = "limit_exceeded"
	// ReasonUnrecorded: the node cannot record what it decides, so it decides nothing.
	ReasonUnrecorded Reason = "not_recorded"
	// ReasonMalformed: the request could not be parsed.
	ReasonMalformed Reason = "malformed_request"
	// ReasonUnsent: a rule allows the request, but it ended before it was sent anywhere.
	ReasonUnsent Reason = "not_sent"
	// ReasonUnknown: Envoy has ended the request itself, for a reason that is not the policy's.
	ReasonUnknown Reason = "proxy_error"
)

// Reasons are all there are.
var Reasons = []Reason{
	ReasonAllowed, ReasonAgent, ReasonHost, ReasonMethod, ReasonPath, ReasonCondition, ReasonAmbiguous, ReasonDenied, ReasonScheme, ReasonName,
	ReasonKilled, ReasonAddress, ReasonCredential, ReasonUpstream, ReasonTLS, ReasonLimit, ReasonMalformed, ReasonUnrecorded, ReasonUnsent, ReasonUnknown,
}

// Decision is the verdict on a request. The zero value denies.
type Decision struct {
	Allow bool `json:"allow"`
	// Rule is the ID of the rule that decided; [DefaultRule] if none matched.
	Rule   string `json:"rule"`
	Reason Reason `json:"reason"`
	// Credential is the name of the credential that is injected, or "".
	Credential string `json:"credential,omitempty"`
	// Nearest is, for a denial, the ID of the rule that came closest, or "".
	Nearest string `json:"nearest,omitempty"`
}
