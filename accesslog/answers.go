package accesslog

import (
	"strings"

	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// The verdicts on a request.
const (
	// Allow: a rule allows the request, and an upstream was tried.
	Allow = "allow"
	// Deny: the policy, or a bound of the proxy, refuses the request.
	Deny = "deny"
	// Error: neither. The proxy ended the request, or the agent left before an upstream was tried.
	Error = "error"
)

// Answer says what follows if a request ends in one of several ways with the same outcome.
type Answer struct {
	// Details identify the ways: the prefixes of Envoy's response code details.
	Details []string
	Verdict string
	// Reason is "" if the route has the reason.
	Reason plan.Reason
	// Sent, if not "", is the reason if an upstream was tried before. The request was allowed then.
	Sent plan.Reason
	// Status is the status that the agent gets, or 0 for Envoy's own status.
	Status uint32
	// ByDefault means that the agent's default rule answers, and not the rule of the route.
	ByDefault bool
	// Tells means that the agent is told Envoy's details, which are about its own request.
	Tells bool
	// Message and Hint, unless Message is "", replace the reason's message and hint: see [Advice].
	Message, Hint string
}

// Answers has each known way in which a request can end. The first answer with a matching entry in
// Details decides. The local replies of Envoy, the events of package audit and the table in
// docs/reference-reasons.md come from this table.
var Answers = []Answer{
	{Details: []string{"direct_response"}, Verdict: Deny, Status: 403, Message: denied},
	{Details: []string{"via_upstream"}, Verdict: Allow, Reason: plan.ReasonAllowed},
	// Envoy passes on the status of an upstream that does not upgrade, and not its body.
	{
		Details: []string{"websocket_handshake_unsuccessful"}, Verdict: Allow, Reason: plan.ReasonAllowed,
		Message: "the destination did not accept the WebSocket: " +
			"the status is the destination's, its body is not passed on",
	},

	// The names of the connection do not agree, so no scope has their key.
	{Details: []string{"route_not_found"}, Verdict: Deny, Reason: plan.ReasonName, Status: 403, ByDefault: true},
	// Envoy calls it unavailable, and clients would try again.
	{
		Details: []string{"dns_resolution_failure{address_denied}"},
		Verdict: Deny, Reason: plan.ReasonAddress, Status: 403,
	},
	{Details: []string{guard.Ambiguous}, Verdict: Deny, Reason: plan.ReasonAmbiguous, Status: 403, ByDefault: true},
	{Details: []string{guard.Ended}, Verdict: Deny, Reason: plan.ReasonEnded, Status: 403},
	// The only filter that answers 401 is the injector; to a client, 401 is its own fault.
	{Details: []string{"failed_to_inject_credential"}, Verdict: Deny, Reason: plan.ReasonCredential, Status: 502},
	{Details: []string{guard.Unrecorded}, Verdict: Deny, Reason: plan.ReasonUnrecorded, Status: 503, ByDefault: true},
	{
		Details: []string{
			"local_rate_limited",
			// More at once than the destination's breaker lets through.
			"upstream_reset_before_response_started{overflow}",
			// More names at once than are looked up for one agent, and more than are kept.
			"dynamic_forward_proxy_pending_request_overflow", "dns_cache_overflow",
		},
		Verdict: Deny, Reason: plan.ReasonLimit, Status: 429, Tells: true,
	},
	{
		// More open at once than may take of the node's memory.
		Details: []string{guard.Full}, Verdict: Deny, Reason: plan.ReasonLimit, Status: 429, ByDefault: true, Tells: true,
		Message: "the agent has too much open at once: its part of the node's memory is taken",
		Hint:    "read answers to their end, and close connections that are not used",
	},
	{
		Details: []string{guard.MadeUp}, Verdict: Deny, Reason: plan.ReasonLimit, Status: 429, ByDefault: true, Tells: true,
		Message: "the agent has connected to too many different hosts below wildcards",
		Hint:    "an operator can allow hosts by their names: postern allow HOST --agent AGENT",
	},
	{Details: []string{"request_payload_too_large"}, Verdict: Deny, Reason: plan.ReasonLimit, Status: 413, Tells: true},

	// The route allows it, the connection manager does not.
	{
		Details: []string{"upgrade_failed"},
		Verdict: Deny, Reason: plan.ReasonMalformed, Status: 403, ByDefault: true, Tells: true,
		Message: "only upgrades to WebSocket are supported",
	},
	// A body in parts that the agent has signed itself.
	{
		Details: []string{guard.SignedBody},
		Verdict: Deny, Reason: plan.ReasonMalformed, Status: 422, ByDefault: true, Tells: true,
		Message: "the request cannot be signed again",
		Hint: "the client has signed parts of the body: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, " +
			"and turn its chunked encoding off",
	},
	{
		Details: []string{
			guard.Failed, "missing_host_header", "invalid_path", "path_normalization_failed", "absolute_path_rejected",
			"low_version", "request_header_timeout",
		},
		Verdict: Deny, Reason: plan.ReasonMalformed, ByDefault: true, Tells: true,
	},

	// The agent left, or Envoy closed its connection: a kill, or the node stops.
	{
		Details: []string{
			"downstream_remote_disconnect", "http2.remote_reset", "http2.remote_refuse", "downstream_local_disconnect",
		},
		Verdict: Error, Reason: plan.ReasonUnsent, Sent: plan.ReasonAllowed,
	},
	// Nothing has come for an hour.
	{Details: []string{"stream_idle_timeout"}, Verdict: Error, Reason: plan.ReasonUnsent, Sent: plan.ReasonUpstream},
	// Envoy's codecs end these. A body can turn out malformed after its head was sent on.
	{
		Details: []string{"http.", "http1.", "http2."},
		Verdict: Deny, Reason: plan.ReasonMalformed, Sent: plan.ReasonMalformed, ByDefault: true, Tells: true,
	},
	{
		Details: []string{
			"dns_resolution_failure", "upstream_reset_before_response_started", "upstream_reset_after_response_started",
			// It failed, and more of the body had come than is kept for the next try.
			"request_payload_exceeded_retry_buffer_limit",
		},
		Verdict: Allow, Reason: plan.ReasonUpstream,
	},
}

// Unknown is the answer for every other way: the proxy has failed, not the policy.
var Unknown = Answer{Verdict: Error, Reason: plan.ReasonUnknown}

// Lasting is the answer for a request that has not ended.
var Lasting = Answer{Verdict: Error, Reason: plan.ReasonUnsent, Sent: plan.ReasonAllowed}

// AnswerTo returns the answer for Envoy's response code details.
func AnswerTo(details string) *Answer {
	for i := range Answers {
		for _, begin := range Answers[i].Details {
			if strings.HasPrefix(details, begin) {
				return &Answers[i]
			}
		}
	}
	return &Unknown
}

// Replies reports whether Envoy answers the agent itself.
func (a *Answer) Replies() bool {
	return a.Message != "" || a.Reason != plan.ReasonAllowed && a.Sent != plan.ReasonAllowed
}

// Told returns the reason that the agent is told, or "" if the route has the reason.
func (a *Answer) Told() plan.Reason {
	if a.Sent != "" {
		return a.Sent
	}
	return a.Reason
}

// Says returns the message for the agent, and the hint.
func (a *Answer) Says() (message, hint string) {
	said := Advice[a.Told()]
	message, hint = said.Message, said.Hint
	if a.Message != "" {
		message, hint = a.Message, a.Hint
	}
	return message, hint
}
