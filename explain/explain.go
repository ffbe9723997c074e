// Package explain says why the policy of a stack file decides on a request as it does, and what
// would have to change to have the request allowed.
package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/advice"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// The layers that decide, from the agent outwards.
const (
	layerSandbox = "the sandbox: nothing but HTTPS, and HTTP to gateways, has a way out"
	layerProxy   = "the agent's listener on the proxy: who asks, for which host and port, " +
		"before any connection or DNS query"
	layerTLS     = "TLS: the server name, before any connection or DNS query"
	layerRequest = "the request inside TLS: method, path and conditions"
	layerTunnel  = "the tunnel: the TLS server name only"
	layerGateway = "the gateway: method, path and conditions"
	layerKill    = "the kill switch: every request and every open connection, whatever the policy says"
)

// Explanation is a decision, with what people ask about it.
type Explanation struct {
	plan.Decision
	Source string `json:"source,omitempty"`
	// Layer names the layer that decides.
	Layer string `json:"layer"`
	// Sends says how the credential is sent.
	Sends         string `json:"sends,omitempty"`
	NearestSource string `json:"nearest_source,omitempty"`
	// Then lists what must hold after the policy has allowed the request.
	Then []string `json:"then,omitempty"`
	// Change lists changes that would allow the request, one way for each entry.
	Change []string `json:"change,omitempty"`
}

// Kill makes the explanation that of an agent that an operator has stopped. file is the stack file.
func (e *Explanation) Kill(file, agent string) {
	policy := "the policy alone would deny it too: " + string(e.Reason)
	if e.Allow {
		policy = "the policy alone would allow it"
		if e.Rule != "" {
			policy += ", by rule " + WithSource(e.Rule, e.Source)
		}
	}
	*e = Explanation{
		Decision: plan.Decision{Reason: plan.ReasonKilled}, Layer: layerKill,
		Change: []string{
			advice.About(file, "unkill", "--agent", agent) + "   # or --stack, if all were stopped; " + policy,
		},
	}
}

// ParseRequest reads a URL as an agent's client would, with further query parameters (NAME=VALUE)
// and headers (NAME: VALUE).
func ParseRequest(agent, method, raw string, query, headers []string) (plan.Request, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return plan.Request{}, fmt.Errorf("%q is not a URL that starts with https:// or http://", raw)
	}
	r := plan.Request{
		Agent: agent, Scheme: u.Scheme, Host: u.Hostname(), Port: 443,
		Method: method, Path: u.EscapedPath(), Query: u.RawQuery,
	}
	switch u.Scheme {
	case "wss": // a GET over TLS
		r.Scheme = "https"
	case "http", "ws":
		r.Scheme, r.Port = "http", 80
	}
	if u.Port() != "" {
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || n == 0 {
			return plan.Request{}, fmt.Errorf("%q: a port is a number from 1 to 65535", raw)
		}
		r.Port = uint16(n)
	}
	if r.Path == "" {
		r.Path = "/"
	}
	err = addTo(&r, query, headers)
	return r, err
}

func addTo(r *plan.Request, query, headers []string) error {
	for _, q := range query {
		name, value, _ := strings.Cut(q, "=")
		if r.Query != "" {
			r.Query += "&"
		}
		r.Query += url.QueryEscape(name) + "=" + strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return errors.New("a header is written 'NAME: VALUE'")
		}
		if r.Header == nil {
			r.Header = map[string][]string{}
		}
		name = strings.ToLower(name)
		r.Header[name] = append(r.Header[name], strings.TrimSpace(value))
	}
	return nil
}

// Request decides on the request as of now, and gives the reason.
func Request(stack *stacks.Stack, r plan.Request, now time.Time) Explanation {
	p := stack.Plan.At(now)
	e := Explanation{Decision: p.Decide(r)}
	if r.Scheme != "https" && r.Scheme != "http" {
		e.Layer = layerSandbox
		e.Change = []string{"none: use HTTPS"}
		return e
	}
	if e.Rule != "" {
		e.Source = stack.Source(e.Rule)
	}
	if e.Nearest != "" {
		e.NearestSource = stack.Source(e.Nearest)
	}
	rule := find(p, e.Rule)
	e.Layer = layer(e.Decision, r, rule)
	if e.Credential != "" {
		e.Sends = Sends(p, e.Credential)
	}
	if e.Allow {
		e.Then = then(rule, r.Host)
		return e
	}
	e.Change = changes(stack, p, r, e.Decision)
	return e
}

func layer(d plan.Decision, r plan.Request, rule *plan.Rule) string {
	switch {
	case d.Reason == plan.ReasonAgent || d.Reason == plan.ReasonHost || d.Reason == plan.ReasonScheme:
		return layerProxy
	case d.Reason == plan.ReasonName:
		return layerTLS
	case r.Scheme == "http":
		return layerGateway
	case rule != nil && rule.Mode == plan.ModeTunnel:
		return layerTunnel
	}
	return layerRequest
}

// then returns what the proxy still checks after the policy.
func then(r *plan.Rule, host string) []string {
	var out []string
	if r.Upstream != nil && r.Upstream.Address != "" {
		out = append(out, "it is at "+r.Upstream.Address+", whatever DNS says")
	} else {
		if !r.Covers(host) { // asked for by way of the gateway
			host = r.Host
		}
		out = append(out, "after DNS: "+host+" may not resolve to a private or metadata address")
	}
	if r.Mode == plan.ModeTunnel {
		return out
	}
	if r.Upstream != nil && r.Upstream.Plain {
		out = append(out, "over plain HTTP: nobody verifies who answers")
	} else {
		out = append(out, "the upstream's certificate must be valid")
	}
	if r.Credential != "" {
		out = append(out, "the credential must be available: without it the request fails")
	}
	if l := Limits(r.Limits); l != "" {
		out = append(out, "limits: "+l)
	}
	if r.Expires != "" {
		out = append(out, "until "+r.Expires)
	}
	return out
}

// changes returns the ways to have the request allowed.
func changes(stack *stacks.Stack, p *plan.Plan, r plan.Request, d plan.Decision) []string {
	if full := stack.Plan.Decide(r); full.Allow {
		if expired := find(stack.Plan, full.Rule); expired.Expires != "" {
			return []string{
				fmt.Sprintf("rule %s ended at %s: write a later expires: in %s",
					full.Rule, expired.Expires, stack.Source(full.Rule)),
				allowCommand(stack, r, true),
			}
		}
	}
	near := find(p, d.Nearest)
	switch d.Reason {
	case plan.ReasonHost:
		if _, err := netip.ParseAddr(r.Host); err == nil {
			return []string{
				"none: an address is never allowed; use a name, whose destination can have an upstream: {address: ...}",
			}
		}
		if _, err := stacks.ParseHostPort(r.Host); err != nil {
			return []string{"none: " + err.Error()}
		}
		return []string{allowCommand(stack, r, false)}
	case plan.ReasonMethod, plan.ReasonPath:
		if slices.Contains([]string{"CONNECT", "TRACE", "TRACK"}, r.Method) {
			return []string{"none: " + r.Method + " is never allowed"}
		}
		change := "add " + Quoted(r.Method) + " to methods:"
		if path := JustPath(r.Path); d.Reason == plan.ReasonPath && path == "" {
			change = "its paths: " + noPattern
		} else if d.Reason == plan.ReasonPath {
			change = "add " + strconv.Quote(path) + " to paths:"
		}
		return nearby(stack, near, change, r)
	case plan.ReasonCondition:
		return nearby(stack, near, "it asks for "+Conditions(near)+": send that, or change its query: or headers:", r)
	case plan.ReasonAmbiguous:
		return []string{
			"write it as every server reads it: some server could take this for something that rule " + near.ID +
				" does not allow (docs/policy.md, What a rule that allows takes)",
		}
	case plan.ReasonDenied:
		narrow := fmt.Sprintf("take rule %s away, or narrow it: %s", d.Rule, stack.Source(d.Rule))
		if find(p, d.Rule).Literally(r) {
			return []string{narrow}
		}
		return []string{
			"write it as every server reads it: some server could take this for what rule " + d.Rule +
				" names (docs/policy.md, Denying)",
			narrow,
		}
	case plan.ReasonScheme:
		https := r
		https.Scheme = "https"
		if https.Port == 80 {
			https.Port = 443
		}
		if p.Decide(https).Allow {
			return []string{"none is needed: use https://"}
		}
		return []string{accesslog.Hint(d.Reason, accesslog.Words{Agent: r.Agent, Host: r.Host})}
	case plan.ReasonMalformed:
		return []string{"none: no server reads this path in one way only"}
	}
	return nil
}

// nearby returns a change of the nearest rule, or a rule next to it.
func nearby(stack *stacks.Stack, near *plan.Rule, change string, r plan.Request) []string {
	var out []string
	source := stack.Source(near.ID)
	command := allowCommand(stack, r, false)
	if r.Scheme == "http" {
		command = ""
	}
	if strings.Contains(source, ", preset ") {
		out = append(out, "the rule is a preset's, which cannot be changed: write a destination of your own")
	} else {
		out = append(out, source+": "+change)
	}
	if near.Credential != "" && command != "" {
		command += "   # with credential " + near.Credential
	}
	if command != "" {
		out = append(out, command)
	}
	return out
}

func find(p *plan.Plan, id string) *plan.Rule {
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			if r := &p.Agents[i].Rules[j]; r.ID == id {
				return r
			}
		}
	}
	return nil
}

// allowCommand allows just the request, for half an hour if brief is set.
func allowCommand(stack *stacks.Stack, r plan.Request, brief bool) string {
	more := ""
	if brief {
		more = " --for 30m"
	}
	return AllowLine(stack.File, r, more)
}

// AllowLine returns the command that allows just the request in the stack of the file, with more
// flags. Host, method and path may be an agent's words: nothing of them is more than a word to a
// shell, or a wildcard to us. If no pattern matches just the path, the command needs one to be
// written, and ends with a remark.
func AllowLine(file string, r plan.Request, more string) string {
	path, remark := "...", "   # "+noPattern
	if just := JustPath(r.Path); just != "" {
		path, remark = inQuotes(just), ""
	}
	return allowHost(r) + " --method " + Quoted(r.Method) + " --path " + path + more +
		" --file " + advice.Path(file) + remark
}

const noPattern = "no pattern matches just this path"

// JustPath returns the pattern that matches just the path of a request, or "" if there is none.
func JustPath(path string) string {
	path, err := plan.NormalizePath(path)
	if err == nil {
		_, err = plan.ParsePath(path)
	}
	if err != nil || strings.ContainsAny(path, `*,"`) {
		return ""
	}
	return path
}

// AllowGit returns the command that allows what git asks for with the denied request, and what that
// is, such as "push to acme/app", or "" if the request is not git's. push says that the request
// begins one. The command allows both requests of git, or git would fail at the second.
func AllowGit(file string, r plan.Request, push bool) (what, line string) {
	path := JustPath(r.Path)
	for _, service := range []string{"git-upload-pack", "git-receive-pack"} {
		repository, begins := strings.CutSuffix(path, "/info/refs")
		if begins && push != (service == "git-receive-pack") {
			continue
		}
		if !begins {
			if repository, begins = strings.CutSuffix(path, "/"+service); !begins {
				continue
			}
		}
		what = "fetch from "
		if service == "git-receive-pack" {
			what = "push to "
		}
		return what + strings.TrimSuffix(strings.TrimPrefix(repository, "/"), ".git"), allowHost(r) +
			" --method GET,POST --path " + inQuotes(repository+"/info/refs") +
			" --path " + inQuotes(repository+"/"+service) + " --file " + advice.Path(file)
	}
	return "", ""
}

// AllowReading returns the command that allows to read at the request's host.
func AllowReading(file string, r plan.Request) string {
	return allowHost(r) + " --method GET,HEAD --file " + advice.Path(file)
}

func allowHost(r plan.Request) string {
	host := r.Host
	if r.Port != 443 {
		host += ":" + strconv.Itoa(int(r.Port))
	}
	return advice.Postern() + " allow " + Quoted(host) + " --agent " + Quoted(r.Agent)
}

// Quoted is one word for a shell.
func Quoted(s string) string {
	if s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:-_") == "" {
		return s
	}
	return inQuotes(s)
}

func inQuotes(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// WithSource returns the rule, with where it is written if that is known.
func WithSource(rule, source string) string {
	if source == "" {
		return rule
	}
	return rule + " (" + source + ")"
}
