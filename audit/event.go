// Package audit records what the proxy decided: one event for each decision, numbered per node. The
// node's supervisor writes the events from Envoy's access log, and operators read them.
package audit

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// Verdicts of an event.
const (
	Allow = accesslog.Allow
	Deny  = accesslog.Deny
	Error = accesslog.Error
	// Gap declares that events before this one may be missing.
	Gap = "gap"
	// Change is not a decision on a request: something has happened to the policy itself.
	// [Event.Kind] says what.
	Change = "change"

	// eventsRemoved is the kind of a change that a node itself records.
	eventsRemoved = "events-removed"
)

// ControlPlane is the node's name in the control plane's own events. A replica adds a slash and its
// name. No node may have this name.
const ControlPlane = "control"

// Event is one decision of the proxy, a declared gap, or a change of the policy. Of a request's
// headers it contains only method, host and path.
type Event struct {
	Time time.Time `json:"time"`
	// Seq counts the events of one node from 1, without holes, unless a gap is declared.
	Seq   uint64 `json:"seq"`
	Node  string `json:"node"`
	Agent string `json:"agent"`
	// Host is "host:port": the rule's, if a rule names it, otherwise as the agent sent it.
	Host   string `json:"host"`
	Method string `json:"method,omitempty"`
	// Path has no query.
	Path string `json:"path,omitempty"`
	// Rule is the ID of the rule that decided.
	Rule string `json:"rule,omitempty"`
	// Credential is the name of the injected credential.
	Credential string      `json:"credential,omitempty"`
	Verdict    string      `json:"verdict"`
	Reason     plan.Reason `json:"reason"`
	// Detail has Envoy's own words, if they say more than the reason.
	Detail string `json:"detail,omitempty"`
	// Status is the HTTP status that the agent got, or 0 if none.
	Status int `json:"status,omitempty"`
	// Sent and Received are the bytes of the bodies, as the agent sees them.
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
	// Millis is how long the request took, in milliseconds.
	Millis int64 `json:"millis"`
	// Stream, if set, identifies the stream that this event is about. All events of a stream share
	// it. State is one of [Opened], [StillOpen], [Ended] and [Lost].
	Stream string `json:"stream,omitempty"`
	State  string `json:"state,omitempty"`
	// Count, if not 0, is the number of decisions for which this event stands.
	Count uint64 `json:"count,omitempty"`

	// What follows is set for a [Change] only.

	// Kind says what has happened: published, refused, killed, unkilled, lease-ended,
	// secret-rotated, credential-closed, credential-opened or clock-set-back; or events-removed,
	// for a log at its bound.
	Kind string `json:"kind,omitempty"`
	// ID, if set, identifies the happening. Replicas that record the same happening give it the
	// same ID.
	ID string `json:"id,omitempty"`
	// Publication and Version identify the publication that the event is about. By is its
	// publisher.
	Publication uint64 `json:"publication,omitempty"`
	Version     string `json:"version,omitempty"`
	By          string `json:"by,omitempty"`
	// Why and Owner are the rule's reason and owner.
	Why   string `json:"why,omitempty"`
	Owner string `json:"owner,omitempty"`
	// tried is true if Envoy tried an upstream. It is known only of an event that was just made.
	tried bool
}

// decode turns one line of Envoy's access log into an event. It returns nil for
// a line that is not a decision, and an error for one that it does not know.
func decode(b []byte) (*Event, error) {
	l, err := parseLine(b)
	if err != nil {
		return nil, fmt.Errorf("decode access log line: %w", err)
	}
	e := &Event{
		Time: parseTime(l.Time), Agent: l.Agent, Method: clip(l.Method), Path: clip(path(l.Path)), Rule: l.Rule,
		Status: int(l.Status), Sent: l.Rx, Received: l.Tx, Millis: l.Millis,
	}
	switch l.Kind {
	case accesslog.Request:
		if l.Details == guard.Unrecorded {
			return nil, nil //nolint:nilnil // counted, by the node
		}
		r := accesslog.ParseRoute(l.Route, l.Agent)
		e.Reason, e.Host, e.Credential, e.Rule = r.Reason, r.Host, r.Credential, r.Rule
		if e.Host == "" {
			e.Host = clip(withPort(l.Authority, l.SNI != "" || l.Connect != ""))
		}
		if l.Method == "CONNECT" {
			e.Path = ""
		}
		judge(e, l)
	case accesslog.Tunnel:
		e.Host, e.Method, e.Verdict, e.Reason = clip(l.Connect), "CONNECT", Allow, plan.ReasonAllowed
		if l.Tries == 0 {
			e.Verdict = Error
		}
		if l.Tries == 0 || strings.Contains(l.Flags, "U") && l.Tx == 0 {
			e.Reason, e.Detail = plan.ReasonUpstream, clip(strings.TrimSpace(l.Flags+" "+l.Details+" "+l.Failure))
		}
	case accesslog.Connection:
		// If bytes of a request were decrypted, the request is the decision. A dropped connection
		// is not.
		fronted := l.SNI != "" && l.SNI != hostOf(l.Connect)
		if l.Rx+l.Tx != 0 || !(fronted || strings.Contains(l.Failure, "SSL_routines") || strings.Contains(l.Flags, "NR")) {
			return nil, nil //nolint:nilnil // most connections are not a decision
		}
		e.Host, e.Method, e.Verdict, e.Reason = clip(l.Connect), "CONNECT", Deny, plan.ReasonTLS
		e.Rule = plan.DefaultRule(l.Agent)
		e.Detail = clip(l.Failure)
		if fronted {
			e.Reason, e.Detail = plan.ReasonName, clip("server name "+l.SNI)
		}
	default:
		return nil, fmt.Errorf("decode access log line: unknown kind %q", l.Kind)
	}
	if stream := l.Time + "-" + strconv.FormatInt(l.Conn, 10); periodic(l) {
		// The last line of a stream has the outcome.
		if e.Verdict != Allow {
			return nil, nil //nolint:nilnil // not a decision yet
		}
		e.Stream, e.State = stream, StillOpen
		e.Time = e.Time.Add(time.Duration(e.Millis) * time.Millisecond)
	} else if strings.HasSuffix(l.Type, "End") {
		e.Stream, e.State = stream, Ended
	}
	return e, nil
}

// periodic reports whether the line is about a stream that lasts.
func periodic(l *accesslog.Line) bool { return strings.HasSuffix(l.Type, "Periodic") }

// judge derives verdict and reason from what Envoy did with the request: see
// [accesslog.Answers]. A request is allowed only if an upstream was tried.
func judge(e *Event, l *accesslog.Line) {
	routed := e.Reason == plan.ReasonAllowed
	if e.Reason != "" && !routed {
		e.Verdict = Deny
		return
	}
	a := accesslog.AnswerTo(l.Details)
	switch {
	case periodic(l):
		a = &accesslog.Lasting
	case a.Reason == "":
		a = &accesslog.Unknown // the route does not deny
	}
	e.Verdict, e.Reason = a.Verdict, a.Reason
	e.tried = l.Tries > 0
	switch {
	case routed && a.Sent != "" && l.Tries > 0:
		e.Verdict, e.Reason = Allow, a.Sent
	case !routed && a.Reason == plan.ReasonUnsent:
		// The connection ended before the request was whole.
		e.Verdict, e.Reason = Deny, plan.ReasonMalformed
	case !routed && a.Verdict == Allow:
		// A CONNECT that was accepted: an internal listener is not an upstream.
		e.Verdict, e.Reason = Error, plan.ReasonUnknown
	}
	if e.Rule == "" || a.ByDefault && e.Verdict != Allow {
		e.Rule = plan.DefaultRule(l.Agent)
	}
	if e.Verdict != Allow && l.Tries == 0 {
		e.Credential = ""
	}
	switch {
	case e.Reason == plan.ReasonAllowed:
	case e.Reason == plan.ReasonName:
		e.Detail = clip(fmt.Sprintf("connect %s, server name %s, host %s", l.Connect, l.SNI, l.Authority))
	case e.Verdict != Deny:
		e.Detail = clip(strings.TrimSpace(l.Details + " " + l.Failure))
	case a.Tells || !routed:
		e.Detail = clip(l.Details)
	}
}

// parseTime parses seconds and milliseconds since the epoch: "1.234". It returns no time for an
// implausible value, because every event must have a time that JSON can hold.
func parseTime(s string) time.Time {
	f, err := strconv.ParseFloat(s, 64)
	const year3000 = 32503680000
	if err != nil || !(f >= 0 && f < year3000) {
		return time.Time{}
	}
	return time.UnixMilli(int64(f*1000 + 0.5)).UTC()
}

// path removes a query, in case Envoy ever logs one.
func path(s string) string {
	p, _, _ := strings.Cut(s, "?")
	return p
}

func withPort(authority string, tls bool) string {
	if authority == "" || strings.Contains(authority, ":") {
		return authority
	}
	if tls {
		return authority + ":443"
	}
	return authority + ":80"
}

func hostOf(hostPort string) string {
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		return h
	}
	return hostPort
}

// clip bounds what an agent can put into an event.
func clip(s string) string {
	const limit = 1024
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
