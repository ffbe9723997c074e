package accesslog

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestAnswerTo: what follows from each of Envoy's words, written out. What the words are, TestAnswers in
// tests/dataplane asks Envoy.
func TestAnswerTo(t *testing.T) {
	t.Parallel()
	const (
		malformed = "deny malformed_request  0 by default, tells, replies: malformed_request"
		broken    = "deny malformed_request malformed_request 0 by default, tells, replies: malformed_request"
		limited   = "deny limit_exceeded  429 tells, replies: limit_exceeded"
		failed    = "allow upstream_failed  0 replies: upstream_failed"
		left      = "error not_sent allowed 0 "
		unknown   = "error proxy_error  0 replies: proxy_error"
	)
	for details, want := range map[string]string{
		"direct_response":                                       "deny   403 replies: ",
		"via_upstream":                                          "allow allowed  0 ",
		"websocket_handshake_unsuccessful":                      "allow allowed  0 replies: allowed",
		"route_not_found":                                       "deny name_mismatch  403 by default, replies: name_mismatch",
		"dns_resolution_failure{address_denied}":                "deny address_not_allowed  403 replies: address_not_allowed",
		"guard_ambiguous":                                       "deny ambiguous_request  403 by default, replies: ambiguous_request",
		"guard_ended":                                           "deny rule_ended  403 replies: rule_ended",
		"failed_to_inject_credential":                           "deny credential_unavailable  502 replies: credential_unavailable",
		"guard_unrecorded":                                      "deny not_recorded  503 by default, replies: not_recorded",
		"local_rate_limited":                                    limited,
		"upstream_reset_before_response_started{overflow}":      limited,
		"dynamic_forward_proxy_pending_request_overflow":        limited,
		"dns_cache_overflow":                                    limited,
		"request_payload_too_large":                             "deny limit_exceeded  413 tells, replies: limit_exceeded",
		"guard_full":                                            "deny limit_exceeded  429 by default, tells, replies: limit_exceeded",
		"guard_made_up":                                         "deny limit_exceeded  429 by default, tells, replies: limit_exceeded",
		"upgrade_failed":                                        "deny malformed_request  403 by default, tells, replies: malformed_request",
		"guard_signed_body":                                     "deny malformed_request  422 by default, tells, replies: malformed_request",
		"guard_failed":                                          malformed,
		"missing_host_header":                                   malformed,
		"invalid_path":                                          malformed,
		"path_normalization_failed":                             malformed,
		"absolute_path_rejected":                                malformed,
		"low_version":                                           malformed,
		"request_header_timeout":                                malformed,
		"downstream_remote_disconnect":                          left,
		"downstream_local_disconnect(on_idle_timeout)":          left,
		"http2.remote_reset":                                    left,
		"http2.remote_refuse":                                   left,
		"stream_idle_timeout":                                   "error not_sent upstream_failed 0 replies: upstream_failed",
		"http.invalid_authority":                                broken,
		"http1.codec_error":                                     broken,
		"http2.too_many_headers":                                broken,
		"dns_resolution_failure{resolve_timeout}":               failed,
		"upstream_reset_before_response_started{reset_reason}":  failed,
		"upstream_reset_after_response_started{protocol_error}": failed,
		"request_payload_exceeded_retry_buffer_limit":           failed,
		"overload of the node":                                  unknown,
		"a via_upstream that comes later":                       unknown,
	} {
		a := AnswerTo(details)
		said := ""
		if a.ByDefault {
			said += "by default, "
		}
		if a.Tells {
			said += "tells, "
		}
		if a.Replies() {
			said += "replies: " + string(a.Told())
		}
		require.Equal(t, want, fmt.Sprintf("%s %s %s %d %s", a.Verdict, a.Reason, a.Sent, a.Status, said), details)
	}
	require.Equal(t, &Unknown, AnswerTo(""))
	require.Equal(t, Answer{Verdict: Error, Reason: plan.ReasonUnsent, Sent: plan.ReasonAllowed}, Lasting)
}

func TestSays(t *testing.T) {
	t.Parallel()
	for details, want := range map[string][2]string{
		"direct_response": {"denied by policy", ""}, // the route says it
		"websocket_handshake_unsuccessful": {
			"the destination did not accept the WebSocket: " +
				"the status is the destination's, its body is not passed on", "",
		},
		"upgrade_failed": {"only upgrades to WebSocket are supported", ""},
		"guard_signed_body": {
			"the request cannot be signed again",
			"the client has signed parts of the body: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and turn its chunked encoding off",
		},
		"request_payload_too_large": {
			"a limit of the policy is exceeded", "an operator can raise the limit with limits: in the stack file",
		},
		"stream_idle_timeout": {
			"the destination cannot be reached, or its certificate does not verify",
			"an operator sees why with: postern audit --agent AGENT STACK",
		},
		"overload": {"the request failed at the proxy", "an operator sees why with: postern audit --agent AGENT STACK"},
	} {
		message, hint := AnswerTo(details).Says()
		require.Equal(t, want, [2]string{message, hint}, details)
	}
}

func TestHint(t *testing.T) {
	t.Parallel()
	w := Words{About: " --stack=work", Agent: "demo", Host: "a.test", URL: "'https://a.test/$x'"}
	require.Equal(t, "an operator can allow it: postern allow a.test --agent demo --stack=work", Hint(plan.ReasonHost, w))
	require.Equal(t, "an operator sees why with: postern status --stack=work", Hint(plan.ReasonCredential, w))
	require.Equal(t, "an operator can see why: postern explain 'https://a.test/$x' --agent demo --stack=work",
		Hint(plan.ReasonDenied, w))
	require.Empty(t, Hint("other", w))
	w.Postern, w.Host = "~/bin/postern", ""
	require.Empty(t, Hint(plan.ReasonHost, w), "there is nothing to paste")
	require.Equal(t, "an operator sees why with: ~/bin/postern status --stack=work", Hint(plan.ReasonCredential, w))
	require.Equal(t, "an operator can allow it: postern allow HOST --agent demo --stack=local",
		Hint(plan.ReasonHost, Words{About: InStack("local"), Agent: "demo", Host: "HOST"}))
	for _, r := range plan.Reasons {
		require.NotEmpty(t, Advice[r].Means, r)
		// An agent that is refused is told so, and what can be done.
		told := r != plan.ReasonAllowed && r != plan.ReasonUnsent
		require.Equal(t, told, Advice[r].Message != "", r)
		require.Equal(t, r != plan.ReasonAllowed, Advice[r].Hint != "", r)
	}
	require.Len(t, Advice, len(plan.Reasons))
}
