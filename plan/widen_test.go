package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWidens(t *testing.T) {
	t.Parallel()
	was := func() *Rule {
		return &Rule{
			ID: "a/x", Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/*"}, Query: []Condition{{Name: "q", Value: "1"}},
			Credential: "key", Limits: &Limits{Requests: 10, Per: 60, Body: 100}, Expires: "2026-01-02T00:00:00Z", Reason: "why", Owner: "who",
		}
	}
	for name, c := range map[string]struct {
		change func(r *Rule)
		widens bool
	}{
		"nothing":             {func(*Rule) {}, true},
		"words":               {func(r *Rule) { r.Reason, r.Owner = "", "other" }, true},
		"one more method":     {func(r *Rule) { r.Methods = []string{"GET", "POST"} }, true},
		"any method":          {func(r *Rule) { r.Methods = []string{AnyMethod} }, true},
		"another method":      {func(r *Rule) { r.Methods = []string{"POST"} }, false},
		"a wider path":        {func(r *Rule) { r.Paths = []string{"/v1/**"} }, true},
		"one more path":       {func(r *Rule) { r.Paths = []string{"/v1/*", "/v2"} }, true},
		"a narrower path":     {func(r *Rule) { r.Paths = []string{"/v1/x"} }, false},
		"any value":           {func(r *Rule) { r.Query[0] = Condition{Name: "q", Present: true} }, true},
		"no condition":        {func(r *Rule) { r.Query = nil }, true},
		"one more condition":  {func(r *Rule) { r.Headers = []Condition{{Name: "h", Present: true}} }, false},
		"for longer":          {func(r *Rule) { r.Expires = "2026-01-03T00:00:00Z" }, true},
		"for ever":            {func(r *Rule) { r.Expires = "" }, true},
		"for less long":       {func(r *Rule) { r.Expires = "2026-01-01T00:00:00Z" }, false},
		"no limits":           {func(r *Rule) { r.Limits = nil }, true},
		"a higher limit":      {func(r *Rule) { r.Limits.Requests = 11 }, true},
		"a limit ends":        {func(r *Rule) { r.Limits.Body = 0 }, true},
		"a lower limit":       {func(r *Rule) { r.Limits.Requests = 9 }, false},
		"over a longer time":  {func(r *Rule) { r.Limits.Requests, r.Limits.Per = 20, 3600 }, false},
		"a lower bound":       {func(r *Rule) { r.Limits.Body = 99 }, false},
		"a higher bound":      {func(r *Rule) { r.Limits.Body = 101 }, true},
		"a bound on uploads":  {func(r *Rule) { r.Limits.Upload = 1 }, false},
		"one on downloads":    {func(r *Rule) { r.Limits.Download = 1 }, false},
		"at once":             {func(r *Rule) { r.Limits.Requests, r.Limits.Per = 10, 61 }, false},
		"more often":          {func(r *Rule) { r.Limits.Requests, r.Limits.Per = 10, 59 }, true},
		"one more limit":      {func(r *Rule) { r.Limits.Concurrent = 1 }, false},
		"another host":        {func(r *Rule) { r.Host = "*.test" }, false},
		"another port":        {func(r *Rule) { r.Port = 444 }, false},
		"another mode":        {func(r *Rule) { r.Mode = ModeTunnel }, false},
		"no credential":       {func(r *Rule) { r.Credential = "" }, false},
		"its own credentials": {func(r *Rule) { r.OwnCredentials = true }, false},
		"a gateway":           {func(r *Rule) { r.Gateway = 8080 }, false},
		"another upstream":    {func(r *Rule) { r.Upstream = &Upstream{Address: "192.0.2.1:443"} }, false},
		"it denies":           {func(r *Rule) { r.Deny = true }, false},
		"another name":        {func(r *Rule) { r.ID = "a/y" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := was()
			c.change(r)
			require.Equal(t, c.widens, r.Widens(was()))
		})
	}
	unlimited, endless := was(), was()
	unlimited.Limits, endless.Expires = nil, ""
	require.False(t, was().Widens(unlimited), "limits come")
	require.False(t, was().Widens(endless), "an end comes")
	all := func(r *Rule, by uint64) *Rule {
		r.Limits = &Limits{Requests: uint32(10 + by), Per: 60, Concurrent: uint32(10 + by), Body: 10 + by, Upload: 10 + by, Download: 10 + by}
		return r
	}
	require.True(t, all(was(), 0).Widens(all(was(), 0)))
	require.True(t, all(was(), 1).Widens(all(was(), 0)))
	for _, lower := range []func(l *Limits){
		func(l *Limits) { l.Requests = 9 }, func(l *Limits) { l.Concurrent = 9 }, func(l *Limits) { l.Body = 9 }, func(l *Limits) { l.Upload = 9 }, func(l *Limits) { l.Download = 9 },
	} {
		r := all(was(), 0)
		lower(r.Limits)
		require.False(t, r.Widens(all(was(), 0)), "%+v", r.Limits)
		require.True(t, all(was(), 0).Widens(r), "%+v", r.Limits)
	}
	deny := &Rule{ID: "a/d", Deny: true, Host: "x.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{"/a", "/b"}}
	same, less := *deny, *deny
	same.Reason, less.Paths = "because", []string{"/a", "/b", "/c"}
	require.True(t, same.Widens(deny))
	require.False(t, less.Widens(deny))
}
