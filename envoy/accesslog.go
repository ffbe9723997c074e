package envoy

import (
	"fmt"
	"maps"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// AccessLogPath is where Envoy writes its log, relative to the working folder
// of the node: a FIFO whose reader is the node's supervisor.
const AccessLogPath = "access.fifo"

// The kinds of log line: field "k".
const (
	// LogRequest is a request that was decided by a route.
	LogRequest = "request"
	// LogConnection is a connection to the internal listener. Only one whose
	// handshake failed is a decision.
	LogConnection = "connection"
	// LogTunnel is a tunnel that has ended.
	LogTunnel = "tunnel"
)

// flushInterval is how often the log tells of a request or a tunnel that lasts. What ends
// sooner gives one line.
const flushInterval = 5 * time.Second

// requestFields are an explicit list: a header in the log is a header that
// could hold a credential (envoy.md, section A, trap 3). The path is without
// its query, which can hold one too. Package audit decodes them.
func requestFields(agent string) map[string]string {
	return map[string]string{
		"k":         LogRequest,
		"t":         "%START_TIME(%s.%6f)%",
		"conn":      "%CONNECTION_ID%",
		"type":      "%ACCESS_LOG_TYPE%",
		"agent":     agent,
		"method":    "%REQ(:METHOD)%",
		"authority": "%REQ(:AUTHORITY)%",
		"path":      "%PATH(NQ:PATH)%",
		"route":     "%ROUTE_NAME%",
		"status":    "%RESPONSE_CODE%",
		"flags":     "%RESPONSE_FLAGS%",
		"details":   "%RESPONSE_CODE_DETAILS%",
		"failure":   "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"rx":        "%BYTES_RECEIVED%",
		"tx":        "%BYTES_SENT%",
		"ms":        "%DURATION%",
	}
}

// agentLog leaves out the CONNECTs that were accepted, or may be: the decisions are those
// on the requests inside, and there is one event for each decision.
func (b *builder) agentLog(agent string) *accesslogv3.AccessLog {
	notConnect := methods([]string{"CONNECT"})
	notConnect.InvertMatch = true
	l := b.fileLog(requestFields(agent))
	l.Filter = both(b.recorded(), either(
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{Header: notConnect}}},
		both(
			&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{LogTypeFilter: &accesslogv3.LogTypeFilter{
				Types: []accesslogdatav3.AccessLogType{accesslogdatav3.AccessLogType_DownstreamPeriodic}, Exclude: true,
			}}},
			either(comparison(accesslogv3.ComparisonFilter_GE, 300), comparison(accesslogv3.ComparisonFilter_LE, 199)),
		),
	))
	return l
}

// recorded leaves out the requests that were refused because the log was not taken: they
// would pile up. The node counts them.
func (b *builder) recorded() *accesslogv3.AccessLogFilter {
	return either(
		comparison(accesslogv3.ComparisonFilter_LE, 502), comparison(accesslogv3.ComparisonFilter_GE, 504),
		b.expression(fmt.Sprintf("!response.code_details.contains(%q)", guard.Unrecorded)),
	)
}

// interceptLog adds the names that must agree, so that a mismatch can be told.
func (b *builder) interceptLog() *accesslogv3.AccessLog {
	fields := requestFields("%FILTER_STATE(" + stateAgent + ":PLAIN)%")
	fields["sni"] = "%REQUESTED_SERVER_NAME%"
	fields["connect"] = "%FILTER_STATE(" + stateConnect + ":PLAIN)%"
	l := b.fileLog(fields)
	l.Filter = b.recorded()
	return l
}

// tunnelLog tells of a tunnel while it is open, and when it has ended.
func (b *builder) tunnelLog() *accesslogv3.AccessLog {
	return b.fileLog(map[string]string{
		"k":       LogTunnel,
		"t":       "%START_TIME(%s.%6f)%",
		"conn":    "%CONNECTION_ID%",
		"type":    "%ACCESS_LOG_TYPE%",
		"agent":   "%FILTER_STATE(" + stateAgent + ":PLAIN)%",
		"connect": "%FILTER_STATE(" + stateConnect + ":PLAIN)%",
		"rule":    "%FILTER_STATE(" + stateRule + ":PLAIN)%",
		"sni":     "%REQUESTED_SERVER_NAME%",
		"flags":   "%RESPONSE_FLAGS%",
		"details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"rx":      "%BYTES_RECEIVED%",
		"tx":      "%BYTES_SENT%",
		"ms":      "%DURATION%",
	})
}

// connectionLog tells of connections that ended before a request could.
func (b *builder) connectionLog() *accesslogv3.AccessLog {
	return b.fileLog(map[string]string{
		"k":       LogConnection,
		"t":       "%START_TIME(%s.%3f)%",
		"agent":   "%FILTER_STATE(" + stateAgent + ":PLAIN)%",
		"connect": "%FILTER_STATE(" + stateConnect + ":PLAIN)%",
		"sni":     "%REQUESTED_SERVER_NAME%",
		"flags":   "%RESPONSE_FLAGS%",
		"details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
		"rx":      "%BYTES_RECEIVED%",
		"tx":      "%BYTES_SENT%",
		"ms":      "%DURATION%",
	})
}

func (b *builder) fileLog(fields map[string]string) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.file",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&filev3.FileAccessLog{
			Path:            AccessLogPath,
			AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: jsonFormat(fields)}},
		})},
	}
}

// answer is what Envoy itself says to one kind of failure.
type answer struct {
	when *accesslogv3.AccessLogFilter
	// status replaces Envoy's, if it is not 0.
	status uint32
	// said are the fields of the answer: error first of all.
	said map[string]string
}

// localReplies gives everything that Envoy itself answers a body: JSON for
// programs, plain text for who asks for text. What the client sent is only
// ever quoted back to that client, as a JSON string or as plain text.
func (b *builder) localReplies(agent string) *hcmv3.LocalReplyConfig {
	route := func(field string) string { return "%METADATA(ROUTE:" + metadataNamespace + ":" + field + ")%" }
	seen := "an operator sees it with: postern audit --agent " + agent
	limited := map[string]string{
		"error": "a limit of the policy is exceeded", "reason": string(plan.ReasonLimit), "rule": route("rule"), "detail": "%RESPONSE_CODE_DETAILS%",
		"hint": "an operator can raise it: limits: in the stack file",
	}
	malformed := map[string]string{
		"error": "the request is malformed, or more than is read of one", "reason": string(plan.ReasonMalformed), "rule": plan.DefaultRule(agent), "detail": "%RESPONSE_CODE_DETAILS%",
		"hint": seen,
	}
	// Why it failed is in the log only: Envoy's words hold addresses and the names in the
	// upstream's certificate.
	failed := map[string]string{
		"error": "the destination cannot be reached, or is not who it should be", "reason": string(plan.ReasonUpstream), "rule": route("rule"),
		"hint": seen,
	}
	config := &hcmv3.LocalReplyConfig{BodyFormat: replyJSON(agent, map[string]string{
		"error": "the request failed at the proxy", "hint": seen,
	})}
	// The first one that holds. The reasons are those that package audit finds.
	for _, a := range []answer{
		// The route allows it, the connection manager does not.
		{when: b.detail("upgrade_failed"), said: map[string]string{
			"error": "only upgrades to WebSocket are supported", "reason": string(plan.ReasonMalformed), "rule": plan.DefaultRule(agent),
		}},
		// Envoy calls it unavailable, and clients would try again.
		{when: b.detail("address_denied"), status: 403, said: map[string]string{
			"error": "denied by policy", "reason": string(plan.ReasonAddress), "rule": route("rule"),
			"hint": "its address is private, or the cloud's own; an operator can say where the destination is: upstream: in the stack file",
		}},
		// The guard, of what only some servers read as the rule that allows it does.
		{when: b.detail("guard_ambiguous"), said: map[string]string{
			"error": "denied by policy", "reason": string(plan.ReasonAmbiguous), "rule": plan.DefaultRule(agent), "hint": hint(agent, plan.ReasonAmbiguous),
		}},
		{when: statusIs(403), said: map[string]string{
			"error": "denied by policy", "reason": route("reason"), "rule": route("rule"),
			"hint": route("hint"),
		}},
		// There is no scope for what the names of the connection say.
		{when: flagged("NR"), status: 403, said: map[string]string{
			"error": "denied by policy", "reason": string(plan.ReasonName), "rule": plan.DefaultRule(agent),
			"hint": hint(agent, plan.ReasonName),
		}},
		{when: statusIs(429), said: limited},
		// More at once than the destination's breaker lets through.
		{when: flagged("UO"), status: 429, said: limited},
		{when: statusIs(413), said: limited},
		// The guard, of a body in parts that the agent has signed itself.
		{when: statusIs(422), said: map[string]string{
			"error": "the request cannot be signed anew", "reason": string(plan.ReasonMalformed), "rule": route("rule"),
			"hint": "the client has signed parts of the body: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and turn its chunked encoding off",
		}},
		// The only filter that answers 401 is the injector.
		{when: statusIs(401), status: 502, said: map[string]string{
			"error": "the credential for this destination cannot be had", "reason": string(plan.ReasonCredential), "rule": route("rule"),
			"hint": "an operator sees why with: postern status",
		}},
		{when: b.detail(guard.Unrecorded), said: map[string]string{
			"error": "the proxy cannot record what it decides at the moment, so it decides nothing", "reason": string(plan.ReasonUnrecorded),
			"rule": plan.DefaultRule(agent), "hint": "an operator sees why with: postern status",
		}},
		// The guard, of what it cannot read.
		{when: b.detail("guard_failed"), said: malformed},
		{when: comparison(accesslogv3.ComparisonFilter_GE, 500), said: failed},
		// Nothing has come for an hour: 408 if it is the client that was waited for.
		{when: flagged("SI"), said: failed},
		{when: comparison(accesslogv3.ComparisonFilter_GE, 400), said: malformed},
	} {
		for _, m := range []*hcmv3.ResponseMapper{
			{Filter: both(a.when, wantsText()), BodyFormatOverride: replyText(agent, a.said)},
			{Filter: a.when, BodyFormatOverride: replyJSON(agent, a.said)},
		} {
			if a.status != 0 {
				m.StatusCode = wrapperspb.UInt32(a.status)
			}
			config.Mappers = append(config.Mappers, m)
		}
	}
	return config
}

const requestFormat = "%REQ(:METHOD)% %REQ(:AUTHORITY)%"

func replyJSON(agent string, said map[string]string) *corev3.SubstitutionFormatString {
	fields := maps.Clone(said)
	fields["agent"], fields["request"] = agent, requestFormat
	return &corev3.SubstitutionFormatString{Format: jsonFormat(fields), OmitEmptyValues: true}
}

// replyText has the same fields, a line each.
func replyText(agent string, said map[string]string) *corev3.SubstitutionFormatString {
	text := said["error"] + ": " + requestFormat + "\nagent: " + agent + "\n"
	for _, k := range []string{"reason", "rule", "detail", "hint"} {
		if said[k] != "" {
			text += k + ": " + said[k] + "\n"
		}
	}
	return &corev3.SubstitutionFormatString{Format: textFormat(text), ContentType: "text/plain; charset=utf-8"}
}

// wantsText holds for a client that asks for text: a person's, mostly.
func wantsText() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{
		Header: &routev3.HeaderMatcher{Name: "accept", HeaderMatchSpecifier: like(`.*text/(plain|html).*`)},
	}}}
}

// detail holds if Envoy's own response code details have the text in them.
func (b *builder) detail(text string) *accesslogv3.AccessLogFilter {
	return b.expression(fmt.Sprintf("response.code_details.contains(%q)", text))
}

func (b *builder) expression(text string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name: "cel", ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.any(&celfilterv3.ExpressionFilter{Expression: text})},
	}}}
}

func statusIs(code uint32) *accesslogv3.AccessLogFilter {
	return comparison(accesslogv3.ComparisonFilter_EQ, code)
}

func flagged(flag string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{flag}},
	}}
}

func both(one, two *accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
		AndFilter: &accesslogv3.AndFilter{Filters: []*accesslogv3.AccessLogFilter{one, two}},
	}}
}

func either(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: filters}}}
}

func comparison(op accesslogv3.ComparisonFilter_Op, code uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{Op: op, Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: "postern.unused"}},
	}}}
}

func jsonFormat(fields map[string]string) *corev3.SubstitutionFormatString_JsonFormat {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(fields))}
	for k, v := range fields {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}
}
