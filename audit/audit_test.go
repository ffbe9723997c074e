package audit

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, line string
		want       *Event // nil: not a decision
	}{
		{
			"allowed", `{"k":"request","t":"1795416854.918","agent":"a","method":"GET","authority":"api.test","path":"/v1","route":"allowed api.test:443 key api","status":200,"flags":"-","details":"via_upstream","rx":3,"tx":5,"ms":7}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Credential: "key", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 200, Sent: 3, Received: 5, Millis: 7},
		},
		{
			"an upstream's own 503 is not ours", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443  api","status":503,"flags":"-","details":"via_upstream"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 503},
		},
		{
			"unreachable", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443  api","status":503,"flags":"UF","tries":3,"details":"upstream_reset_before_response_started{remote_connection_failure}","failure":"CERTIFICATE_VERIFY_FAILED"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Verdict: Allow, Reason: plan.ReasonUpstream, Detail: "upstream_reset_before_response_started{remote_connection_failure} CERTIFICATE_VERIFY_FAILED", Status: 503},
		},
		{
			"private address", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":503,"flags":"UH","details":"dns_resolution_failure{address_denied}"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonAddress, Status: 503},
		},
		{
			"denied CONNECT", `{"k":"request","agent":"a","method":"CONNECT","authority":"evil.test:443","path":"/","route":"host_not_allowed   default","status":403,"flags":"-"}`,
			&Event{Agent: "a", Host: "evil.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonHost, Status: 403},
		},
		{
			"query is dropped", `{"k":"request","agent":"a","method":"GET","authority":"x.test","path":"/a?key=s3cr3t","route":"plain_http_not_allowed   default","status":403}`,
			&Event{Agent: "a", Host: "x.test:80", Method: "GET", Path: "/a", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonScheme, Status: 403},
		},
		{
			"malformed", `{"k":"request","agent":"a","status":400,"flags":"DPE","details":"http1.codec_error"}`,
			&Event{Agent: "a", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonMalformed, Detail: "http1.codec_error", Status: 400},
		},
		{
			"an upgrade that is none of ours", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":403,"flags":"-","details":"upgrade_failed"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonMalformed, Detail: "upgrade_failed", Status: 403},
		},
		{
			"a server name without a CONNECT",
			`{"k":"request","agent":"a","method":"GET","authority":"b.test","sni":"b.test","details":"http1.codec_error"}`,
			&Event{
				Agent: "a", Host: "b.test:443", Method: "GET", Rule: "a/default", Verdict: Deny,
				Reason: plan.ReasonMalformed, Detail: "http1.codec_error",
			},
		},
		{
			"a CONNECT without a server name",
			`{"k":"request","agent":"a","method":"GET","authority":"b.test","connect":"b.test:443","details":"http1.x"}`,
			&Event{
				Agent: "a", Host: "b.test:443", Method: "GET", Rule: "a/default", Verdict: Deny,
				Reason: plan.ReasonMalformed, Detail: "http1.x",
			},
		},
		{
			"names disagree", `{"k":"request","agent":"a","method":"GET","authority":"b.test","connect":"a.test:443","sni":"b.test","status":403,"flags":"NR","details":"route_not_found"}`,
			&Event{Agent: "a", Host: "b.test:443", Method: "GET", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonName, Detail: "connect a.test:443, server name b.test, host b.test", Status: 403},
		},
		{
			"client does not trust us", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"a.test","failure":"TLS_error:|268436504:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"}`,
			&Event{Agent: "a", Host: "a.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonTLS, Detail: "TLS_error:|268436504:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"},
		},
		{
			"more at once than an agent may", `{"k":"request","agent":"a","method":"CONNECT","authority":"a.test:443","status":503,"flags":"UO","details":"upstream_reset_before_response_started{overflow}"}`,
			&Event{Agent: "a", Host: "a.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "upstream_reset_before_response_started{overflow}", Status: 503},
		},
		{
			"faster than an agent may", `{"k":"request","agent":"a","method":"CONNECT","authority":"a.test:443","status":429,"flags":"RL","details":"local_rate_limited"}`,
			&Event{Agent: "a", Host: "a.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "local_rate_limited", Status: 429},
		},
		{
			"more at once than a rule allows", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":503,"flags":"UO","details":"upstream_reset_before_response_started{overflow}"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "upstream_reset_before_response_started{overflow}", Status: 503},
		},
		{
			"more requests than a rule allows", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":429,"flags":"RL","details":"local_rate_limited"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "local_rate_limited", Status: 429},
		},
		{
			"a body that is larger, to a gRPC client", `{"k":"request","agent":"a","method":"POST","path":"/v1","route":"allowed api.test:443 key api","status":200,"flags":"-","details":"request_payload_too_large"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "POST", Path: "/v1", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "request_payload_too_large", Status: 200},
		},
		{
			"a body that is larger", `{"k":"request","agent":"a","method":"POST","path":"/v1","route":"allowed api.test:443 key api","status":413,"flags":"-","details":"request_payload_too_large"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "POST", Path: "/v1", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "request_payload_too_large", Status: 413},
		},
		{
			"an upstream's own 413 is not ours", `{"k":"request","agent":"a","method":"POST","path":"/v1","route":"allowed api.test:443 key api","status":413,"flags":"-","details":"via_upstream"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "POST", Path: "/v1", Rule: "a/api", Credential: "key", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 413},
		},
		{
			"no credential", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":401,"flags":"-","details":"failed_to_inject_credential"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Verdict: Deny, Reason: plan.ReasonCredential, Status: 401},
		},
		{
			"the guard finds two meanings", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":403,"flags":"-","details":"guard_ambiguous"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonAmbiguous, Status: 403},
		},
		{
			"the guard refuses", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":422,"flags":"-","details":"guard_signed_body"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonMalformed, Detail: "guard_signed_body", Status: 422},
		},
		{"what the guard has not recorded", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":429,"details":"guard_unrecorded"}`, nil},
		{
			"an answer that breaks off", `{"k":"request","agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443 key api","status":200,"flags":"UR","details":"via_upstream"}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Credential: "key", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 200},
		},
		{
			"a tunnel", `{"k":"tunnel","tries":1,"agent":"a","connect":"t.test:443","rule":"a/t","flags":"-","details":"-","rx":3,"tx":5,"ms":7}`,
			&Event{Agent: "a", Host: "t.test:443", Method: "CONNECT", Rule: "a/t", Verdict: Allow, Reason: plan.ReasonAllowed, Sent: 3, Received: 5, Millis: 7},
		},
		{
			"a tunnel without an answer",
			`{"k":"tunnel","tries":1,"agent":"a","connect":"t.test:443","rule":"a/t","flags":"-","rx":3}`,
			&Event{
				Agent: "a", Host: "t.test:443", Method: "CONNECT", Rule: "a/t", Verdict: Allow, Reason: plan.ReasonAllowed,
				Sent: 3,
			},
		},
		{
			"a tunnel that nobody waited for",
			`{"k":"tunnel","tries":0,"agent":"a","connect":"t.test:443","rule":"a/t","flags":"DC","tx":1}`,
			&Event{
				Agent: "a", Host: "t.test:443", Method: "CONNECT", Rule: "a/t", Verdict: Error, Reason: plan.ReasonUpstream,
				Detail: "DC", Received: 1,
			},
		},
		{
			"a tunnel to nobody", `{"k":"tunnel","tries":1,"agent":"a","connect":"t.test:443","rule":"a/t","flags":"UF","details":"x","failure":"refused"}`,
			&Event{Agent: "a", Host: "t.test:443", Method: "CONNECT", Rule: "a/t", Verdict: Allow, Reason: plan.ReasonUpstream, Detail: "UF x refused"},
		},
		{
			"a tunnel that breaks off", `{"k":"tunnel","tries":1,"agent":"a","connect":"t.test:443","rule":"a/t","flags":"UF","tx":1}`,
			&Event{Agent: "a", Host: "t.test:443", Method: "CONNECT", Rule: "a/t", Verdict: Allow, Reason: plan.ReasonAllowed, Received: 1},
		},
		{
			"a stream, meanwhile", `{"k":"request","type":"DownstreamPeriodic","t":"1795416854.918","conn":7,"agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443  api","status":200,"flags":"-","tries":1,"ms":1500}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 200, Millis: 1500, Stream: "1795416854.918-7", State: StillOpen, Time: time.UnixMilli(1795416856418).UTC()},
		},
		{
			"a stream's end", `{"k":"request","type":"DownstreamEnd","t":"1795416854.918","conn":7,"agent":"a","method":"GET","path":"/v1","route":"allowed api.test:443  api","status":200,"flags":"-","details":"via_upstream","tries":1,"ms":1500}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Path: "/v1", Rule: "a/api", Verdict: Allow, Reason: plan.ReasonAllowed, Status: 200, Millis: 1500, Stream: "1795416854.918-7", State: Ended, Time: time.UnixMilli(1795416854918).UTC()},
		},
		{"a denial, meanwhile", `{"k":"request","type":"DownstreamPeriodic","agent":"a","method":"GET","authority":"x.test","route":"plain_http_not_allowed   default","status":403}`, nil},
		{
			"a server name that is another one", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"b.test"}`,
			&Event{Agent: "a", Host: "a.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonName, Detail: "server name b.test"},
		},
		{
			"not TLS", `{"k":"connection","agent":"a","connect":"a.test:443","flags":"NR","failure":"filter_chain_not_found"}`,
			&Event{Agent: "a", Host: "a.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Deny, Reason: plan.ReasonTLS, Detail: "filter_chain_not_found"},
		},
		{
			"a name that leads nowhere", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":503,"flags":"DF","details":"dns_resolution_failure{cares_norecords}","tries":0}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Credential: "key", Verdict: Allow, Reason: plan.ReasonUpstream, Detail: "dns_resolution_failure{cares_norecords}", Status: 503},
		},
		{
			"the agent left in time", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":0,"flags":"DC","details":"downstream_remote_disconnect","tries":0}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Verdict: Error, Reason: plan.ReasonUnsent, Detail: "downstream_remote_disconnect"},
		},
		{
			"the agent left before the request was whole",
			`{"k":"request","agent":"a","method":"GET","authority":"x.test","details":"downstream_remote_disconnect"}`,
			&Event{
				Agent: "a", Host: "x.test:80", Method: "GET", Rule: "a/default", Verdict: Deny,
				Reason: plan.ReasonMalformed, Detail: "downstream_remote_disconnect",
			},
		},
		{
			"the agent left later", `{"k":"request","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":0,"flags":"DC","details":"downstream_remote_disconnect","tries":1}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "GET", Rule: "a/api", Credential: "key", Verdict: Allow, Reason: plan.ReasonAllowed},
		},
		{
			"too much, after the beginning was sent", `{"k":"request","agent":"a","method":"POST","route":"allowed api.test:443 key api","status":413,"flags":"-","details":"request_payload_too_large","tries":1}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "POST", Rule: "a/api", Credential: "key", Verdict: Deny, Reason: plan.ReasonLimit, Detail: "request_payload_too_large", Status: 413},
		},
		{
			"a CONNECT that leads to nothing", `{"k":"request","agent":"a","method":"CONNECT","authority":"api.test:443","route":"connect","status":503,"flags":"UF","details":"upstream_reset_before_response_started{x}","tries":1}`,
			&Event{Agent: "a", Host: "api.test:443", Method: "CONNECT", Rule: "a/default", Verdict: Error, Reason: plan.ReasonUnknown, Detail: "upstream_reset_before_response_started{x}", Status: 503},
		},
		{"a request that waits for a name", `{"k":"request","type":"DownstreamPeriodic","agent":"a","method":"GET","route":"allowed api.test:443 key api","status":0,"tries":0}`, nil},
		{
			"a tunnel to nowhere", `{"k":"tunnel","agent":"a","connect":"db.test:443","rule":"a/db","flags":"UH","tries":0}`,
			&Event{Agent: "a", Host: "db.test:443", Method: "CONNECT", Rule: "a/db", Verdict: Error, Reason: plan.ReasonUpstream, Detail: "UH"},
		},
		{"connection that carried requests", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"a.test","rx":120,"tx":300,"failure":"TLS_error:|system_library:Connection_reset_by_peer"}`, nil},
		{"connection that broke after requests", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"a.test",` +
			`"rx":1,"failure":"TLS_error:|1:SSL_routines:OPENSSL_internal:x:TLS_error_end"}`, nil},
		{"connection that broke after answers", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"b.test",` +
			`"tx":1,"flags":"NR"}`, nil},
		{"connection that came to nothing", `{"k":"connection","agent":"a","connect":"a.test:443","sni":"a.test"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := decode([]byte(c.line))
			require.NoError(t, err)
			if got != nil {
				got.tried = false
				if c.want.Time.IsZero() {
					got.Time = time.Time{}
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// unknown are response code details that Envoy 1.40 can write and the table does not know: nothing here is
// configured to cause them.
var unknown = []string{
	"", "-", "admin_filter_response", "cluster_not_found", "drop_overload", "duration_timeout", "dynamic_forward_proxy_cluster_is_gone", "early_connect_data",
	"empty_host_header", "filter_added_invalid_request_data", "filter_added_invalid_response_data", "filter_chain_not_found",
	"filter_removed_required_request_headers", "filter_removed_required_response_headers", "internal_redirect", "maintenance_mode",
	"max_duration_timeout", "missing_path_rejected", "no_healthy_upstream", "overload", "request_headers_failed_strict_check", "request_overall_timeout",
	"response_payload_too_large", "response_timeout", "route_configuration_not_found", "sub_cluster_overflow", "sub_cluster_warming_timeout",
	"unconditional_drop_overload", "upstream_max_stream_duration_reached", "upstream_per_try_idle_timeout", "upstream_per_try_timeout", "guard_of_a_later_version", "direct_response",
}

// TestUnknown: a request that a rule allows, and that ended in a way which nobody has thought of, was not allowed.
func TestUnknown(t *testing.T) {
	t.Parallel()
	for _, details := range unknown {
		for _, tries := range []string{"0", "1"} {
			for _, flags := range []string{"-", "UH", "DC", "UO"} {
				for _, route := range []string{"allowed api.test:443 key api", "connect", ""} {
					e, err := decode([]byte(`{"k":"request","agent":"a","type":"DownstreamEnd","method":"GET","route":"` + route + `","status":200,"flags":"` + flags + `","details":"` + details + `","tries":` + tries + `}`))
					require.NoError(t, err)
					require.Equal(t, Error, e.Verdict, "%+v", e)
					require.Equal(t, plan.ReasonUnknown, e.Reason, "%+v", e)
					require.Equal(t, route == "allowed api.test:443 key api" && tries == "1", e.Credential == "key", "%+v", e)
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"k":"request","t":"1.5","method":"GET","authority":"a:b:c","path":"?"}`))
	f.Add([]byte(`{"k":"connection","connect":"[::1","sni":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err == nil && e != nil {
			require.Contains(t, []string{Allow, Deny, Error}, e.Verdict)
			require.NotEmpty(t, e.Reason)
			require.NotContains(t, e.Path, "?")
		}
	})
}

const denied = `{"k":"request","t":"1795416854.918","agent":"a","method":"CONNECT","authority":"evil.test:443","route":"host_not_allowed   default","status":403}` + "\n"

func TestFollow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan Event)
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, dir, Filter{Agent: "a", Host: "evil.test", Denied: true}, func(e Event) error { got <- e; return nil })
	}()
	for _, node := range []string{"n1", "n2"} {
		w, err := NewWriter(dir, node)
		require.NoError(t, err)
		require.NoError(t, w.Copy(strings.NewReader(strings.ReplaceAll(denied, `"a"`, `"b"`)+denied)))
		require.NoError(t, w.Close())
		require.Equal(t, node, (<-got).Node)
	}
	cancel()
	require.NoError(t, <-done)
}

func TestFilter(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	e := &Event{Time: at, Agent: "a", Host: "api.test:443", Verdict: Allow, Rule: "a/api", Status: 204}
	for f, want := range map[Filter]bool{
		{}:                               true,
		{Agent: "a"}:                     true,
		{Agent: "b"}:                     false,
		{Host: "api.test"}:               true,
		{Host: "api.test:443"}:           true,
		{Host: "test"}:                   false,
		{Denied: true}:                   false,
		{Since: at}:                      true,
		{Since: at.Add(time.Nanosecond)}: false,
		{Until: at.Add(time.Nanosecond)}: true,
		{Until: at}:                      false,
		{Verdict: Allow}:                 true,
		{Verdict: Deny}:                  false,
		{Rule: "a/api"}:                  true,
		{Rule: "a"}:                      false,
		{Status: 204}:                    true,
		{Status: 200}:                    false,
	} {
		require.Equal(t, want, f.Match(e), "%+v", f)
	}
}

// TestRecord: a change of the policy is one event, however often it is told.
func TestRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 { // and in another process
		w, err := NewWriter(dir, ControlPlane)
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, w.Record(Event{Kind: "lease-ended", ID: "lease-ended/a/one", Agent: "a", Rule: "a/one", Why: "the release", Publication: 7}))
		}
		require.NoError(t, w.Close())
	}
	events, err := Read(dir, Filter{})
	require.NoError(t, err)
	require.Equal(t, []Event{{
		Seq: 1, Node: ControlPlane, Verdict: Change, Kind: "lease-ended", ID: "lease-ended/a/one", Agent: "a", Rule: "a/one", Why: "the release", Publication: 7,
	}}, events)
}
