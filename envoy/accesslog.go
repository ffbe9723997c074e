package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// AccessLogPath is the path of Envoy's log, relative to the node's working folder: a FIFO that the
// node's supervisor reads.
const AccessLogPath = "access.fifo"

// flushInterval is the time between two lines about a request or tunnel that lasts. A shorter
// request gives one line.
const flushInterval = 5 * time.Second

// agentLog leaves out CONNECTs that were accepted or still may be: the requests inside are decided
// on, and each decision is one event.
func (b *builder) agentLog(agent string) *accesslogv3.AccessLog {
	notConnect := methods([]string{"CONNECT"})
	notConnect.InvertMatch = true
	l := b.fileLog(accesslog.Request, map[string]string{"agent": agent})
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

// recorded leaves out requests that were refused because the log was not taken. Their lines would
// pile up, so the node only counts them.
func (b *builder) recorded() *accesslogv3.AccessLogFilter {
	return either(
		comparison(accesslogv3.ComparisonFilter_LE, 502), comparison(accesslogv3.ComparisonFilter_GE, 504),
		b.expression(fmt.Sprintf("!(response.code_details == %q)", guard.Unrecorded)),
	)
}

// around returns the fields that the CONNECT around a connection has stated: which agent connects
// where.
func around() map[string]string {
	state := func(key string) string { return "%FILTER_STATE(" + key + ":PLAIN)%" }
	return map[string]string{"agent": state(stateAgent), "connect": state(stateConnect)}
}

// interceptLog also has the server name, which shows a name mismatch.
func (b *builder) interceptLog() *accesslogv3.AccessLog {
	fields := around()
	fields["sni"] = "%REQUESTED_SERVER_NAME%"
	l := b.fileLog(accesslog.Request, fields)
	l.Filter = b.recorded()
	return l
}

// tunnelLog has lines about a tunnel while it is open and when it ends.
func (b *builder) tunnelLog() *accesslogv3.AccessLog {
	fields := around()
	fields["rule"] = "%FILTER_STATE(" + stateRule + ":PLAIN)%"
	return b.fileLog(accesslog.Tunnel, fields)
}

// connectionLog has lines about connections that ended before their first request.
func (b *builder) connectionLog() *accesslogv3.AccessLog {
	return b.fileLog(accesslog.Connection, around())
}

func (b *builder) fileLog(kind string, more map[string]string) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.file",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&filev3.FileAccessLog{
			Path:            AccessLogPath,
			AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: jsonFormat(accesslog.Format(kind, more))}},
		})},
	}
}

// localReplies gives each of Envoy's own answers a body: plain text for a client that asks for
// text, and otherwise JSON. A body quotes what the client sent, as a JSON string or as plain text,
// and only that client gets it. See [accesslog.Answers].
func (b *builder) localReplies(agent string) *hcmv3.LocalReplyConfig {
	unknown := b.replyFields(&accesslog.Unknown, agent)
	delete(unknown, "rule") // there may be no route
	config := &hcmv3.LocalReplyConfig{BodyFormat: replyJSON(agent, unknown)}
	add := func(filter *accesslogv3.AccessLogFilter, a *accesslog.Answer) {
		fields := b.replyFields(a, agent)
		for _, m := range []*hcmv3.ResponseMapper{
			{Filter: both(filter, wantsText()), BodyFormatOverride: replyText(agent, fields)},
			{Filter: filter, BodyFormatOverride: replyJSON(agent, fields)},
		} {
			if a.Status != 0 {
				m.StatusCode = wrapperspb.UInt32(a.Status)
			}
			config.Mappers = append(config.Mappers, m)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(briefly)) {
		add(comparison(accesslogv3.ComparisonFilter_EQ, briefly[reason]), &accesslog.Answer{Reason: reason, Status: 403, ByDefault: reason != plan.ReasonDenied})
	}
	for i := range accesslog.Answers {
		if a := &accesslog.Answers[i]; a.Replies() {
			add(b.ended(a), a)
		}
	}
	return config
}

// ended matches requests that ended in one of a's ways.
func (b *builder) ended(a *accesslog.Answer) *accesslogv3.AccessLogFilter {
	ways := make([]string, len(a.Details))
	for i, begin := range a.Details {
		ways[i] = fmt.Sprintf("response.code_details.startsWith(%q)", begin)
	}
	return b.expression(strings.Join(ways, " || "))
}

// words are those of the hints for an agent. HOST stays: somebody may paste what an agent wrote.
func (b *builder) words(agent string) accesslog.Words {
	return accesslog.Words{About: accesslog.InStack(b.plan.Stack), Agent: agent, Host: "HOST"}
}

func (b *builder) replyFields(a *accesslog.Answer, agent string) map[string]string {
	route := func(field string) string { return "%METADATA(ROUTE:" + metadataNamespace + ":" + field + ")%" }
	message, hint := a.Says()
	fields := map[string]string{
		"error": message, "reason": string(a.Told()), "rule": agent + "/" + route("rule"), "hint": b.words(agent).In(hint),
	}
	if a.Told() == "" {
		fields["reason"], fields["hint"] = route("reason"), route("hint")
	}
	if a.ByDefault {
		fields["rule"] = plan.DefaultRule(agent)
	}
	if a.Tells {
		fields["detail"] = "%RESPONSE_CODE_DETAILS%"
	}
	return fields
}

const requestFormat = "%REQ(:METHOD)% %REQ(:AUTHORITY)%"

func replyJSON(agent string, said map[string]string) *corev3.SubstitutionFormatString {
	fields := maps.Clone(said)
	maps.DeleteFunc(fields, func(_, v string) bool { return v == "" })
	fields["agent"], fields["request"] = agent, requestFormat
	return &corev3.SubstitutionFormatString{Format: jsonFormat(fields), OmitEmptyValues: true}
}

// replyText has the fields of replyJSON, one on each line.
func replyText(agent string, said map[string]string) *corev3.SubstitutionFormatString {
	text := said["error"] + ": " + requestFormat + "\nagent: " + agent + "\n"
	for _, k := range []string{"reason", "rule", "detail", "hint"} {
		if said[k] != "" {
			text += k + ": " + said[k] + "\n"
		}
	}
	return &corev3.SubstitutionFormatString{Format: textFormat(text), ContentType: "text/plain; charset=utf-8"}
}

// wantsText matches clients that ask for text, which mostly serve a person.
func wantsText() *accesslogv3.AccessLogFilter {
	accepts := func(media string) *accesslogv3.AccessLogFilter {
		// An expression would cost more: there is one filter for each answer and listener.
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{
			Header: &routev3.HeaderMatcher{Name: "accept", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Contains{Contains: media},
			}}},
		}}}
	}
	return either(accepts("text/plain"), accepts("text/html"))
}

func (b *builder) expression(text string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name: "cel", ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.any(&celfilterv3.ExpressionFilter{Expression: text})},
	}}}
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
