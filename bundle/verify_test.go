package bundle

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// TestKilled: who is stopped, and that nobody is freed by adding.
func TestKilled(t *testing.T) {
	t.Parallel()
	none, a, ab, stack := Killed{}, Killed{Agents: []string{"a"}}, Killed{Agents: []string{
		"a", "b",
	}}, Killed{Stack: true}
	for _, c := range []struct {
		k    Killed
		stop map[string]bool
	}{{none, map[string]bool{"a": false}}, {a, map[string]bool{"a": true, "b": false}}, {
		ab,
		map[string]bool{"a": true, "b": true, "c": false, "": false},
	}, {stack, map[string]bool{"a": true, "c": true}}} {
		for name, want := range c.stop {
			require.Equal(t, want, c.k.Agent(name), "%+v %s", c.k, name)
		}
	}
	require.Equal(t, ab, a.And(ab))
	require.Equal(t, ab, Killed{Agents: []string{"b"}}.And(a))
	require.Equal(t, Killed{Stack: true, Agents: []string{"a"}}, a.And(stack))
	require.Equal(t, Killed{Stack: true, Agents: []string{"a"}}, stack.And(a))
	for _, c := range []struct {
		k, o Killed
		want bool
	}{{none, none, true}, {none, a, false}, {a, none, true}, {a, a, true}, {a, ab, false}, {ab, a, true}, {
		stack, ab,
		true,
	}, {stack, stack, true}, {ab, stack, false}, {none, stack, false}} {
		require.Equal(t, c.want, c.k.Includes(c.o), "%+v includes %+v", c.k, c.o)
	}
}

// TestNumbers: which names of objects are a publication's, or its marks'.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint64{
		"0000000000000001.json": 1, "0000000000000042.ok": 42, "9999999999999999.try": 9999999999999999,
		"0000000000000001.other": 1,
		"0000000000000000.json":  0, "1.json": 0, "00000000000000001.json": 0, "10000000000000000.json": 0,
		"18446744073709551615.json": 0, "000000000000000x.json": 0, "+000000000000001.json": 0, "": 0, ".json": 0,
		"replicas/0000000000000001.json": 0,
	} {
		seq, _, ok := numbered(name)
		require.Equal(t, want > 0, ok, name)
		if ok {
			require.Equal(t, want, seq, name)
		}
	}
	o := folder(t, "test")
	b := o.store(t, policy("one.test"))
	for _, planted := range []string{
		"1.json", "0000000000000003.txt", "0000000000000004.ok", "0000000000000005.try", "replicas/A.json",
		"replicas/a.txt", "replicas/b/c.json",
	} {
		o.plant(t, planted, "{}")
	}
	v, err := o.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Seq, v.Newest)
	require.Zero(t, v.Proven)
	require.False(t, v.Try)
	require.Empty(t, v.Reports)
	require.NoError(t, o.mark(t.Context(), kindTry, b, "a"))
	require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
	v, err = o.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Seq, v.Proven)
	require.True(t, v.Try)
	who, err := o.Tries(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, "a", who)
	require.True(t, o.Has(t.Context(), b.Seq))
	require.False(t, o.Has(t.Context(), b.Seq+1))
}

// TestMarksAreOfOneKind: a mark proves the publication that it was made for, and to be tried
// is not to be proven.
func TestMarksAreOfOneKind(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	b, other := o.store(t, policy("one.test")), o.store(t, policy("two.test"))
	proven, err := o.signMark(kindProven, b, "")
	require.NoError(t, err)
	tried, err := o.signMark(kindTry, b, "a")
	require.NoError(t, err)
	got, err := o.VerifyProven(b.Sealed(), proven)
	require.NoError(t, err)
	require.Equal(t, b.Plan, got.Plan)
	prod := &Operator{Store: &Store{URL: o.URL, Stack: "prod", Trusted: o.Trusted}, Key: o.Key}
	foreign, err := prod.signMark(kindProven, b, "")
	require.NoError(t, err)
	stranger := folder(t, "test")
	strange, err := stranger.signMark(kindProven, b, "")
	require.NoError(t, err)
	for name, c := range map[string]struct{ sealed, mark []byte }{
		"another publication's": {other.Sealed(), proven}, "to be tried": {b.Sealed(), tried},
		"none": {b.Sealed(), nil}, "another stack's": {b.Sealed(), foreign}, "by somebody else": {b.Sealed(), strange},
		"the publication itself": {b.Sealed(), b.Sealed()}, "of what is torn": {b.Sealed()[:40], proven},
		"of nothing": {nil, proven},
	} {
		got, err := o.VerifyProven(c.sealed, c.mark)
		var broken *BrokenError
		require.ErrorAs(t, err, &broken, name)
		require.Nil(t, got, name)
	}
}

// TestKept: what a control plane keeps is put into a store that has lost it, and into the
// place of nothing else.
func TestKept(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	b := o.store(t, policy("one.test"))
	mark, err := o.signMark(kindProven, b, "")
	require.NoError(t, err)
	require.NoError(t, o.Keep(t.Context(), b, mark), "its mark is missing")
	require.NoError(t, o.Proven(t.Context(), b))
	require.NoError(t, o.Keep(t.Context(), b, nil), "it is there")
	require.NoError(t, o.Proven(t.Context(), b))
	require.NoError(t, o.withdraw(t.Context(), b.Seq))
	require.NoError(t, o.Keep(t.Context(), b, mark))
	got, err := o.Current(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Hash(), got.Hash())
	require.NoError(t, o.Proven(t.Context(), got))

	require.NoError(t, o.withdraw(t.Context(), b.Seq))
	other := o.store(t, policy("other.test"))
	require.Equal(t, b.Seq, other.Seq)
	require.NoError(t, o.Keep(t.Context(), b, mark))
	got, err = o.Current(t.Context())
	require.NoError(t, err)
	require.Equal(t, other.Hash(), got.Hash())
	require.Error(t, o.Proven(t.Context(), got))

	file := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.WriteFile(file, b.Sealed(), 0o600))
	sealed, err := ReadKept(file)
	require.NoError(t, err)
	require.Equal(t, b.Sealed(), sealed)
	require.NoError(t, os.Truncate(file, maxBundle+1))
	_, err = ReadKept(file)
	var broken *BrokenError
	require.ErrorAs(t, err, &broken)
	require.ErrorContains(t, err, "larger than")
	_, err = ReadKept(file + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// serves is a control plane that says that it serves b.
func serves(t *testing.T, b *Bundle, version string) *api.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "serves") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		s := api.Status{}
		if b != nil {
			s.Seq, s.Version = b.Seq, version
		}
		assert.NoError(t, json.NewEncoder(w).Encode(s))
	})
	m.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, r *http.Request) {
		var sealed []byte
		if after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64); err == nil && b != nil &&
			b.Seq > after {
			sealed = b.Sealed()
		}
		assert.NoError(t, json.NewEncoder(w).Encode(sealed))
	})
	s := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return api.Dial(filepath.Join(dir, "s"))
}

// TestLive: what is live a control plane says; where none can be asked, it is the newest that
// is proven. What it serves is verified as everything is.
func TestLive(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	_, _, err := o.Live(t.Context())
	require.ErrorIs(t, err, ErrNone)
	one := o.store(t, policy("one.test"))
	_, asked, err := o.Live(t.Context())
	require.ErrorIs(t, err, ErrNone, "it is not proven")
	require.False(t, asked)
	require.NoError(t, o.mark(t.Context(), kindProven, one, ""))
	two := o.store(t, policy("two.test"))
	live, asked, err := o.Live(t.Context())
	require.NoError(t, err)
	require.False(t, asked)
	require.Equal(t, one.Seq, live.Seq)

	away := api.Dial(filepath.Join(t.TempDir(), "none"))
	o.Controls = []*api.Client{away, serves(t, two, two.version())}
	live, asked, err = o.Live(t.Context())
	require.NoError(t, err)
	require.True(t, asked)
	require.Equal(t, two.Seq, live.Seq)

	o.Controls = []*api.Client{serves(t, nil, "")}
	_, asked, err = o.Live(t.Context())
	require.ErrorIs(t, err, ErrNone)
	require.True(t, asked)

	// The store has another publication of that number.
	elsewhere := &Operator{Store: &Store{
		URL: "file://" + filepath.Join(t.TempDir(), "b"), Stack: "test", Trusted: o.Trusted,
	}, Key: o.Key}
	elsewhere.store(t, policy("x.test"))
	mine := elsewhere.store(t, policy("mine.test"))
	require.Equal(t, two.Seq, mine.Seq)
	o.Controls = []*api.Client{serves(t, mine, mine.version())}
	live, _, err = o.Live(t.Context())
	require.NoError(t, err)
	require.Equal(t, policy("mine.test"), live.Plan)

	stranger := folder(t, "test")
	stranger.store(t, policy("x.test"))
	forged := stranger.store(t, policy("evil.test"))
	o.Controls = []*api.Client{serves(t, forged, forged.version())}
	_, _, err = o.Live(t.Context())
	require.ErrorContains(t, err, "not one of the operators' keys that are trusted")
}

// TestVerifiedByOtherKeys: what was verified counts only as long as the same keys are trusted.
func TestVerifiedByOtherKeys(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.store(t, policy("one.test"))
	for range 2 {
		_, err := o.Get(t.Context(), 1)
		require.NoError(t, err)
	}
	other, err := os.ReadFile(folder(t, "test").Trusted)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(o.Trusted, other, 0o600))
	_, err = o.Get(t.Context(), 1)
	require.ErrorContains(t, err, "not one of the operators' keys that are trusted")
}

// TestEvicted: who was evicted stays so for as long as a certificate of a node is valid, and
// not for ever.
func TestEvicted(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.authority(t)
	now := time.Now().UTC()
	b := &Bundle{
		Seq: 1, Plan: policy("one.test"), Killed: Killed{Agents: []string{"a"}},
		Evicted: map[string]time.Time{"old": now.Add(-73 * time.Hour), "late": now.Add(-71 * time.Hour)},
	}
	require.NoError(t, o.create(t.Context(), nil, b))
	require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
	_, err := o.Evict(t.Context(), []string{"n1", "n2"})
	require.ErrorContains(t, err, "no control plane has reported")
	got, err := o.Current(t.Context())
	require.NoError(t, err)
	require.Len(t, got.Evicted, 3)
	require.Equal(t, now.Add(-71*time.Hour), got.Evicted["late"])
	for _, n := range []string{"n1", "n2"} {
		require.False(t, got.Evicted[n].Before(now), n)
	}
	require.Equal(t, []string{"a"}, got.Killed.Agents, "and who is killed stays so")
	require.NoError(t, o.Proven(t.Context(), got))
	require.Len(t, b.Evicted, 2, "what it follows is not changed")
}

// TestLosers: who loses something, and whose connections are of another generation then.
func TestLosers(t *testing.T) {
	t.Parallel()
	was, is := policy("one.test", "two.test"), policy("one.test")
	was.Agents = append(was.Agents, plan.Agent{Name: "b"}, plan.Agent{Name: "gone", Rules: was.Agents[0].Rules})
	is.Agents = append(is.Agents, plan.Agent{Name: "b", Rules: was.Agents[0].Rules}, plan.Agent{Name: "new"})
	require.Equal(t, []string{"a"}, Losers(was, is))
	require.Equal(t, []string{"b"}, Losers(is, was))
	before := &Bundle{Plan: was, Generations: map[string]string{"a": "old", "b": "kept", "gone": "gone"}}
	got := generations(7, before, is)
	require.Equal(t, map[string]string{"a": generation(7, "a"), "b": "kept"}, got)
	require.NotEqual(t, generation(7, "a"), generation(8, "a"))
	require.NotEqual(t, generation(7, "a"), generation(7, "b"))
	require.Regexp(t, "^[0-9a-f]{8}$", generation(7, "a"))
}
