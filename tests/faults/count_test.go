package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// TestEveryAnswerIsCounted: what happens to the control plane, its files and the
// store disturbs no request: each is answered, and has exactly one event. Who counts
// is the client.
func TestEveryAnswerIsCounted(t *testing.T) {
	t.Parallel()
	s := published(t)
	var before map[string][]audit.Event
	require.Eventually(t, func() bool { before = s.events(); return len(before) == 1 }, patience, 10*time.Millisecond, "of the first request")
	type answer struct {
		path   string
		status int
	}
	var mu sync.Mutex
	var answers []answer
	var failures []error
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for worker := range 3 {
		asking.Go(func() {
			client := s.agent("n1", "b")
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				path := fmt.Sprintf("/%d/%d", worker, n)
				method := []string{http.MethodGet, http.MethodDelete}[n%2] // one that is allowed, one that is not
				req, err := http.NewRequestWithContext(t.Context(), method, "https://api.test"+path, nil)
				if err != nil {
					panic(err)
				}
				resp, err := client.Do(req)
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
				} else {
					resp.Body.Close()
					answers = append(answers, answer{path, resp.StatusCode})
				}
				mu.Unlock()
			}
		})
	}
	control := func() int { return s.programs["control"].PID() }
	state := func(name string) string { return filepath.Join(s.home.ControlDir(), name) }
	kill := func(k bool) {
		do := fleet.Operator(s.home).Unkill
		if k {
			do = fleet.Operator(s.home).Kill
		}
		_, err := do(t.Context(), bundle.Killed{Agents: []string{"a"}})
		require.NoError(t, err)
	}
	r := chance(t)
	for round, fault := range []func(){
		func() { s.kill("control") },
		func() {
			require.NoError(t, syscall.Kill(control(), syscall.SIGSTOP))
			<-time.After(time.Duration(r.Intn(300)) * time.Millisecond)
			require.NoError(t, syscall.Kill(control(), syscall.SIGCONT))
		},
		func() { kill(true) },
		func() {
			s.programs["control"].Kill()
			require.NoError(t, os.Remove(state("nodes.json")))
			s.start("control")
		},
		func() { kill(false) },
		func() {
			s.programs["control"].Kill()
			require.NoError(t, os.Truncate(state("good.bundle"), 9))
			s.start("control")
		},
		func() { s.kill("control"); s.kill("control"); s.kill("control") },
		func() { require.NoError(t, os.Remove(s.home.XDSSocket())); s.kill("control") },
	} {
		<-time.After(time.Duration(r.Intn(100)) * time.Millisecond)
		fault()
		s.await(fmt.Sprintf("round %d: the node is back", round), func(st *api.Status) bool {
			return connected(st) == 1 && st.Version != "" && st.Nodes[0].Version == st.Version
		})
	}
	close(stop)
	asking.Wait()
	require.Empty(t, failures, "every request is answered")
	require.Greater(t, len(answers), 100)
	// The last events are written a moment later.
	var counted map[string][]audit.Event
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(200 * time.Millisecond) {
		if counted = s.events(); len(counted)-len(before) >= len(answers) {
			break
		}
	}
	for _, a := range answers {
		events := counted[a.path]
		require.Len(t, events, 1, "%s was answered with %d", a.path, a.status)
		require.Equal(t, a.status == http.StatusOK, events[0].Verdict == audit.Allow, a.path)
		delete(counted, a.path)
	}
	for path := range before {
		delete(counted, path)
	}
	require.Empty(t, counted, "there is no event without an answer")
	t.Logf("%d answers, as many events", len(answers))
}

// events are the events of requests, by path.
func (s *stack) events() map[string][]audit.Event {
	s.t.Helper()
	all, err := audit.Read(s.home.AuditDir(), audit.Filter{})
	require.NoError(s.t, err)
	by := map[string][]audit.Event{}
	for _, e := range all {
		if e.Path != "" {
			by[e.Path] = append(by[e.Path], e)
		}
	}
	return by
}
