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
	"golang.org/x/sys/unix"

	"github.com/postern/postern/envoy/binary"
	"github.com/postern/postern/hostpath"
)

// shared returns .cache/tests, the folder that all test programs build in, and the repository.
var shared = sync.OnceValues(func() ([2]string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return [2]string{}, fmt.Errorf("find the repository: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	dir := filepath.Join(root, ".cache", "tests")
	return [2]string{dir, root}, os.MkdirAll(dir, 0o755)
})

// Built returns a function that builds the package of this tree, as the file .cache/tests/NAME. All
// test programs share the file: it is linked again only after a change. The settings are those of
// tools/build.sh, so that what that has compiled is used.
func Built(name, pkg string, tags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		at, err := shared()
		if err != nil {
			return "", err
		}
		path := filepath.Join(at[0], name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		lock, err := os.OpenFile(path+".lock", os.O_RDONLY|os.O_CREATE, 0o600)
		if err != nil {
			return "", err
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			return "", err
		}
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
			"-tags", strings.Join(tags, ","), "-o", path, pkg)
		cmd.Dir, cmd.Env = at[1], append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
		}
		return path, nil
	})
}

// Put copies commands of this tree into the folder, which may not exist.
func Put(t testing.TB, dir string, names ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		require.NoError(t, put(name, filepath.Join(dir, name)))
	}
}

// put copies the command to the path. Another process writes the file: a program that this one has
// open for writing cannot be started, and whatever is forked meanwhile has it open, too.
func put(name, path string, tags ...string) error {
	built, err := Built(strings.Join(append(tags, name), "/"), "./cmd/"+name, tags...)()
	if err != nil {
		return err
	}
	if out, err := exec.Command("cp", built, path).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", name, err, out)
	}
	return nil
}

// modules is one build of libguard.so for all tests of a process. Each process puts a new file in
// the place of the last one, so that none reads half of one.
var modules = sync.OnceValues(func() (string, error) {
	at, err := shared()
	if err != nil {
		return "", err
	}
	dir := at[0]
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
	dir, err := os.Getwd()
	require.NoError(t, err)
	path, err := binary.Find(nobody, dir)
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
	return path, put(name, path, strings.Fields(tags)...)
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
		case <-time.After(time.Minute):
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
