package attack

import (
	"fmt"
	"net"
	"strings"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// generatedPolicies is how many policies are drawn, and generatedRequests how
// many requests to each by each way in. They are the same in every run.
const (
	generatedPolicies = 4
	generatedRequests = 40
)

// generated holds every way in to plan.Decide: generated requests under
// generated policies get its verdict, its reason and its rule, as events say.
var generated = func() []Case {
	var cases []Case
	for i := range generatedPolicies {
		cases = append(cases, Case{
			ID: "X6", What: fmt.Sprintf("every way in decides as plan.Decide: generated policy %d", i+1), Ways: []Way{Explicit, Captured, Gateway}, Twin: true,
			Rules: func(s string) []plan.Rule {
				return rapid.Custom(func(rt *rapid.T) []plan.Rule { return drawRules(rt, s) }).Example(i)
			},
			Run: func(s *seat) {
				draw := rapid.Custom(func(rt *rapid.T) plan.Request { return s.drawRequest(rt) })
				for j := range generatedRequests {
					r := draw.Example(j)
					d := s.plan.Decide(r)
					a := s.send(r)
					require.Equal(s, d.Allow, a.Status == 200, "%+v\n%+v\n%s", r, d, a)
					s.wanted = append(s.wanted, fmt.Sprintf("%s %s %s", map[bool]string{true: "allow", false: "deny"}[d.Allow], d.Reason, d.Rule))
					if d.Allow {
						s.reached++
					}
				}
			},
		})
	}
	return cases
}()

// drawRules draws rules as the loader could have made them.
func drawRules(rt *rapid.T, s string) []plan.Rule {
	var rules []plan.Rule
	for i := range rapid.IntRange(5, 9).Draw(rt, "rules") {
		r := plan.Rule{
			ID:      fmt.Sprintf("%s/d%d", s, i),
			Deny:    rapid.IntRange(0, 3).Draw(rt, "deny") == 0,
			Host:    rapid.SampledFrom([]string{"a.x.", "a.x.", "b.x.", "c.b.x.", "*.x.", "*.b.x."}).Draw(rt, "host") + s + ".test",
			Port:    rapid.SampledFrom([]uint16{443, 443, 8443}).Draw(rt, "port"),
			Methods: rapid.SampledFrom([][]string{{plan.AnyMethod}, {"GET"}, {"GET", "POST"}, {"DELETE"}}).Draw(rt, "methods"),
			Paths:   rapid.SampledFrom([][]string{{plan.AnyPath}, {plan.AnyPath}, {"/v1/*"}, {"/v1/**"}, {"/", "/v1/x"}}).Draw(rt, "paths"),
		}
		if rapid.IntRange(0, 3).Draw(rt, "conditional") == 0 {
			r.Query = []plan.Condition{{Name: "k", Value: "1"}}
		}
		if rapid.IntRange(0, 4).Draw(rt, "headers") == 0 {
			r.Headers = []plan.Condition{{Name: "x-h", Value: "1"}}
		}
		if !r.Deny && r.Port == 443 && strings.HasPrefix(r.Host, "a.x.") {
			r.Gateway = 8080
		}
		if i == 0 {
			r.Host, r.Port, r.Gateway = "a.x."+s+".test", 443, 8080
		}
		rules = append(rules, r)
	}
	return rules
}

// drawRequest draws a request that a client could make by the seat's way in.
func (s *seat) drawRequest(rt *rapid.T) plan.Request {
	r := plan.Request{
		Agent: s.name, Scheme: "https", Port: rapid.SampledFrom([]uint16{443, 443, 443, 8443}).Draw(rt, "port"),
		Host:   rapid.SampledFrom([]string{"a.x.", "a.x.", "a.x.", "b.x.", "c.b.x.", "d.x.", "x."}).Draw(rt, "host") + s.name + ".test",
		Method: rapid.SampledFrom([]string{"GET", "POST", "DELETE", "TRACE"}).Draw(rt, "method"),
		Path:   rapid.SampledFrom([]string{"/", "/v1/x", "/v1/y/z", "/v2", "/v1/%2e%2e/v2", "/v1/a%2Fb", "/v1//x", "/v1/x/", "/v1/x;y", "/v1;y/x", "/v1%2Fx", "/V1/x", "/v1", "/x/..%2fv1/x", "/v1%252fx"}).Draw(rt, "path"),
		Query:  rapid.SampledFrom([]string{"", "k=1", "k=2", "k=1&k=2", "%6b=1", "j=1&k=1", "j;k=1", "k[]=1", "K=+1"}).Draw(rt, "query"),
		Header: map[string][]string{"x-h": rapid.SampledFrom([][]string{nil, {"1"}, {"2"}, {"1", "2"}, {"2, 1"}, {"\xff;1"}}).Draw(rt, "header")},
	}
	if s.way == Gateway {
		r.Scheme, r.Host, r.Port = "http", "localhost", rapid.SampledFrom([]uint16{8080, 8080, 8081}).Draw(rt, "gateway")
	}
	return r
}

// send makes the request by the seat's way in. What is refused before there is
// a request has no status.
func (s *seat) send(r plan.Request) answer {
	s.Helper()
	host := net.JoinHostPort(r.Host, fmt.Sprint(r.Port))
	target := r.Path
	if r.Query != "" {
		target += "?" + r.Query
	}
	var header []string
	for _, v := range r.Header["x-h"] {
		header = append(header, "X-H: "+v)
	}
	raw := request(r.Method, target, strings.TrimSuffix(host, ":443"), header...)
	var c net.Conn
	switch s.way {
	case Gateway:
		return exchange(s.proxy(), r.Method, request(r.Method, target, host, header...))
	case Captured:
		c = s.dial("tcp", fmt.Sprintf("198.51.100.7:%d", r.Port))
	default:
		var a answer
		if c, a = s.connect(host); a.Status != 200 {
			return a
		}
	}
	t, err := s.handshake(c, r.Host)
	if err != nil {
		return answer{Err: err}
	}
	return exchange(t, r.Method, raw)
}
