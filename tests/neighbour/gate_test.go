package neighbour

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// BenchmarkGate compares, in turns, what a request costs a node of the processors with what
// it costs a node whose module lets everything go on (testdata/unpaced.c).
func BenchmarkGate(b *testing.B) {
	f := fleet.New(b, 1)
	f.Modules = unpaced(b)
	f.StartNode("n2")
	up := f.NewUpstream("api.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "api.test", up)}}, {Name: "b", Rules: []plan.Rule{fleet.Allow("b", "api.test", up)}},
	}})
	table := []string{"| | connections | CPU with the gate / without | requests / without |", "|---|---|---|---|"}
	for _, c := range []struct {
		what        string
		connections int
		shared      bool
	}{{"one agent", 16, false}, {"one of two agents", 1, true}, {"a greedy agent of two", 16, true}} {
		b.Run(fmt.Sprintf("%s/%d", c.what, c.connections), func(b *testing.B) {
			var cpu, rate []float64
			for b.Loop() {
				var each [2]time.Duration
				var count [2]int64
				for i, node := range []string{"n1", "n2"} {
					if c.shared {
						require.Equal(b, 200, f.Get(node, "b", "https://api.test/"))
					}
					load(b, f, node, c.connections, 100*time.Millisecond) // connects
					before := threadTime(b, f.EnvoyPID(node))
					count[i] = load(b, f, node, c.connections, 500*time.Millisecond)
					each[i] = (threadTime(b, f.EnvoyPID(node)) - before) / time.Duration(count[i])
				}
				cpu = append(cpu, float64(each[0])/float64(each[1]))
				rate = append(rate, float64(count[0])/float64(count[1]))
			}
			slices.Sort(cpu)
			table = append(table, fmt.Sprintf("| %s | %d | %.2f (%.2f-%.2f) | %.2f |", c.what, c.connections, median(cpu), cpu[len(cpu)/6], cpu[len(cpu)-1-len(cpu)/6], median(rate)))
		})
	}
	fmt.Println("\n" + strings.Join(table, "\n"))
}

// unpaced builds the module without pacing, and returns its folder.
func unpaced(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(b, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "cmd", "libguard", "pace.c"): filepath.Join(root, "cmd", "libguard", "testdata", "unpaced.c"),
	}})
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s",
		"-o", filepath.Join(dir, "libguard.so"), "./cmd/libguard")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", out)
	return dir
}

// clients are kept from one turn to the next.
var clients = map[string]*http.Client{}

// load sends requests of agent a, one after the other on each connection, and returns how many.
func load(b *testing.B, f *fleet.Fleet, node string, connections int, d time.Duration) int64 {
	b.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	until := time.Now().Add(d)
	for i := range connections {
		key := fmt.Sprint(node, i)
		if clients[key] == nil {
			clients[key] = f.Client(node, "a")
		}
		client := clients[key]
		wg.Go(func() {
			for time.Now().Before(until) {
				resp, err := client.Get("https://api.test/")
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// threadTime returns how much of the processors the threads of a process have used.
func threadTime(b *testing.B, pid int) (used time.Duration) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	require.NoError(b, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(b, err)
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		require.NoError(b, err)
		used += time.Duration(n)
	}
	return used
}
