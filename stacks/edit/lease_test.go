package edit

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// lease is what the tests allow until a time.
func lease(t *testing.T, path, reason string, until time.Time) *Edit {
	t.Helper()
	e, err := Allow(opened(t, path), AllowRequest{
		Agent: "a", Hosts: hosts(t, "x.test"), Methods: []string{"GET"}, Expires: until, Reason: reason,
	})
	require.NoError(t, err)
	require.NoError(t, e.Write())
	return e
}

// P58: leases of one shape are one, whether or not it has ended, and whoever has written it.
func TestLeasesDoNotPileUp(t *testing.T) {
	t.Parallel()
	soon, later := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2999, 1, 2, 0, 0, 0, 0, time.UTC)
	const block = "  x.test:\n    host: x.test\n    methods: [GET]\n    "
	const x = "  x.test: {host: x.test, methods: [GET], expires: "
	for before, after := range map[string]string{
		x + `"2020-01-01T00:00:00Z"}`:                  x + `"2999-01-02T00:00:00Z", reason: "why"}`,
		x + `'2999-01-01T00:00:00Z', reason: because}`: x + `"2999-01-02T00:00:00Z", reason: "why"}`,
		block + "expires: 2020-01-01T00:00:00Z # mine\n    owner: me": block +
			"expires: \"2999-01-02T00:00:00Z\" # mine\n    owner: me\n    reason: \"why\"",
	} {
		path := filepath.Join(t.TempDir(), "s.yaml")
		const head, agents = "version: 1\ntarget: local\ndestinations:\n", "\nagents:\n  a: {allow: [x.test]}\n"
		write(t, path, head+before+agents)
		e := lease(t, path, "why", later)
		require.Equal(t, head+after+agents, string(e.After))
		require.Len(t, e.Changes(), 1)
		require.Equal(t, "~", e.Changes()[0].Kind)
		require.Equal(t, plan.RiskMedium, e.Changes()[0].Risk)
		require.Empty(t, e.Ended)
		require.Equal(t, string(e.After), string(lease(t, path, "", soon).After), "the end is not moved forward")
	}
	path := filepath.Join(t.TempDir(), "s.yaml")
	write(t, path, minimal)
	for i := range 3 {
		lease(t, path, "", soon.Add(time.Duration(i)*time.Hour))
	}
	e := lease(t, path, "", soon)
	require.Equal(t, 1, strings.Count(string(e.After), "host: x.test"), "%s", e.After)

	// Another agent's, another shape, and somebody's own are left alone.
	for _, destination := range []string{
		`x.test: {host: x.test, methods: [GET], expires: "2998-01-01T00:00:00Z"}`,
		`x.test: {host: x.test, methods: [POST], expires: "2998-01-01T00:00:00Z"}`,
		`mine: {host: x.test, methods: [GET], expires: "2998-01-01T00:00:00Z"}`,
	} {
		name, _, _ := strings.Cut(destination, ":")
		others := ""
		if strings.Contains(destination, "GET") {
			others = "\n  b: {allow: [" + name + "]}"
		}
		write(t, path, "version: 1\ntarget: local\ndestinations:\n  "+destination+
			"\nagents:\n  a: {allow: ["+name+"]}"+others+"\n")
		require.Contains(t, string(lease(t, path, "", soon).After), "  "+destination+"\n")
	}
}

// P58: the next edit takes out what has ended, and says so. It leaves what people have written.
func TestWhatHasEndedIsTakenOut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.yaml")
	const head = "version: 1\ntarget: local\ndestinations:\n"
	kept := []string{
		`  mine: {host: a.test, expires: "2020-01-01T00:00:00Z"}`,
		`  b.test: {host: b.test, expires: "2020-01-01T00:00:00Z"} # until the audit`,
		`  c.test: {host: c.test, expires: "2020-01-01T00:00:00Z"}`,
		`  d.test: {host: d.test, deny: true, expires: "2020-01-01T00:00:00Z"}`,
		`  e.test: {host: e.test, expires: "2999-01-01T00:00:00Z"}`,
	}
	ended := []string{
		`  x.test: {host: x.test, methods: [GET], expires: "2020-01-01T00:00:00Z"}`,
		`  x.test-2: {host: x.test, methods: [GET], expires: "2020-01-02T00:00:00Z"}`,
		`  unused.test: {host: unused.test, expires: "2020-01-02T00:00:00Z"}`,
	}
	write(t, path, head+strings.Join(append(ended, kept...), "\n")+"\nagents:\n"+
		"  a: {allow: [x.test, mine, b.test, c.test, d.test, x.test-2, e.test]}\n  b: {allow: [c.test]}\n")
	e, err := Revoke(opened(t, path), RevokeRequest{Agent: "a", Hosts: hosts(t, "e.test")})
	require.NoError(t, err)
	require.Equal(t, head+strings.Join(kept[:4], "\n")+"\nagents:\n"+
		"  a: {allow: [mine, b.test, c.test, d.test]}\n  b: {allow: [c.test]}\n", string(e.After))
	require.Equal(t, []string{
		"unused.test ended at 2020-01-02T00:00:00Z, and is taken out of " + path,
		"x.test ended at 2020-01-01T00:00:00Z, and is taken out of " + path,
		"x.test-2 ended at 2020-01-02T00:00:00Z, and is taken out of " + path,
	}, e.Ended)
	e, err = Allow(opened(t, path), AllowRequest{Agent: "b", Hosts: hosts(t, "new.test")})
	require.NoError(t, err)
	require.Len(t, e.Ended, 1, "unused by anybody")
	require.Contains(t, string(e.After), "x.test-2", "another agent's")
}
