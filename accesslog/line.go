// Package accesslog is the contract of Envoy's access log: package envoy makes Envoy write the log,
// and package audit turns it into events. Only this package states the fields of a line, the kinds
// of lines, the names of routes, and what follows from each way in which a request can end.
package accesslog

import (
	"maps"
	"strings"

	"github.com/postern/postern/plan"
)

// The kinds of lines: the field "k".
const (
	// Request is a request on which a route decided.
	Request = "request"
	// Tunnel is a tunnel, open or ended.
	Tunnel = "tunnel"
	// Connection is a connection to an internal listener. Only a connection whose
	// handshake failed is a decision.
	Connection = "connection"
)

// Line is one line of the log. The tags are the names of the fields.
type Line struct {
	Kind string `json:"k"`
	Time string `json:"t"`
	// Type is Envoy's word for when the line was written.
	Type      string `json:"type"`
	Conn      int64  `json:"conn"`
	Agent     string `json:"agent"`
	Method    string `json:"method"`
	Authority string `json:"authority"`
	// Path has no query, because a query can contain a credential.
	Path  string `json:"path"`
	Route string `json:"route"`
	// Rule is the rule of a tunnel. For a request, Route names the rule.
	Rule    string `json:"rule"`
	Status  int64  `json:"status"`
	Flags   string `json:"flags"`
	Details string `json:"details"`
	Failure string `json:"failure"`
	// Tries counts how often an upstream was tried.
	Tries int64 `json:"tries"`
	// SNI and Connect are the names that must agree. They show a mismatch.
	SNI     string `json:"sni"`
	Connect string `json:"connect"`
	Rx      int64  `json:"rx"`
	Tx      int64  `json:"tx"`
	Millis  int64  `json:"ms"`
}

// Field returns a pointer to the field of the given name: a text, or a number. Both are nil if
// there is no such field.
func (l *Line) Field(name string) (text *string, number *int64) {
	switch name {
	case "k":
		return &l.Kind, nil
	case "t":
		return &l.Time, nil
	case "type":
		return &l.Type, nil
	case "conn":
		return nil, &l.Conn
	case "agent":
		return &l.Agent, nil
	case "method":
		return &l.Method, nil
	case "authority":
		return &l.Authority, nil
	case "path":
		return &l.Path, nil
	case "route":
		return &l.Route, nil
	case "rule":
		return &l.Rule, nil
	case "status":
		return nil, &l.Status
	case "flags":
		return &l.Flags, nil
	case "details":
		return &l.Details, nil
	case "failure":
		return &l.Failure, nil
	case "tries":
		return nil, &l.Tries
	case "sni":
		return &l.SNI, nil
	case "connect":
		return &l.Connect, nil
	case "rx":
		return nil, &l.Rx
	case "tx":
		return nil, &l.Tx
	case "ms":
		return nil, &l.Millis
	}
	return nil, nil
}

// formats has, by kind, Envoy's command for each field. The lists are explicit: a header in the
// log is a header that could hold a credential.
var formats = map[string]map[string]string{
	Request: {
		"t":         "%START_TIME(%s.%6f)%",
		"conn":      "%CONNECTION_ID%",
		"type":      "%ACCESS_LOG_TYPE%",
		"method":    "%REQ(:METHOD)%",
		"authority": "%REQ(:AUTHORITY)%",
		"path":      "%PATH(NQ:PATH)%",
		"route":     "%ROUTE_NAME%",
		"status":    "%RESPONSE_CODE%",
		"flags":     "%RESPONSE_FLAGS%",
		"details":   "%RESPONSE_CODE_DETAILS%",
		"failure":   "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"tries":     "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"rx":        "%BYTES_RECEIVED%",
		"tx":        "%BYTES_SENT%",
		"ms":        "%DURATION%",
	},
	Tunnel: {
		"t":       "%START_TIME(%s.%6f)%",
		"conn":    "%CONNECTION_ID%",
		"type":    "%ACCESS_LOG_TYPE%",
		"sni":     "%REQUESTED_SERVER_NAME%",
		"flags":   "%RESPONSE_FLAGS%",
		"details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"tries":   "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"rx":      "%BYTES_RECEIVED%",
		"tx":      "%BYTES_SENT%",
		"ms":      "%DURATION%",
	},
	Connection: {
		"t":       "%START_TIME(%s.%3f)%",
		"sni":     "%REQUESTED_SERVER_NAME%",
		"flags":   "%RESPONSE_FLAGS%",
		"details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
		"rx":      "%BYTES_RECEIVED%",
		"tx":      "%BYTES_SENT%",
		"ms":      "%DURATION%",
	},
}

// Format returns Envoy's format for lines of a kind. more has the fields that Envoy cannot tell by
// itself: the agent, and the values of the CONNECT around a connection.
func Format(kind string, more map[string]string) map[string]string {
	f := maps.Clone(formats[kind])
	f["k"] = kind
	maps.Copy(f, more)
	return f
}

// Route is what a route's name tells about a decision. Host and Credential may be empty. Without a
// reason it is a CONNECT to a tunnel: the tunnel's own line has the decision. The same
// in four values of the route's metadata would cost a fifteenth of all that Envoy does for a
// request (docs/performance.md).
type Route struct {
	Reason                 plan.Reason
	Host, Credential, Rule string
}

// Leads is the name of a route that leads an accepted CONNECT to another listener, which sees more
// of the request. It is not a decision.
const Leads = "connect"

// String returns the name of the route. The name leaves out the agent, which is not the route's:
// agents that share rules share routes.
func (r Route) String() string {
	return strings.Join([]string{string(r.Reason), r.Host, r.Credential, plan.NameOf(r.Rule)}, " ")
}

// ParseRoute parses what [Route.String] has written, for the agent whose request took the route.
// For any other name it returns the zero Route, which decides nothing.
func ParseRoute(name, agent string) Route {
	said := strings.SplitN(name, " ", 4)
	if len(said) != 4 {
		return Route{}
	}
	return Route{Reason: plan.Reason(said[0]), Host: said[1], Credential: said[2], Rule: agent + "/" + said[3]}
}
