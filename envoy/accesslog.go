package envoy

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

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

// requestFields are an explicit list: a header in the log is a header that
// could hold a credential (envoy.md, section A, trap 3). The path is without
// its query, which can hold one too. Package audit decodes them.
func requestFields(agent string) map[string]string {
	return map[string]string{
		"k":          LogRequest,
		"t":          "%START_TIME(%s.%3f)%",
		"agent":      agent,
		"method":     "%REQ(:METHOD)%",
		"authority":  "%REQ(:AUTHORITY)%",
		"path":       "%PATH(NQ:PATH)%",
		"host":       "%METADATA(ROUTE:" + metadataNamespace + ":host)%",
		"rule":       "%METADATA(ROUTE:" + metadataNamespace + ":rule)%",
		"reason":     "%METADATA(ROUTE:" + metadataNamespace + ":reason)%",
		"credential": "%METADATA(ROUTE:" + metadataNamespace + ":credential)%",
		"status":     "%RESPONSE_CODE%",
		"flags":      "%RESPONSE_FLAGS%",
		"details":    "%RESPONSE_CODE_DETAILS%",
		"failure":    "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"rx":         "%BYTES_RECEIVED%",
		"tx":         "%BYTES_SENT%",
		"ms":         "%DURATION%",
	}
}

// agentLog leaves out the CONNECTs that were accepted: the decisions are those
// on the requests inside, and there is one event for each decision.
func (b *builder) agentLog(agent string) *accesslogv3.AccessLog {
	status := func(op accesslogv3.ComparisonFilter_Op, code uint32) *accesslogv3.AccessLogFilter {
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{Op: op, Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: "postern.unused"}},
		}}}
	}
	notConnect := methods([]string{"CONNECT"})
	notConnect.InvertMatch = true
	l := b.fileLog(requestFields(agent))
	l.Filter = &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{
		Filters: []*accesslogv3.AccessLogFilter{
			status(accesslogv3.ComparisonFilter_GE, 300),
			status(accesslogv3.ComparisonFilter_LE, 199),
			{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{Header: notConnect}}},
		},
	}}}
	return l
}

// interceptLog adds the names that must agree, so that a mismatch can be told.
func (b *builder) interceptLog() *accesslogv3.AccessLog {
	fields := requestFields("%FILTER_STATE(" + stateAgent + ":PLAIN)%")
	fields["sni"] = "%REQUESTED_SERVER_NAME%"
	fields["connect"] = "%FILTER_STATE(" + stateConnect + ":PLAIN)%"
	return b.fileLog(fields)
}

// tunnelLog tells of a tunnel when it has ended.
func (b *builder) tunnelLog() *accesslogv3.AccessLog {
	return b.fileLog(map[string]string{
		"k":       LogTunnel,
		"t":       "%START_TIME(%s.%3f)%",
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
			Path: AccessLogPath,
			AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format:          jsonFormat(fields),
				OmitEmptyValues: true,
			}},
		})},
	}
}

// localReplies gives everything that Envoy itself answers a body that a
// program can read. What the client sent is only ever quoted as JSON strings.
func (b *builder) localReplies(agent string) *hcmv3.LocalReplyConfig {
	body := func(fields map[string]string) *corev3.SubstitutionFormatString {
		fields["agent"] = agent
		fields["request"] = "%REQ(:METHOD)% %REQ(:AUTHORITY)%"
		return &corev3.SubstitutionFormatString{Format: jsonFormat(fields), OmitEmptyValues: true}
	}
	status := func(code uint32) *accesslogv3.AccessLogFilter {
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_EQ, Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: "postern.unused"}},
		}}}
	}
	limited := func(code uint32) *hcmv3.ResponseMapper {
		return &hcmv3.ResponseMapper{Filter: status(code), BodyFormatOverride: body(map[string]string{
			"error":  "a limit of the policy is exceeded",
			"reason": string(plan.ReasonLimit),
			"rule":   "%METADATA(ROUTE:" + metadataNamespace + ":rule)%",
			"detail": "%RESPONSE_CODE_DETAILS%",
		})}
	}
	return &hcmv3.LocalReplyConfig{
		Mappers: []*hcmv3.ResponseMapper{
			{
				Filter: status(403),
				BodyFormatOverride: body(map[string]string{
					"error":  "denied by policy",
					"reason": "%METADATA(ROUTE:" + metadataNamespace + ":reason)%",
					"rule":   "%METADATA(ROUTE:" + metadataNamespace + ":rule)%",
					"hint":   "an operator can allow it: postern allow HOST --agent " + agent,
				}),
			},
			{
				// There is no scope for what the names of the connection say.
				Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
					ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"NR"}},
				}},
				StatusCode: wrapperspb.UInt32(403),
				BodyFormatOverride: body(map[string]string{
					"error":  "denied by policy",
					"reason": string(plan.ReasonName),
					"rule":   plan.DefaultRule(agent),
					"hint":   "CONNECT, server name (SNI) and Host header must name the same destination",
				}),
			},
			limited(429), limited(413),
			{
				// The only filter that answers 401 is the injector.
				Filter:     status(401),
				StatusCode: wrapperspb.UInt32(502),
				BodyFormatOverride: body(map[string]string{
					"error":  "the credential for this destination cannot be had",
					"reason": string(plan.ReasonCredential),
					"rule":   "%METADATA(ROUTE:" + metadataNamespace + ":rule)%",
					"hint":   "an operator sees why with: postern status",
				}),
			},
		},
		BodyFormat: body(map[string]string{
			"error":  "the request failed at the proxy",
			"detail": "%RESPONSE_CODE_DETAILS%",
		}),
	}
}

func jsonFormat(fields map[string]string) *corev3.SubstitutionFormatString_JsonFormat {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(fields))}
	for k, v := range fields {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}
}
