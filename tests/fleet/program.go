package fleet

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Programs are commands of the repository, each built once, by [Programs.Build].
type Programs struct {
	mu  sync.Mutex
	dir string
}

// Build returns the path of cmd/NAME, called as, built with the tags. A
// program's name is what it finds others by.
func (p *Programs) Build(name, as, tags string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		dir, err := os.MkdirTemp("", "programs")
		if err != nil {
			return "", err
		}
		p.dir = dir
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

// Kill ends it as a crash would.
func (p *Program) Kill() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Kill())
	<-p.ended
}
