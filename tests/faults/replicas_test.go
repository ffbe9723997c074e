package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// twin is a stack of two control planes, c1 and c2, with one store, and two nodes
// that join them: processes of their own, on ports of loopback. Nodes on one
// machine share an agent's port: the kernel gives a connection to either.
type twin struct {
	*storm
	// agents are the ports of the agents a and b.
	agents [2]uint16
	apis   []*api.Client
}

func newTwin(t *testing.T) *twin {
	t.Helper()
	root, err := os.MkdirTemp("", "twin") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	homes := map[string]home.Folder{"c1": {Root: filepath.Join(root, "c1", "faults")}, "c2": {Root: filepath.Join(root, "c2", "faults")}}
	first := homes["c1"]
	s := &stack{t: t, home: first, ca: fleet.NewCA(t, "faults"), programs: map[string]*fleet.Program{}}
	fleet.WriteHome(t, first, s.ca)
	second := homes["c2"]
	for _, dir := range []string{second.CADir(), second.OperatorDir(), filepath.Join(root, "fleet")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	for from, to := range map[string]string{first.CACert(): second.CACert(), first.CAKey(): second.CAKey(), first.Trusted(): second.Trusted()} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, b, 0o600))
	}
	require.NoError(t, os.WriteFile(second.StoreFile(), []byte(first.BundleURL()), 0o600))
	cert, key, err := svid.NewAuthority("faults", time.Now())
	require.NoError(t, err)
	token, hash := svid.NewToken()
	in := func(name string, content []byte) string {
		path := filepath.Join(root, "fleet", name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	ca, caKey, tokens, join := in("ca.pem", cert), in("ca.key", key), in("tokens", []byte(hash)), in("token", []byte(token))
	port := map[string]string{"c1": address(fleet.FreePort(t)), "c2": address(fleet.FreePort(t))}
	s.args = func(name string) []string {
		if h, ok := homes[name]; ok {
			return []string{"control", "--home", h.Root, "--replica", name, "--stack", "faults", "--xds-listen", port[name], "--fleet-ca", ca, "--fleet-ca-key", caKey, "--join-tokens", tokens}
		}
		return []string{
			"node", "--id", name, "--stack", "faults", "--control", port["c1"] + "," + port["c2"], "--dir", filepath.Join(root, name), "--audit", first.AuditDir(),
			"--fleet-ca", ca, "--join-token-file", join, "--envoy", fleet.Envoy(t),
		}
	}
	w := &twin{storm: &storm{stack: s}, agents: [2]uint16{fleet.FreePort(t), fleet.FreePort(t)}}
	for _, name := range []string{"c1", "c2"} {
		s.start(name)
		w.apis = append(w.apis, api.Dial(homes[name].ControlSocket()))
	}
	s.start("n1")
	s.start("n2")
	w.up = fleet.NewUpstream(t, first, s.ca, "api.test")
	return w
}

func address(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// policy is the storm's for agent a; agent b may always.
func (w *twin) policy(i int) *plan.Plan {
	p := w.storm.policy(i)
	p.Agents[0].Port = w.agents[0]
	always := p.Agents[0].Rules[0]
	always.ID = "b/always"
	p.Agents = append(p.Agents, plan.Agent{Name: "b", Port: w.agents[1], Rules: []plan.Rule{always}})
	return p
}

// client is an agent behind a load balancer.
func (w *twin) client(port uint16) *http.Client {
	c := fleet.AgentClient(w.ca, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address(port))
		if err == nil {
			_, err = conn.Write(fleet.Header())
		}
		return conn, err
	})
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return c
}

// operator publishes to both control planes, the named one first.
func (w *twin) operator(first int) *bundle.Operator {
	o := fleet.Operator(w.home)
	o.Controls = []*api.Client{w.apis[first], w.apis[1-first]}
	return o
}

// together waits until both nodes, at whichever replica, have all of p.
func (w *twin) together(p *plan.Plan) {
	w.t.Helper()
	version, err := p.Version()
	require.NoError(w.t, err)
	var last []*api.Status
	for end := time.Now().Add(patience); time.Now().Before(end); {
		last = nil
		have := map[string]bool{}
		for _, c := range w.apis {
			s, err := c.Status(w.t.Context())
			if err != nil {
				continue
			}
			last = append(last, s)
			for _, n := range s.Nodes {
				if n.Connected && n.Version == version {
					have[n.ID] = true
				}
			}
		}
		if len(have) == 2 && len(last) == 2 && last[0].Version == version && last[1].Version == version {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	w.t.Log(w.said())
	require.FailNow(w.t, "the nodes never had policy "+version, "%+v", last)
}

// newest is the path of the object with the highest number.
func (w *twin) newest() (path string, seq int) {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.home.Root, "bundle", "*.json"))
	require.NoError(w.t, err)
	require.NotEmpty(w.t, found)
	path = slices.Max(found)
	seq, err = strconv.Atoi(fmt.Sprint(filepath.Base(path)[:len(filepath.Base(path))-len(".json")]))
	require.NoError(w.t, err)
	return path, seq
}

// TestReplicaStorm: two operators publish to two control planes while these, nodes
// and Envoys are killed and the store is torn, put back and slow to be listed; an
// agent is killed in the middle of it.
func TestReplicaStorm(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	w.rotate(0)
	live := func(p *plan.Plan, first int) {
		t.Helper()
		var last error
		require.Eventually(t, func() bool {
			_, last = w.operator(first).Publish(t.Context(), p)
			return last == nil
		}, patience, 50*time.Millisecond, "%v", &last)
	}
	live(w.policy(0), 0)
	w.together(w.policy(0))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() { w.ask(w.client(w.agents[0]), "", i, stop) })
	}
	r := chance(t)
	faults := []func(){
		func() { w.kill("c1") },
		func() { w.kill("c2") },
		func() { w.killEnvoy("n1") },
		func() { w.kill("n2") },
		func() { w.kill("c1"); w.kill("c2") },
		w.tear,
		w.putBack,
		func() { w.kill("c1"); w.killEnvoy("n2") },
	}
	for i := range rounds {
		w.setWindow(i, i+1)
		if i%3 == 1 {
			w.rotate(i)
		}
		pushed := make(chan error, 2)
		for who := range 2 {
			p := w.policy(i + 1)
			p.Agents[0].Rules[0].Owner = fmt.Sprintf("operator %d", who) // who wins is seen
			go func() {
				_, err := w.operator(who).Publish(t.Context(), p)
				pushed <- err
			}()
		}
		<-time.After(time.Duration(r.Intn(60)) * time.Millisecond)
		faults[i%len(faults)]()
		first, second := <-pushed, <-pushed
		var conflict *bundle.ConflictError
		if first == nil && second == nil {
			t.Log("one after the other")
		} else if errors.As(first, &conflict) || errors.As(second, &conflict) {
			t.Log("one was told: ", conflict.Theirs.Seq)
		}
		if i == rounds/2 {
			w.killAgent(r)
		}
		live(w.policy(i+1), i%2)
		w.together(w.policy(i + 1))
		w.setWindow(i+1, i+1)
		if i >= rounds/2 {
			w.requireKilled()
		}
	}
	before := w.count()
	require.Eventually(t, func() bool { return w.count() > before+50 }, patience, 10*time.Millisecond, "traffic flows at the end")
	close(stop)
	asking.Wait()
	require.Empty(t, w.wrong)
	w.checkKeys()
	w.checkLog()
	w.checkLeaks()
}

// tear puts half an object above the newest, as a disk that was full leaves it.
func (w *twin) tear() {
	w.t.Helper()
	path, seq := w.newest()
	b, err := os.ReadFile(path)
	require.NoError(w.t, err)
	torn := filepath.Join(filepath.Dir(path), fmt.Sprintf("%0*d.json", len(filepath.Base(path))-len(".json"), seq+1))
	if f, err := os.OpenFile(torn, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil { // somebody may have published it meanwhile
		_, err = f.Write(b[:len(b)/2])
		require.NoError(w.t, errors.Join(err, f.Close()))
	}
}

// putBack takes the newest object away, with its mark: a copy from before.
func (w *twin) putBack() {
	w.t.Helper()
	path, _ := w.newest()
	for _, x := range []string{path, path[:len(path)-len(".json")] + ".ok"} {
		if err := os.Remove(x); !errors.Is(err, os.ErrNotExist) {
			require.NoError(w.t, err)
		}
	}
}

// killAgent kills agent b, while a control plane dies: a node of that control plane continues
// with what it had until it is at the other one.
func (w *twin) killAgent(r *rand.Rand) {
	w.t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := w.operator(1).Kill(w.t.Context(), bundle.Killed{Agents: []string{"b"}})
		done <- err
	}()
	<-time.After(time.Duration(r.Intn(20)) * time.Millisecond)
	w.kill("c2")
	<-done //nolint:errcheck // it may not have been confirmed
	require.Eventually(w.t, func() bool {
		_, err := w.operator(0).Kill(w.t.Context(), bundle.Killed{Agents: []string{"b"}})
		return err == nil
	}, patience, 50*time.Millisecond)
}

func (w *twin) requireKilled() {
	w.t.Helper()
	for range 8 { // at whichever node
		c := w.client(w.agents[1])
		resp, err := c.Get("https://api.test/always/killed")
		if err == nil {
			resp.Body.Close()
			require.NotEqual(w.t, http.StatusOK, resp.StatusCode, "a killed agent was let through")
		}
		c.CloseIdleConnections()
	}
}
