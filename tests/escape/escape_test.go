package escape

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/vm"
	"github.com/postern/postern/tests/docker"
	"github.com/postern/postern/tests/fleet"
)

// runtimes are what the attempts are made in; the names are those of `postern run --runtime`.
var runtimes = []string{"bubblewrap", "container", "gvisor", "vm"}

// cannot are the attempts that say nothing in a runtime, and why.
var cannot = map[string]map[string]string{
	"files: read /proc/1/environ": {"gvisor": "the first process has no variable of the caller's"},
}

// bench is where the attempts are made from, and what they are made at.
type bench struct {
	// tools has postern-sandbox and try.
	tools string
	root  string
	// port is that of the host's listeners, and of their name among abstract sockets.
	port   string
	engine *docker.Daemon
}

const canary = "escape-canary"

func newBench(t *testing.T) *bench {
	t.Helper()
	root, err := os.MkdirTemp("", "esc")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	b := &bench{root: root, tools: filepath.Join(root, "tools")}
	fleet.Put(t, b.tools, "postern-sandbox")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(b.tools, "try"), "./try")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(root, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "secret"), []byte(canary), 0o644))
	l := b.listen(t, "tcp", "127.0.0.1:0")
	_, b.port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	b.listen(t, "tcp", "[::1]:"+b.port)
	b.listen(t, "unix", "@postern-escape-"+b.port)

	engine := filepath.Join(root, "d")
	require.NoError(t, os.Mkdir(engine, 0o700))
	ctx := context.WithoutCancel(t.Context())
	b.engine, err = docker.Start(ctx, engine)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.engine.Stop()) })
	archive, err := docker.Root(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, b.engine.Import(ctx, "root", archive))
	return b
}

// listen is a service of the host. It fails the test if somebody connects.
func (b *bench) listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), network, address)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			t.Errorf("somebody got out and connected to %s", address)
		}
	}()
	return l
}

// run runs try with the arguments in a new sandbox of the runtime, and returns what it wrote.
func (b *bench) run(t *testing.T, runtime string, limits view.Limits, args ...string) string {
	t.Helper()
	home, err := os.MkdirTemp(b.root, "home")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(home, 0o755))
	work, sockets := filepath.Join(home, "work"), filepath.Join(home, "state", "node", "agent")
	require.NoError(t, os.MkdirAll(work, 0o755))
	require.NoError(t, os.MkdirAll(sockets, 0o755))
	program, err := os.ReadFile(filepath.Join(b.tools, "try"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(work, "try"), program, 0o755))
	b.listen(t, "unix", filepath.Join(work, "host.sock"))
	require.NoError(t, os.Chmod(filepath.Join(work, "host.sock"), 0o777))
	require.NoError(t, os.Chown(work, 1234, 1234))
	spec := &sandbox.Spec{Command: append([]string{"./try"}, args...)}
	in := &view.Input{
		Agent: "escape", Workspace: view.Workspace{Mode: view.Write}, Limits: limits,
		Sockets: []string{sockets}, Private: []string{filepath.Join(home, "state")},
		Inside:  filepath.Join(b.tools, "postern-sandbox"),
		Environ: []string{"HOME=" + home, "PATH=/usr/bin:/bin", "SECRET_TOKEN=" + canary},
		Env: []string{
			"ESCAPE_HOST=" + b.port, "ESCAPE_SECRET=" + filepath.Join(b.root, "secret"), "ESCAPE_CANARY_BEGIN=escape-",
			"ESCAPE_PID=" + strconv.Itoa(os.Getpid()), "ESCAPE_COMM=escape.test",
		},
	}
	switch runtime {
	case "vm":
		folders, err := hostpath.In(home).Folders()
		require.NoError(t, err)
		spec.VM, err = vm.Find(t.Context(), folders, in.Inside, filepath.Join(b.tools, "vm"))
		require.NoError(t, err)
		fallthrough
	case "bubblewrap":
		spec.Bubblewrap, err = exec.LookPath("bwrap")
		require.NoError(t, err)
	default:
		engine, err := container.Open(t.Context(), b.engine.Socket)
		require.NoError(t, err)
		image, err := engine.Image(t.Context(), "root")
		require.NoError(t, err)
		spec.Container = &container.Options{
			Socket: b.engine.Socket, Image: image.ID, Folder: filepath.Join(home, "state", "containers"),
		}
		if runtime == "gvisor" {
			spec.Container.Runtime, spec.Container.Foreign = "runsc", true
		}
		in.Image = &view.Image{Env: image.Config.Env}
	}
	in.Workdir, err = view.Look(work, in.Environ, in.Private)
	require.NoError(t, err)
	spec.View, err = view.Make(in)
	require.NoError(t, err)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	spec.Stdout, spec.Stderr = write, write
	text := make(chan string)
	go func() {
		all, _ := io.ReadAll(read)
		text <- string(all)
	}()
	_, err = sandbox.Run(context.WithoutCancel(t.Context()), spec)
	write.Close()
	out := <-text
	if len(args) == 0 { // what is used up may end the sandbox too
		require.NoError(t, err, out)
	}
	return out
}

func TestEscape(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	b := newBench(t)
	t.Run("attempts", func(t *testing.T) { testAttempts(t, b) })
	t.Run("exhaustion", func(t *testing.T) { testExhaustion(t, b) })
}

// testAttempts makes every attempt in every runtime.
func testAttempts(t *testing.T, b *bench) {
	var mu sync.Mutex
	table := map[string]map[string]string{}
	var order []string
	t.Run("runtimes", func(t *testing.T) {
		for _, runtime := range runtimes {
			t.Run(runtime, func(t *testing.T) {
				t.Parallel()
				out := b.run(t, runtime, view.Limits{})
				mu.Lock()
				defer mu.Unlock()
				for line := range strings.Lines(out) {
					name, said, ok := strings.Cut(strings.TrimSpace(line), "\t")
					require.True(t, ok, "%q", line)
					if table[name] == nil {
						table[name] = map[string]string{}
						order = append(order, name)
					}
					table[name][runtime] = said
					if why := cannot[name][runtime]; why != "" {
						require.Equal(t, "DONE", said, "%s is refused now: remove it from the list", name)
						table[name][runtime] = "n/a: " + why
					} else if !strings.HasPrefix(said, "refused") {
						t.Errorf("%s: %s", name, said)
					}
				}
			})
		}
	})
	for _, name := range order {
		for _, runtime := range runtimes {
			require.NotEmpty(t, table[name][runtime], "%s was not tried under %s", name, runtime)
		}
	}
	for name := range cannot {
		require.Contains(t, slices.Collect(maps.Keys(table)), name)
	}
	t.Log("\n" + render(order, table))
}

// render prints the table of attempts.
func render(order []string, table map[string]map[string]string) string {
	var out strings.Builder
	line := func(name string, columns []string) {
		fmt.Fprintf(&out, "%-52s", name)
		for _, c := range columns {
			fmt.Fprintf(&out, " | %-34.34s", c)
		}
		out.WriteString("\n")
	}
	line("attempt", runtimes)
	for _, name := range order {
		columns := make([]string, len(runtimes))
		for i, runtime := range runtimes {
			columns[i] = strings.TrimPrefix(table[name][runtime], "refused: ")
		}
		line(name, columns)
	}
	return out.String()
}

// testExhaustion: what a sandbox may use up is bounded.
func testExhaustion(t *testing.T, b *bench) {
	limits := view.Limits{Processes: 100, Memory: 256 << 20, Scratch: 8 << 20}
	most := map[string]int{"disk": 8, "shm": 8, "processes": 100, "memory": 256}
	for _, runtime := range runtimes {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			// Memory is the last: it may end the sandbox.
			what := []string{"disk", "shm", "processes", "memory"}
			if runtime == "gvisor" {
				what = what[:3] // the engine of the tests starts runsc without control groups
			}
			out := b.run(t, runtime, limits, append([]string{"exhaust"}, what...)...)
			last := map[string]int{}
			for line := range strings.Lines(out) {
				name, said, _ := strings.Cut(strings.TrimSpace(line), " ")
				if n, err := strconv.Atoi(said); err == nil {
					last[name] = n
				}
			}
			for _, name := range what {
				require.LessOrEqual(t, last[name], most[name], "%s: %s", name, out)
				require.Positive(t, last[name], "%s: %s", name, out)
			}
		})
	}
}
