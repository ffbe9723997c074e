package bundle

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// told is a control plane of which only the answer to sync counts.
func told(t *testing.T, sync func() api.Converged) *api.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "told") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("null")) })
	m.HandleFunc("POST /v1/sync", func(w http.ResponseWriter, _ *http.Request) {
		assert.NoError(t, json.NewEncoder(w).Encode(sync()))
	})
	s := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return api.Dial(path)
}

// TestOvertaken: who is overtaken between publishing and telling the control plane
// is told so, and not that theirs is live.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	theirs := *o
	o.Controls = []*api.Client{told(t, func() api.Converged {
		b := theirs.store(t, policy("theirs.test"))
		assert.NoError(t, theirs.mark(t.Context(), kindProven, b, ""))
		return api.Converged{Seq: b.Seq, Version: b.version(), Nodes: 1}
	})}
	_, err := o.Publish(t.Context(), policy("ours.test"))
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, uint64(2), conflict.Theirs.Seq)
	require.ErrorContains(t, err, "theirs.test")
	ours, err := o.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Error(t, o.Proven(t.Context(), ours), "it was never live")
	view, err := o.Look(t.Context())
	require.NoError(t, err)
	require.False(t, view.Marked(1))
	require.True(t, view.Marked(2))
}

// TestEarlier: the version before is one that was live, and wanted.
func TestEarlier(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	publish := func(host string, proven bool, back uint64) *Bundle {
		before, seq, err := o.base(t.Context(), nil)
		if seq > 1 {
			require.NoError(t, err)
		}
		b := &Bundle{Seq: seq, Plan: policy(host), TakesBack: back}
		require.NoError(t, o.create(t.Context(), before, b))
		if proven {
			require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
		}
		return b
	}
	earlier := func() (*Bundle, error) {
		history, err := o.History(t.Context())
		require.NoError(t, err)
		return o.Earlier(t.Context(), history, history[0].version())
	}
	one := publish("one.test", true, 0)
	_, err := earlier()
	require.ErrorIs(t, err, ErrNone)
	publish("two.test", true, 0)
	publish("refused.test", false, 0)
	publish("two.test", true, 3)
	publish("halfway.test", true, 0)
	publish("two.test", true, 5)
	got, err := earlier()
	require.NoError(t, err)
	require.Equal(t, one.Seq, got.Seq)
	publish("waiting.test", false, 0)
	o.plant(t, object(publish("forged.test", false, 0).Seq, suffixProven), "{}")
	publish("three.test", true, 0)
	got, err = earlier()
	require.NoError(t, err)
	require.Equal(t, policy("two.test"), got.Plan)
}

// TestNarrowsByAnotherRule: a rule that allows takes something all the same if it
// decides, in another way, what another one decided.
func TestNarrowsByAnotherRule(t *testing.T) {
	t.Parallel()
	rule := func(id, host, credential, mode string) plan.Rule {
		return plan.Rule{
			ID: id, Host: host, Port: 443, Mode: mode, Methods: []string{"GET"}, Paths: []string{"/" + id},
			Credential: credential,
		}
	}
	own := rule("own", "x.test", "", "")
	own.OwnCredentials = true
	first := rule("first", "x.test", "k1", "")
	wider := first
	wider.Paths = []string{plan.AnyPath}
	tunnel := rule("t", "*.test", "", plan.ModeTunnel)
	for name, c := range map[string]struct {
		was, is []plan.Rule
		narrows bool
	}{
		"wider before another credential": {[]plan.Rule{first, own}, []plan.Rule{wider, own}, true},
		"wider after it":                  {[]plan.Rule{own, first}, []plan.Rule{own, wider}, false},
		"wider before the same credential": {
			[]plan.Rule{first, rule("x", "x.test", "k1", "")},
			[]plan.Rule{wider, rule("x", "x.test", "k1", "")},
			false,
		},
		"wider at another host": {
			[]plan.Rule{first, rule("x", "y.test", "k2", "")},
			[]plan.Rule{wider, rule("x", "y.test", "k2", "")},
			false,
		},
		"new before another credential": {[]plan.Rule{own}, []plan.Rule{first, own}, true},
		"new after it":                  {[]plan.Rule{own}, []plan.Rule{own, first}, false},
		"new below a wildcard's own key": {
			[]plan.Rule{rule("w", "*.test", "k2", "")},
			[]plan.Rule{first, rule("w", "*.test", "k2", "")},
			true,
		},
		"intercepted below a tunnel": {
			[]plan.Rule{tunnel},
			[]plan.Rule{tunnel, rule("x", "x.test", "", "")},
			true,
		},
		"a tunnel above what is intercepted": {
			[]plan.Rule{rule("x", "x.test", "", "")},
			[]plan.Rule{rule("x", "x.test", "", ""), tunnel},
			true,
		},
		"a tunnel elsewhere": {
			[]plan.Rule{tunnel},
			[]plan.Rule{tunnel, rule("x", "x.example", "", "")},
			false,
		},
	} {
		require.Equal(t, c.narrows, narrows(plan.Agent{Rules: c.was}, plan.Agent{Rules: c.is}), name)
	}
}

// TestReportIsReadable: however much a control plane has to say.
func TestReportIsReadable(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	reporter := o.authority(t)
	r := &api.Replica{ID: "a", Time: time.Now(), Seq: 1, Problem: "it is late"}
	for range 50 {
		r.Fleet = append(r.Fleet, api.Node{
			ID: strings.Repeat("n", 63), Nack: strings.Repeat("<", 200),
			Types: []api.Type{{Nack: strings.Repeat("<", 200)}, {Nack: strings.Repeat("<", 200)}},
		})
	}
	require.NoError(t, o.Report(t.Context(), r, reporter("test")))
	got, err := o.ReadReport(t.Context(), "a")
	require.NoError(t, err)
	require.NotNil(t, got)
	require.Equal(t, "it is late", got.Problem)
	require.Len(t, r.Fleet, 50)
}
