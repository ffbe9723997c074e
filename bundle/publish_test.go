package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

// answers is a control plane that answers to a publication with what sync returns.
func answers(t *testing.T, sync func() (api.Converged, *api.Error)) *api.Client {
	t.Helper()
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("null")) })
	m.HandleFunc("POST /v1/sync", func(w http.ResponseWriter, _ *http.Request) {
		v, refused := sync()
		if refused != nil {
			w.WriteHeader(http.StatusConflict)
			assert.NoError(t, json.NewEncoder(w).Encode(refused))
			return
		}
		assert.NoError(t, json.NewEncoder(w).Encode(v))
	})
	return controlled(t, m)
}

// controlled is a client of a control plane that answers with h.
func controlled(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "answers") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return api.Dial(filepath.Join(dir, "s"))
}

// newest is what is in the store on top, and whether it is proven.
func (o *Operator) newest(t *testing.T) (b *Bundle, proven bool) {
	t.Helper()
	b, err := o.Current(t.Context())
	require.NoError(t, err)
	return b, o.Proven(t.Context(), b) == nil
}

// TestPublishKeepsWhatWasDecided: a new plan frees nobody who was killed, lets nobody back
// who was evicted, and cuts those who lose something and nobody else.
func TestPublishKeepsWhatWasDecided(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	at := time.Now().UTC().Add(-time.Hour)
	first := &Bundle{
		Seq: 1, Plan: policy("one.test", "two.test"), Killed: Killed{Agents: []string{"a"}},
		Generations: map[string]string{"a": "old", "gone": "gone"}, Evicted: map[string]time.Time{"n1": at},
	}
	require.NoError(t, o.create(t.Context(), nil, first))
	require.NoError(t, o.mark(t.Context(), kindProven, first, ""))
	var told atomic.Uint64
	o.Controls = []*api.Client{answers(t, func() (api.Converged, *api.Error) {
		b, err := o.Current(t.Context())
		assert.NoError(t, err)
		assert.Error(t, o.Proven(t.Context(), b), "it is proven when the first has taken it")
		told.Store(b.Seq)
		return api.Converged{Seq: b.Seq, Version: b.version(), Nodes: 3, Missing: []api.Missing{{Node: "n9"}}}, nil
	})}
	v, err := o.Publish(t.Context(), policy("one.test", "two.test", "three.test"))
	require.NoError(t, err)
	require.Equal(t, []any{uint64(2), 3, 1}, []any{v.Seq, v.Nodes, len(v.Missing)})
	require.Equal(t, uint64(2), told.Load())
	b, proven := o.newest(t)
	require.True(t, proven)
	require.Equal(t, v.Version, b.version())
	require.Equal(t, policy("one.test", "two.test", "three.test"), b.Plan)
	require.Equal(t, Killed{Agents: []string{"a"}}, b.Killed)
	require.Equal(t, map[string]time.Time{"n1": at}, b.Evicted)
	require.Equal(t, map[string]string{"a": "old"}, b.Generations, "it loses nothing")

	_, err = o.Publish(t.Context(), policy("three.test"))
	require.NoError(t, err)
	b, _ = o.newest(t)
	require.Equal(t, map[string]string{"a": generation(3, "a")}, b.Generations)
	require.Equal(t, []string{"a"}, b.Killed.Agents)
}

// TestRefusedIsTakenBack: what the first control plane refuses was never there; what another
// refuses after it is taken back, everywhere.
func TestRefusedIsTakenBack(t *testing.T) {
	t.Parallel()
	took := func(o *Operator) func() (api.Converged, *api.Error) {
		return func() (api.Converged, *api.Error) {
			b, err := o.Current(t.Context())
			assert.NoError(t, err)
			return api.Converged{Seq: b.Seq, Version: b.version(), Nodes: 1}, nil
		}
	}
	refuses := func(o *Operator) func() (api.Converged, *api.Error) {
		return func() (api.Converged, *api.Error) {
			if b, err := o.Current(t.Context()); err == nil && b.TakesBack != 0 {
				return api.Converged{Seq: b.Seq, Nodes: 1}, nil
			}
			return api.Converged{}, &api.Error{Message: "a node refuses it"}
		}
	}
	publish := func(t *testing.T) *Operator {
		o := folder(t, "test")
		first := &Bundle{Seq: 1, Plan: policy("one.test"), Killed: Killed{Agents: []string{"a"}}}
		require.NoError(t, o.create(t.Context(), nil, first))
		require.NoError(t, o.mark(t.Context(), kindProven, first, ""))
		return o
	}
	t.Run("by the first", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.Controls = []*api.Client{answers(t, refuses(o)), answers(t, took(o))}
		v, err := o.Publish(t.Context(), policy("two.test"))
		require.EqualError(t, err, "a node refuses it")
		require.Nil(t, v)
		b, proven := o.newest(t)
		require.Equal(t, []any{uint64(1), true}, []any{b.Seq, proven})
	})
	t.Run("by another", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.Controls = []*api.Client{answers(t, took(o)), answers(t, refuses(o))}
		v, err := o.Publish(t.Context(), policy("two.test"))
		require.EqualError(t, err, "a node refuses it")
		require.Nil(t, v)
		b, proven := o.newest(t)
		require.Equal(t, []any{uint64(3), uint64(2), true}, []any{b.Seq, b.TakesBack, proven})
		require.Equal(t, "takes back 2: a node refuses it", b.Note)
		require.Equal(t, policy("one.test"), b.Plan)
		require.Equal(t, []string{"a"}, b.Killed.Agents)
		require.Equal(t, map[string]string{"a": generation(3, "a")}, b.Generations, "who had it loses it")
	})
	t.Run("nobody is there", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.Controls = []*api.Client{api.Dial(filepath.Join(t.TempDir(), "none"))}
		_, err := o.Publish(t.Context(), policy("two.test"))
		require.ErrorContains(t, err, "reach the control plane")
		b, proven := o.newest(t)
		require.Equal(t, []any{uint64(1), true}, []any{b.Seq, proven})
	})
	t.Run("another is away", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		var said []string
		o.Say = func(line string) { said = append(said, line) }
		o.Controls = []*api.Client{
			api.Dial(filepath.Join(t.TempDir(), "none")), answers(t, took(o)),
			api.Dial(filepath.Join(t.TempDir(), "none")), answers(t, took(o)),
		}
		v, err := o.Publish(t.Context(), policy("two.test"))
		require.NoError(t, err)
		require.Equal(t, []any{uint64(2), 2}, []any{v.Seq, v.Nodes})
		_, proven := o.newest(t)
		require.True(t, proven)
		require.Len(t, said, 2)
		require.Contains(t, said[1], "it takes the publication when it is back")
	})
	t.Run("over another plan than was shown", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		for over, ok := range map[*Bundle]bool{
			{}: false, {Seq: 1, Plan: policy("other.test")}: false, {Seq: 1, Plan: policy("one.test")}: true,
		} {
			o := *o
			o.Over, o.Controls = over, []*api.Client{answers(t, took(&o))}
			_, err := o.Publish(t.Context(), policy("one.test"))
			var conflict *ConflictError
			require.Equal(t, ok, err == nil, "%+v: %v", over, err)
			if !ok {
				require.ErrorAs(t, err, &conflict)
			}
		}
	})
}

// TestWithdrawTakesTheMarks: what is left of a publication that was withdrawn says nothing of
// the next one of its number.
func TestWithdrawTakesTheMarks(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.store(t, policy("one.test"))
	b := o.store(t, policy("two.test"))
	require.NoError(t, o.mark(t.Context(), kindTry, b, "a"))
	require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
	require.NoError(t, o.withdraw(t.Context(), b.Seq))
	left, err := os.ReadDir(o.folder())
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, "0000000000000001.json", left[0].Name())
}

// TestLinked: which stores this program can open.
func TestLinked(t *testing.T) {
	t.Parallel()
	for store, want := range map[string]bool{
		"file:///x": true, "s3://bucket": false, "gs://bucket": false, "": false, "x": false, "http://h.test/": false,
		"%zz": false,
	} {
		require.Equal(t, want, Linked(store), store)
	}
	_, err := (&Store{URL: "s3://bucket"}).Look(t.Context())
	require.EqualError(t, err, "open the bundle store s3://bucket: this program was built without the drivers of "+
		"clouds: use the one called -cloud, which `make cloud` builds")
}

// TestLiveIsWhatIsSent: of a control plane, what it sends counts, and not what it says.
func TestLiveIsWhatIsSent(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	one := o.store(t, policy("one.test"))
	o.Controls = []*api.Client{serves(t, one, "0123456789abcdef")}
	live, _, err := o.Live(t.Context())
	require.NoError(t, err)
	require.Equal(t, one.Hash(), live.Hash())
}

// TestBaseIsTheNewestAnywhere: a store that has lost something takes nothing back. What a
// control plane serves counts if it is newer, and verified.
func TestBaseIsTheNewestAnywhere(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	one := o.store(t, policy("one.test"))
	two := o.store(t, policy("two.test"))
	require.NoError(t, o.withdraw(t.Context(), two.Seq))
	for _, c := range []struct {
		served *Bundle
		base   *Bundle
		next   uint64
	}{{two, two, 3}, {one, one, 2}, {nil, one, 2}} {
		o.Controls = []*api.Client{serves(t, c.served, "")}
		b, next, err := o.base(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, []any{c.base.Hash(), c.next}, []any{b.Hash(), next})
	}
	o.Controls = []*api.Client{serves(t, nil, ""), serves(t, two, "")}
	b, _, err := o.base(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, two.Hash(), b.Hash())
	stranger := folder(t, "test")
	stranger.store(t, policy("x.test"))
	o.Controls = []*api.Client{serves(t, stranger.store(t, policy("evil.test")), "")}
	_, _, err = o.base(t.Context(), nil)
	require.ErrorContains(t, err, "the control plane's publication: ")
}

// TestKeysOfOtherKinds: a key that is not Ed25519 signs nothing, and a file of trusted keys
// without its last newline loses none.
func TestKeysOfOtherKinds(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(other, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	_, err = readKey(other)
	require.ErrorContains(t, err, "is not an Ed25519 key in PEM")
	_, err = readKey(t.TempDir())
	require.ErrorContains(t, err, "read the operator's key")
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	trusted := filepath.Join(t.TempDir(), "trusted.pem")
	require.NoError(t, os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	_, err = ReadTrusted(trusted)
	require.ErrorContains(t, err, "has something that is not an Ed25519 public key")
	require.False(t, HasKey(o.Key, trusted))

	edit(t, o.Trusted, func(s string) string { return strings.TrimRight(s, "\n") })
	require.NoError(t, os.Remove(o.Key))
	err = MakeKey(o.Key, o.Trusted)
	require.NoError(t, err)
	keys, err := ReadTrusted(o.Trusted)
	require.NoError(t, err)
	require.Len(t, keys, 2)
	require.True(t, HasKey(o.Key, o.Trusted))
}

// TestReportsInOrder: replicas are listed by name.
func TestReportsInOrder(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	reporter := o.authority(t)
	for _, id := range []string{"c", "a", "d", "b", "e", "f"} {
		require.NoError(t, o.Report(t.Context(), &api.Replica{ID: id, Time: time.Now()}, reporter("test")))
	}
	all, err := o.Reports(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	require.Equal(t, []string{"a", "b", "c", "d", "e", "f"}, ids)
}
