package fleet

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/hostpath"
)

// modules is one build of libguard.so for all tests of a process. It is in .cache,
// which all processes share: each puts a new file in the place of the last one, so
// that none reads half of one.
var modules = sync.OnceValues(func() (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), ".cache", "tests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(dir, "libguard")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	made := filepath.Join(scratch, "libguard.so")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s", "-o", made, "github.com/postern/postern/cmd/libguard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build libguard.so: %w: %s", err, out)
	}
	return dir, os.Rename(made, filepath.Join(dir, "libguard.so"))
})

// Envoy returns the path of the real Envoy. There is no test without it.
func Envoy(t testing.TB) string {
	t.Helper()
	nobody, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	path, err := envoy.Binary(nobody)
	require.NoError(t, err)
	return path
}

// Modules returns the folder that has libguard.so, built from this tree.
func Modules(t testing.TB) string {
	t.Helper()
	dir, err := modules()
	require.NoError(t, err)
	return dir
}

// Programs are commands of the repository, each built once, by [Programs.Build].
type Programs struct {
	mu  sync.Mutex
	dir string
}

// Build returns the path of cmd/NAME, called as, built with the tags. A
// program's name is what it finds others by. libguard.so is next to it.
func (p *Programs) Build(name, as, tags string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		folder, err := modules()
		if err != nil {
			return "", err
		}
		dir, err := os.MkdirTemp("", "programs")
		if err != nil {
			return "", err
		}
		p.dir = dir
		if err := os.Symlink(filepath.Join(folder, "libguard.so"), filepath.Join(dir, "libguard.so")); err != nil {
			return "", err
		}
	}
	path := filepath.Join(p.dir, as)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", tags, "-o", path, "./cmd/"+name)
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", as, err, out)
	}
	return path, nil
}

// Remove deletes what was built: TestMain's last.
func (p *Programs) Remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// Program is one that runs, as a process of its own.
type Program struct {
	t     testing.TB
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start runs the program until the test ends. What it says goes to log.
func Start(t testing.TB, log io.Writer, environment []string, path string, args ...string) *Program {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), environment...)
	require.NoError(t, cmd.Start())
	p := &Program{t: t, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-p.ended
		}
	})
	return p
}

// PID is the process's.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Stop asks it to end, and waits until it has.
func (p *Program) Stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	<-p.ended
}

// Kill ends it as a crash would.
func (p *Program) Kill() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Kill())
	<-p.ended
}
