package faults

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// rounds is how many policies are pushed, each with something that breaks.
const rounds = 16

// storm is traffic that continues while policies change and programs die. Policy
// i allows /always, and /v/i; a request is judged by the policies that may be
// in force while it is in progress.
type storm struct {
	*stack
	up *fleet.Upstream

	mu sync.Mutex
	// old and next are the numbers of those policies.
	old, next int
	// keys are the values that the credential has had.
	keys    []string
	answers []answered
	wrong   []string
}

// answered is a request that got a verdict.
type answered struct {
	node, path string
	allowed    bool
	at         time.Time
}

func (s *storm) policy(i int) *plan.Plan {
	rule := func(id, path string) plan.Rule {
		return plan.Rule{ID: "a/" + id, Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{path}, Credential: "key", Upstream: s.up.Pin()}
	}
	return &plan.Plan{
		Stack:       "faults",
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + s.secret()}},
		Agents:      []plan.Agent{{Name: "a", Rules: []plan.Rule{rule("always", "/always/*"), rule("v", fmt.Sprintf("/v/%d/*", i))}}},
	}
}

func (s *storm) secret() string { return filepath.Join(s.home.Root, "secret-key") }

// rotate gives the credential another value.
func (s *storm) rotate(i int) {
	s.t.Helper()
	key := fmt.Sprintf("s3cr3t-canary-%d-6f1b", i)
	s.mu.Lock()
	s.keys = append(s.keys, key)
	s.mu.Unlock()
	require.NoError(s.t, os.WriteFile(s.secret()+".new", []byte(key), 0o600))
	require.NoError(s.t, os.Rename(s.secret()+".new", s.secret()))
}

func (s *storm) window() (int, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.old, s.next
}

func (s *storm) setWindow(old, next int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old, s.next = old, next
}

// ask makes requests until stop is closed, at one node, or, if its name is "", at
// whichever it comes to.
func (s *storm) ask(client *http.Client, node string, worker int, stop <-chan struct{}) {
	r := rand.New(rand.NewSource(int64(worker)))
	defer client.CloseIdleConnections()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		old, _ := s.window()
		version := -1
		path := []string{"/always", "/never", "/v"}[r.Intn(3)]
		if path == "/v" {
			version = old - 1 + r.Intn(4)
			path = fmt.Sprintf("/v/%d", version)
		}
		path += fmt.Sprintf("/%d-%d", worker, n)
		at := time.Now()
		resp, err := client.Get("https://api.test" + path)
		if err != nil {
			// Of what is broken: no verdict. A dead node's socket is not worth a busy loop.
			client.CloseIdleConnections()
			select {
			case <-stop:
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusForbidden {
			continue
		}
		_, next := s.window()
		s.judge(answered{node, path, resp.StatusCode == http.StatusOK, at}, version, old, next, string(body))
	}
}

func (s *storm) judge(a answered, version, old, next int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
	var ok bool
	switch {
	case strings.HasPrefix(a.path, "/always"):
		ok = a.allowed
	case strings.HasPrefix(a.path, "/never"):
		ok = !a.allowed
	case a.allowed:
		ok = version >= old && version <= next
	default:
		ok = version != old || old != next
	}
	if !ok {
		s.wrong = append(s.wrong, fmt.Sprintf("%s at %s: allowed=%v between policies %d and %d: %s", a.path, a.node, a.allowed, old, next, body))
	}
}

// TestStorm: policies are pushed and the secret rotates while programs are
// killed. No request gets a verdict outside the old or the new policy, all
// nodes converge, no secret gets out, and an event that is missing is declared.
func TestStorm(t *testing.T) {
	t.Parallel()
	s := &storm{stack: newStack(t, 2)}
	s.up = fleet.NewUpstream(t, s.home, s.ca, "api.test")
	s.rotate(0)
	s.publish(s.policy(0))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for i := range 4 {
		node := []string{"n1", "n2"}[i%2]
		asking.Go(func() { s.ask(s.agent(node, "a"), node, i, stop) })
	}
	r := chance(t)
	faults := []func(){
		func() { s.kill("control") },
		func() { s.kill("n1") },
		func() { s.killEnvoy("n1") },
		func() { s.kill("control"); s.killEnvoy("n2") },
		func() { s.kill("n2"); s.kill("control") },
		func() {},
	}
	for i := range rounds {
		s.setWindow(i, i+1)
		if i%3 == 1 {
			s.rotate(i)
		}
		pushed := make(chan error, 1)
		go func() {
			_, err := s.push(s.policy(i + 1))
			pushed <- err
		}()
		// Any moment of a push, which takes some ten milliseconds.
		<-time.After(time.Duration(r.Intn(60)) * time.Millisecond)
		faults[i%len(faults)]()
		<-pushed //nolint:errcheck // it may have failed
		s.awaitControl()
		s.publish(s.policy(i + 1))
		version, err := s.policy(i + 1).Version()
		require.NoError(t, err)
		s.await("both nodes have the new policy", func(st *api.Status) bool {
			return len(st.Nodes) == 2 && !slices.ContainsFunc(st.Nodes, func(n api.Node) bool { return !n.Connected || n.Version != version })
		})
		s.setWindow(i+1, i+1)
	}
	before := s.count()
	require.Eventually(t, func() bool { return s.count() > before+50 }, patience, 10*time.Millisecond, "traffic flows at the end")
	close(stop)
	asking.Wait()
	require.Empty(t, s.wrong)
	s.checkKeys()
	s.checkLog()
	s.checkLeaks()
}

// chance is another one in each run; it says which.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewSource(seed))
}

func (s *storm) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.answers)
}

// checkKeys: what reached the upstream had one of the credential's values.
func (s *storm) checkKeys() {
	s.t.Helper()
	seen := s.up.Seen()
	require.NotEmpty(s.t, seen)
	for _, r := range seen {
		require.Contains(s.t, s.keys, r.Header.Get("X-Api-Key"), r.URL.Path)
	}
}

// checkLog: every answer has its event, or the log declares that some are
// missing before it continues.
func (s *storm) checkLog() {
	s.t.Helper()
	var lost []string
	logs := map[string][]audit.Event{}
	// The last events are written a moment later.
	for end := time.Now().Add(5 * time.Second); ; {
		events, err := audit.Read(s.home.AuditDir(), audit.Filter{})
		require.NoError(s.t, err)
		have := map[string]bool{}
		clear(logs)
		for _, e := range events {
			logs[e.Node] = append(logs[e.Node], e)
			have[fmt.Sprintf("%s %v", e.Path, e.Verdict == audit.Allow)] = true // no path comes twice
		}
		for _, log := range logs {
			slices.SortFunc(log, func(a, b audit.Event) int { return cmp.Compare(a.Seq, b.Seq) })
		}
		lost = nil
		for _, a := range s.answers {
			if !have[fmt.Sprintf("%s %v", a.path, a.allowed)] && !declaredBy(logs, a.node, a.at) {
				lost = append(lost, fmt.Sprintf("%s at %s, %s", a.path, a.node, a.at.Format(time.StampMilli)))
			}
		}
		if len(lost) == 0 || time.Now().After(end) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	require.Empty(s.t, lost, "answers without an event, and without a gap that is declared")
	times := map[string]int{}
	for _, log := range logs {
		for _, e := range log {
			if times[e.Path]++; e.Path != "" {
				require.Equal(s.t, 1, times[e.Path], "no request has two events: %s", e.Path)
			}
		}
	}
	for node, log := range logs {
		for i, e := range log {
			require.Equal(s.t, uint64(i+1), e.Seq, "the events of %s are numbered without holes", node)
		}
	}
	for node, log := range logs {
		s.t.Logf("%d answers; %d events of %s", len(s.answers), len(log), node)
	}
}

// declaredBy is declared of the node's log, or, if its name is "", of any.
func declaredBy(logs map[string][]audit.Event, node string, at time.Time) bool {
	if node != "" {
		return declared(logs[node], at)
	}
	for _, log := range logs {
		if declared(log, at) {
			return true
		}
	}
	return false
}

// declared reports whether the log has a gap after the moment and before
// anything that was decided a second later.
func declared(log []audit.Event, at time.Time) bool {
	for _, e := range log {
		switch {
		case e.Verdict == audit.Gap && e.Time.After(at):
			return true
		case e.Verdict != audit.Gap && e.Time.After(at.Add(time.Second)):
			return false
		}
	}
	return false
}

// checkLeaks: no value of the credential is in a file or in what was said.
func (s *storm) checkLeaks() {
	s.t.Helper()
	for _, key := range s.keys {
		require.NotContains(s.t, s.said(), key)
		require.NoError(s.t, filepath.WalkDir(s.home.Root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || path == s.secret() {
				return err
			}
			b, err := os.ReadFile(path)
			require.NotContains(s.t, string(b), key, path)
			return err
		}))
	}
}
