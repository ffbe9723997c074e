package faults

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

var programs fleet.Programs

func TestMain(m *testing.M) {
	if os.Getenv(agentVariable) != "" {
		os.Exit(runAgent())
	}
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

// stack is a control plane and nodes, each a process of its own.
type stack struct {
	t    testing.TB
	home home.Folder
	api  *api.Client
	ca   *fleet.CA
	// up is what the agents reach, in tests by published.
	up *fleet.Upstream
	// programs are what was started, by name: "control", "n1".
	mu       sync.Mutex
	programs map[string]*fleet.Program
	// args are what the program of that name is started with.
	args func(name string) []string
	// log is what all of them have said.
	log bytes.Buffer
}

// Write takes what the programs say.
func (s *stack) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *stack) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// newStack starts a control plane and the nodes n1 to nN.
func newStack(t testing.TB, nodes int) *stack {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	base, err := os.MkdirTemp("", "faults")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	return newStackIn(t, home.Folder{Root: filepath.Join(base, "s")}, nodes)
}

// newStackIn is newStack in a state folder, which may be one that a stack file has claimed.
func newStackIn(t testing.TB, folder home.Folder, nodes int) *stack {
	t.Helper()
	root := folder.Root
	s := &stack{t: t, home: folder, ca: fleet.NewCA(t, "faults"), programs: map[string]*fleet.Program{}}
	s.args = func(name string) []string {
		if name == "control" {
			return []string{"control", "--home", root}
		}
		return []string{"node", "--home", root, "--id", name, "--envoy", fleet.Envoy(t)}
	}
	fleet.WriteHome(t, s.home, s.ca)
	s.api = api.Dial(s.home.ControlSocket())
	s.start("control")
	s.awaitControl()
	for i := range nodes {
		id := "n" + strconv.Itoa(i+1)
		require.NoError(t, s.api.AddNode(t.Context(), id))
		s.start(id)
	}
	s.await("every node is connected", func(st *api.Status) bool { return connected(st) == nodes })
	return s
}

// start runs the program of that name.
func (s *stack) start(name string) {
	s.t.Helper()
	path, err := programs.Build("posternd", "posternd", "")
	require.NoError(s.t, err)
	s.run(name, path, s.args(name)...)
}

func (s *stack) run(name, path string, args ...string) {
	s.t.Helper()
	s.programs[name] = fleet.Start(s.t, s, []string{"SSL_CERT_FILE=" + s.home.CACert()}, path, args...)
}

// kill ends a program as a crash would, and starts it again.
func (s *stack) kill(name string) {
	s.t.Helper()
	s.programs[name].Kill()
	s.start(name)
}

// killEnvoy ends the Envoy of a node. It may have ended already.
func (s *stack) killEnvoy(node string) {
	for _, pid := range children(s.programs[node].PID()) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// children are the processes that a process has started.
func children(pid int) []int {
	var pids []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

func connected(st *api.Status) int {
	n := 0
	for _, node := range st.Nodes {
		if node.Connected {
			n++
		}
	}
	return n
}

// patience bounds what is waited for: a node that starts again, with others
// that use the machine.
const patience = time.Minute

func (s *stack) awaitControl() {
	s.t.Helper()
	s.await("the control plane answers", func(*api.Status) bool { return true })
}

// await waits for a state of the fleet.
func (s *stack) await(what string, reached func(*api.Status) bool) {
	s.t.Helper()
	var last *api.Status
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if last, err = s.api.Status(s.t.Context()); err == nil && reached(last) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	s.t.Log(s.said())
	require.FailNow(s.t, what+": it never came", "%+v %v", last, err)
}

// publish makes p live, however often it takes: what is broken comes back.
func (s *stack) publish(p *plan.Plan) {
	s.t.Helper()
	var last error
	require.Eventually(s.t, func() bool {
		_, last = s.push(p)
		return last == nil
	}, patience, 50*time.Millisecond)
	require.NoError(s.t, last)
}

func (s *stack) push(p *plan.Plan) (*api.Converged, error) {
	return fleet.Operator(s.home).Publish(s.t.Context(), p)
}

// agent is the HTTP client of an agent at a node; each request is a connection
// of its own, so that a node that is back is used at once.
func (s *stack) agent(node, name string) *http.Client {
	return fleet.AgentClient(s.ca, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.home.NodeDir(node), envoy.AgentSocket(name)))
	})
}
