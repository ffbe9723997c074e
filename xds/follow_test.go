package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
)

// world is a store in a folder, an operator, and what control planes need.
type world struct {
	dir string
	*bundle.Operator
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	dir, err := os.MkdirTemp("", "follow")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	w := &world{dir: dir}
	w.write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	w.write(t, "ca.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	w.Operator = &bundle.Operator{
		Store: &bundle.Store{URL: "file://" + w.path("bundle"), Stack: "test", Trusted: w.path("trusted.pem")},
		Key:   w.path("ed25519"),
	}
	err = bundle.MakeKey(w.Key, w.Trusted)
	require.NoError(t, err)
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(t *testing.T, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(w.path(name), content, 0o600))
}

func (w *world) read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(w.path(name))
	require.NoError(t, err)
	return content
}

// start starts a control plane whose looks into the store the test makes.
func (w *world) start(t *testing.T, name string) *Control {
	t.Helper()
	require.NoError(t, os.MkdirAll(w.path(name), 0o700))
	c, err := New(Config{
		Store: w.URL, Stack: w.Stack, Trusted: w.Trusted, Replica: name, CACert: w.path("ca.pem"),
		CAKey: w.path("ca.key"),
		State: w.path(name), Envoy: envoy.Options{Roots: w.path("ca.pem")}, Agents: hostpath.In(w.path(name)),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	require.NoError(t, c.resume(t.Context()))
	c.rollout.Unlock()
	t.Cleanup(c.secrets.Close)
	return c
}

// dial serves the operator API of c.
func (w *world) dial(t *testing.T, c *Control) *api.Client {
	t.Helper()
	socket := w.path(c.cfg.Replica + ".sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return api.Dial(socket)
}

func (w *world) publish(t *testing.T, hosts ...string) {
	t.Helper()
	_, err := w.Publish(t.Context(), policyOf(hosts...))
	require.NoError(t, err)
}

func policyOf(hosts ...string) *plan.Plan {
	a := plan.Agent{Name: "a"}
	for _, h := range hosts {
		a.Rules = append(a.Rules, plan.Rule{
			ID: "a/" + h, Host: h, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		})
	}
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{a}}
}

// TestFollow: a replica takes what another has proven, and nothing else.
func TestFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	w.Controls = []*api.Client{w.dial(t, a)}
	require.Empty(t, b.look(t.Context(), time.Now()), "nothing was published, and that is no problem")
	w.publish(t, "one.test")
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.Equal(t, uint64(1), b.Status().Seq)
	require.Equal(t, a.Status().Version, b.Status().Version)

	w.publish(t, "two.test")
	const second = "bundle/0000000000000002"
	mark := w.read(t, second+".ok")
	require.NoError(t, os.Remove(w.path(second+".ok")))
	for range 3 {
		require.Empty(t, b.look(t.Context(), time.Now()))
		require.Equal(t, uint64(1), b.Status().Seq, "what is not proven does not spread")
	}
	require.Contains(t, b.look(t.Context(), time.Now().Add(2*unfinished)),
		"never converged anywhere, and was not taken back; publication 1 stays live")
	w.write(t, second+".ok", []byte(strings.Replace(string(mark), `"seq":2`, `"seq":3`, 1)))
	require.Contains(t, b.look(t.Context(), time.Now()), "the mark of publication 2 cannot be used")
	require.Equal(t, uint64(1), b.Status().Seq)
	w.write(t, second+".ok", mark)
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.Equal(t, uint64(2), b.Status().Seq)

	// Killed: no proof is waited for, and a restart knows it without the store.
	_, err := w.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.Equal(t, []string{"a"}, b.Status().Killed)
	require.NoError(t, os.Rename(w.path("bundle"), w.path("away")))
	require.Equal(t, []string{"a"}, w.start(t, "b").Status().Killed)
}

// TestStartsWithTheStore: nodes that come to a control plane which was away are not
// put back to what was before.
func TestStartsWithTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	w.Controls = []*api.Client{w.dial(t, a)}
	w.publish(t, "one.test")
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.False(t, stopped(t, b))
	_, err := w.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	_, err = w.Evict(t.Context(), []string{"n9"})
	require.NoError(t, err)
	// Nobody has signed this, and it hides nothing.
	w.write(t, "bundle/0000000000000004.json", w.read(t, "bundle/0000000000000001.json"))
	w.write(t, "bundle/0000000000000004.ok", w.read(t, "bundle/0000000000000001.ok"))
	b = w.start(t, "b") // it has not looked yet
	require.True(t, stopped(t, b))
	require.True(t, b.Removed("n9"))
	require.Equal(t, uint64(1), b.Status().Seq, "no node has acknowledged it")
	require.Contains(t, b.look(t.Context(), time.Now()), "publication 4 cannot be used")
	require.NoError(t, b.serve(t.Context(), b.bundle())) // as when a lease ends
	require.True(t, stopped(t, b), "what is planted does not bring anybody back")

	// Nor is it forgotten if the store is away next time.
	require.NoError(t, os.Rename(w.path("bundle"), w.path("away")))
	b = w.start(t, "b")
	require.True(t, stopped(t, b))
	require.Equal(t, []string{"a"}, b.Status().Killed)
	require.True(t, b.Removed("n9"))
	require.NoError(t, os.Rename(w.path("away"), w.path("bundle")))
	for _, planted := range []string{".json", ".ok"} {
		require.NoError(t, os.Remove(w.path("bundle/0000000000000004"+planted)))
	}
	b = w.start(t, "b")
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.Equal(t, uint64(3), b.Status().Seq)
}

// stopped reports whether what is served to nodes stops agent a.
func stopped(t *testing.T, c *Control) bool {
	t.Helper()
	var l listenerv3.Listener
	require.NoError(t,
		maps.Collect(c.cache.Table(resource.ListenerType).All())["agent/a"].GetResource().UnmarshalTo(&l))
	return l.GetFilterChains()[0].GetName() == "killed"
}

// TestKillIsKept: a kill in a publication that could not be rolled out whole holds
// after a restart too, without the store.
func TestKillIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	w.Controls = []*api.Client{w.dial(t, a)}
	w.publish(t, "one.test")
	require.Empty(t, b.look(t.Context(), time.Now()))
	w.publish(t, "two.test")
	_, err := w.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	good := w.path("b/good.bundle")
	b.ledger.Allow("n")
	require.NoError(t, b.ledger.OnStreamDeltaRequest(1,
		&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "n"}, TypeUrl: resource.SecretType}))
	before, err := os.ReadFile(good)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NotEmpty(t, b.look(ctx, time.Now()), "the node takes nothing")
	require.Equal(t, []string{"a"}, b.Status().Killed)
	after, err := os.ReadFile(good)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, os.Rename(w.path("bundle"), w.path("away")))
	require.Equal(t, []string{"a"}, w.start(t, "b").Status().Killed)
}

// TestStoreFaults: nothing new is served, what was good stays, and status says why.
func TestStoreFaults(t *testing.T) {
	t.Parallel()
	const first, second, third = "bundle/0000000000000001", "bundle/0000000000000002", "bundle/0000000000000003"
	for name, test := range map[string]struct {
		do      func(t *testing.T, w *world)
		problem string
		// heals is whether publishing again is all that is needed.
		heals bool
	}{
		"empty": {func(t *testing.T, w *world) {
			require.NoError(t, os.RemoveAll(w.path("bundle")))
		}, "the store shows publication 0 as its newest, but 2 was published already", true},
		"old": {func(t *testing.T, w *world) {
			require.NoError(t, os.Remove(w.path(second+".json")))
		}, "the store shows publication 1 as its newest, but 2 was published already", true},
		"changed": {
			func(t *testing.T, w *world) {
				w.write(t, second+".json", []byte(strings.Replace(string(w.read(t, second+".json")), "two.test", "not.test",
					1)))
			}, "publication 2 cannot be used: its signature is wrong: it was changed, or is torn; publication 2 stays live",
			true,
		},
		"torn": {func(t *testing.T, w *world) {
			w.write(t, third+".json", w.read(t, second+".json")[:100])
		}, "publication 3 cannot be used: it is torn, or no publication at all; publication 2 stays live", true},
		"replayed": {func(t *testing.T, w *world) {
			w.write(t, third+".json", w.read(t, first+".json"))
			w.write(t, third+".ok", w.read(t, first+".ok"))
		}, "publication 3 cannot be used: it says that it is \"bundle/1\" number 1", true},
		"a key that is not trusted": {func(t *testing.T, w *world) {
			require.NoError(t, os.Remove(w.Key))
			require.NoError(t, os.Rename(w.Trusted, w.Trusted+".old"))
			err := bundle.MakeKey(w.Key, w.Trusted)
			require.NoError(t, err)
			require.NoError(t, os.Chtimes(w.path(second+".json"), time.Time{}, time.Now().Add(time.Second)))
		}, "which is not one of the operators' keys that are trusted", false},
		"unreachable": {func(t *testing.T, w *world) {
			require.NoError(t, os.RemoveAll(w.path("bundle")))
			w.write(t, "bundle", nil)
		}, "is not a directory; publication 2 stays live", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.start(t, "a")
			w.Controls = []*api.Client{w.dial(t, c)}
			w.publish(t, "one.test")
			w.publish(t, "two.test")
			require.Empty(t, c.look(t.Context(), time.Now()))
			test.do(t, w)
			version := c.Status().Version
			for range 2 { // the first may think that somebody publishes right now
				c.follower.problem = c.look(t.Context(), time.Now())
			}
			require.Contains(t, c.Status().Problem, test.problem)
			_, err := c.Sync(t.Context())
			require.Error(t, err)
			require.Equal(t, version, c.Status().Version)
			if !test.heals {
				return
			}
			// It starts with what it had, and the operator goes on from there.
			require.Equal(t, version, w.start(t, "a").Status().Version)
			_, err = w.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
			require.NoError(t, err)
			require.Empty(t, c.look(t.Context(), time.Now()))
			require.Equal(t, version, c.Status().Version)
			require.Equal(t, []string{"a"}, c.Status().Killed)
		})
	}
}

// TestStateForged: what is kept is verified as what is published is.
func TestStateForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(t, "a")
	w.Controls = []*api.Client{w.dial(t, c)}
	w.publish(t, "one.test")
	require.NoError(t, os.RemoveAll(w.path("bundle")))
	require.Equal(t, uint64(1), w.start(t, "a").Status().Seq)
	w.write(t, "a/good.bundle", []byte(strings.Replace(string(w.read(t, "a/good.bundle")), "one.test", "not.test", 1)))
	require.Zero(t, w.start(t, "a").Status().Seq)
}

// TestSilentStore: a store that does not answer is a problem after a while.
func TestSilentStore(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start(t, "a")
	require.Empty(t, c.Status().Problem)
	c.mu.Lock()
	c.follower.asked = time.Now().Add(-5 * time.Second)
	c.mu.Unlock()
	require.Contains(t, c.Status().Problem, "the bundle store has not answered for 5s")
}

// TestReports: replicas know of each other, and who is gone.
func TestReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	a.report(t.Context(), time.Now())
	b.report(t.Context(), time.Now().Add(-2*bundle.Stale))
	require.Empty(t, a.look(t.Context(), time.Now()))
	s := a.Status()
	require.Equal(t, "a", s.Replica)
	require.Len(t, s.Replicas, 2)
	require.Equal(t, []bool{false, true}, []bool{s.Replicas[0].Stale, s.Replicas[1].Stale})
}

// TestReportOfALargeFleet: what is wrong has room, whatever else there is, and what
// nodes say does not fill it.
func TestReportOfALargeFleet(t *testing.T) {
	t.Parallel()
	s := &api.Status{Version: "v"}
	for i := range 1000 {
		s.Nodes = append(s.Nodes, api.Node{
			ID: fmt.Sprint("n", i), Connected: true, Version: "v", LastAck: time.Now(),
			Types: []api.Type{{Name: "listeners", Version: "v", AckedAt: time.Now()}},
		})
	}
	s.Nodes[700].Connected = false
	s.Nodes[900].Nack = strings.Repeat("no", 1000)
	got := fleet(s)
	require.Len(t, got, maxFleet)
	require.Equal(t, []string{"n700", "n900", "n0"}, []string{got[0].ID, got[1].ID, got[2].ID})
	require.Less(t, len(got[1].Nack), 300)
	require.Zero(t, got[2].LastAck)
	require.Zero(t, got[2].Types[0].AckedAt)
	require.NotZero(t, s.Nodes[0].Types[0].AckedAt, "the status itself stays")
}

// TestDeleted: whoever can delete objects does not have a control plane that has
// nothing of its own serve an older policy, while another is there that reports.
func TestDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start(t, "a")
	w.Controls = []*api.Client{w.dial(t, a)}
	w.publish(t, "one.test")
	w.publish(t, "one.test", "two.test")
	a.report(t.Context(), time.Now())
	for _, suffix := range []string{".json", ".ok"} {
		require.NoError(t, os.Remove(w.path("bundle/0000000000000002"+suffix)))
	}
	b := w.start(t, "b")
	problem := b.look(t.Context(), time.Now())
	require.Contains(t, problem, "the store shows publication 1 as its newest, but control plane a serves 2")
	require.Zero(t, b.Status().Seq)
	// Forged, that does not work.
	w.write(t, "bundle/replicas/a.json", []byte(strings.Replace(string(w.read(t, "bundle/replicas/a.json")), `"seq":2`,
		`"seq":9`, 1)))
	require.NotEmpty(t, b.look(t.Context(), time.Now()), "it was known before")
	c := w.start(t, "c")
	require.Empty(t, c.look(t.Context(), time.Now()))
	require.Equal(t, uint64(1), c.Status().Seq)
}

// TestRemovedElsewhere: a node that is removed at one replica is removed at all,
// for as long as its certificate may be valid, and also after a restart.
func TestRemovedElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	require.NoError(t, b.AddNode("n1"))
	// It has joined b by its certificate.
	cert := &x509.Certificate{URIs: []*url.URL{svid.ID{Stack: "test", Node: "web-1"}.URI()}}
	over := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}})
	require.NoError(t, b.ledger.OnDeltaStreamOpen(over, 1, ""))
	require.NoError(t, b.ledger.OnStreamDeltaRequest(1,
		&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web-1"}, TypeUrl: resource.SecretType}))
	require.NoError(t, a.RemoveNode("web-1"))
	require.NoError(t, a.RemoveNode("n1"))
	a.report(t.Context(), time.Now())
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.True(t, b.Removed("web-1"))
	require.False(t, b.ledger.Member("web-1"))
	require.False(t, b.Removed("n1"), "a local node of the same name is another one")
	require.True(t, b.ledger.Member("n1"))
	require.True(t, w.start(t, "b").Removed("web-1"))
	// It does not come back from b when a has forgotten it.
	later := time.Now().Add(3 * svid.Lifetime)
	require.False(t, a.ledger.Adopt(b.ledger.Removals(time.Now()), later))
	require.Empty(t, a.ledger.Removals(later))
	require.False(t, a.ledger.Adopt(b.ledger.Removals(time.Now()), later))
}
