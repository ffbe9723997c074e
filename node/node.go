// Package node runs one node of the fleet: an Envoy, which it restarts when Envoy dies, and the
// audit log of Envoy's decisions.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/guard"
)

// Restarts wait from minBackoff to maxBackoff, twice as long each time. After an Envoy that ran for
// steady, the wait is minBackoff again.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
	steady     = 10 * time.Second
)

// module is the file that Envoy loads for the listeners, under the name "guard".
const module = "libguard.so"

// stopGrace is the time that Envoy has to end by itself.
const stopGrace = 3 * time.Second

// Config is the configuration of a node.
type Config struct {
	ID string
	// Stack is the name of the environment.
	Stack string
	// Dir is the node's private working folder.
	Dir string
	// XDS is the control plane's socket, relative to Dir or absolute, if
	// Remote is nil.
	XDS string
	// Remote is the control plane on another machine. The caller keeps the file at
	// [envoy.IdentityPath] in Dir current.
	Remote *envoy.Remote
	// Audit is the folder of the stack's audit log.
	Audit string
	// Mirror, if not nil, also gets every event of the audit log. If a write to it fails, the node
	// ends, because it decides nothing that it cannot mirror.
	Mirror io.Writer
	// Envoy is the path of the binary.
	Envoy string
	// Modules is the absolute path of the folder with libguard.so (cmd/libguard), which Envoy loads
	// into its process. Without it, Envoy does not start.
	Modules string
	// Heap bounds Envoy's memory, in bytes; 0: half of the machine's, and at most 4 GiB.
	Heap uint64
	// Monitor, if set, is told what happens. It must be made for this Dir.
	Monitor *Monitor
	// Log gets the supervisor's messages, and those of Envoy's messages that cannot contain
	// anything of a request.
	Log *slog.Logger
}

// Run supervises Envoy until ctx is done, and then leaves no process and no socket behind. Only one
// Run may use a Dir at a time.
func Run(ctx context.Context, c Config) (err error) {
	// Without this check Envoy would refuse every listener, and say less.
	if err := c.checkModule(); err != nil {
		return err
	}
	files, err := raiseDescriptors()
	if err != nil {
		return err
	}
	if c.Heap == 0 {
		if c.Heap, err = heap(); err != nil {
			return err
		}
	}
	boot, err := envoy.Bootstrap(envoy.Node{ID: c.ID, Stack: c.Stack, XDS: c.XDS, Remote: c.Remote, Descriptors: files, Heap: c.Heap})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("make node folder: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(c.Dir, "bootstrap.json"), boot, 0o600); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	pressure, err := newPressure(c.Dir, files)
	if err != nil {
		return err
	}
	events, err := audit.NewWriter(c.Audit, c.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	events.Mirror = c.Mirror
	if c.Monitor != nil {
		events.Watch = c.Monitor.event
	}
	defer c.removeSockets()
	if err := forbidCores(); err != nil {
		return err
	}
	for backoff := minBackoff; ; {
		started := time.Now()
		why, err := c.once(ctx, events, pressure)
		if ctx.Err() != nil {
			return events.Lost()
		}
		if err != nil {
			return err
		}
		// Lasting streams have ended without a word from Envoy.
		if err := events.Lost(); err != nil {
			return err
		}
		c.Log.Error("envoy ended, restarting", "status", why, "after", time.Since(started).String(), "backoff", backoff.String())
		if err := events.Gap("envoy ended (" + why + "): what it decided in its last moments may be missing"); err != nil {
			return err
		}
		if time.Since(started) > steady {
			backoff = minBackoff
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(backoff*2, maxBackoff)
	}
}

// forbidCores keeps Envoy's memory, which holds credentials, out of core files. A limit of 0 does
// not count if cores are piped to a program; a limit of 1 does (core(5)). A process that may not
// set 1 leaves all memory out of its core.
func forbidCores() error {
	if unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) == nil {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	// A process that is not dumpable may not write to its own /proc files, unless it is root's.
	was, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
	if err == nil {
		err = errors.Join(os.WriteFile("/proc/self/coredump_filter", []byte("0"), 0), unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(was), 0, 0, 0))
	}
	if err != nil {
		return fmt.Errorf("keep memory out of core files: %w", err)
	}
	return nil
}

// workers returns the number of Envoy's threads for requests: at least two, so that one that is
// busy with an agent's request does not keep all others waiting. More threads cost memory for each
// agent and destination.
func workers() int { return max(2, processors()) }

// processors returns the number of the machine's, or the container's, processors that these threads
// can use.
func processors() int { return min(runtime.GOMAXPROCS(0), 4) }

func (c Config) checkModule() error {
	// Envoy runs in Dir, where a relative path would lead elsewhere.
	if !filepath.IsAbs(c.Modules) {
		return fmt.Errorf("find %s, which Envoy loads: the folder %q is not absolute", module, c.Modules)
	}
	if _, err := os.Stat(filepath.Join(c.Modules, module)); err != nil {
		return fmt.Errorf("find %s, which Envoy loads: %w: it is built with posternd and belongs next to it: run `make build`, or copy both", module, err)
	}
	return nil
}

// once runs Envoy until it ends, and returns how it ended.
func (c Config) once(ctx context.Context, events *audit.Writer, pressure *pressure) (string, error) {
	fifo := filepath.Join(c.Dir, envoy.AccessLogPath)
	if err := os.Remove(fifo); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("replace access log pipe: %w", err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return "", fmt.Errorf("make access log pipe: %w", err)
	}
	// The reader comes first, without waiting for a writer. Then comes a writer of our own, so that
	// the pipe ends when Envoy is gone, and not before Envoy has opened it.
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("open access log pipe: %w", err)
	}
	defer reader.Close()
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		return "", fmt.Errorf("open access log pipe: %w", err)
	}
	defer writer.Close()

	lease, err := newLease(c.Dir, events)
	if err != nil {
		return "", err
	}

	said := newOutput(c.Log)
	says, saying, err := os.Pipe()
	if err != nil {
		return "", fmt.Errorf("make the pipe of Envoy's output: %w", err)
	}
	defer says.Close()
	defer saying.Close()
	cmd := exec.Command(c.Envoy, //nolint:noctx // signals end it below, so that it can end by itself
		"--config-path", "bootstrap.json",
		"--concurrency", strconv.Itoa(workers()),
		"--disable-hot-restart",
		"--log-level", "warning", "--log-format", said.format(),
		// Envoy warns about one protobuf message, which the address filter needs, on every update.
		"--component-log-level", "misc:error",
		// `audit -f` waits for events that may be this late.
		"--file-flush-interval-msec", "50",
		// A listener that changes or is removed closes its connections at once.
		"--drain-time-s", "0", "--drain-strategy", "immediate",
	)
	cmd.Dir = c.Dir
	// Nothing else: the supervisor's environment may hold secrets.
	cmd.Env = []string{
		"ENVOY_DYNAMIC_MODULES_SEARCH_PATH=" + c.Modules, "POSTERN_PROCESSORS=" + strconv.Itoa(processors()),
		"POSTERN_BUDGET=" + strconv.FormatUint(uint64(float64(c.Heap)*envoy.AgentMemory), 10),
	}
	cmd.Stdout, cmd.Stderr = saying, saying
	// Envoy dies with its supervisor. A group of its own keeps a terminal's ^C away.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	// The parent-death signal is sent when the *thread* that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// This holds for this thread and for what it starts: Envoy gains nothing by a setuid program.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("start envoy without new privileges: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start envoy: %w", err)
	}
	if c.Monitor != nil {
		c.Monitor.starts.Inc()
	}
	c.Log.Info("envoy started", "pid", cmd.Process.Pid)
	_ = saying.Close() // Envoy has an end of its own
	copied, ended, silent := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() { //nolint:contextcheck // it ends with the pipe
		defer close(silent)
		said.copy(says)
	}()
	go func() { copied <- events.Copy(accessLog{reader, lease}) }()
	go func() {
		defer close(ended)
		_ = cmd.Wait() // cmd.ProcessState has it
	}()

	// Not ended by ctx: the end of this watch while the node is drained is not an error.
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan error, 1)
	go func() {
		defer close(watched)
		watched <- pressure.watch(watching, cmd.Process.Pid)
	}()
	defer func() {
		stopWatching()
		for range watched { // until it has ended
		}
	}()

	var failed error
	select {
	case <-ended:
	case failed = <-watched:
		c.stop(cmd, ended)
	case failed = <-copied:
		// Without a record nothing may be decided.
		c.stop(cmd, ended)
	case <-ctx.Done():
		c.drain(ctx, ended)
		c.stop(cmd, ended)
	}
	if err := writer.Close(); err != nil {
		return "", fmt.Errorf("close access log pipe: %w", err)
	}
	if failed == nil {
		failed = <-copied
	}
	failed = errors.Join(failed, lease.end())
	// Processes that Envoy has left must not keep the node waiting.
	_ = says.SetReadDeadline(time.Now().Add(stopGrace))
	<-silent
	return cmd.ProcessState.String(), failed
}

// stop ends Envoy, if necessary by force. If a signal cannot be sent, Envoy has ended by itself.
func (c Config) stop(cmd *exec.Cmd, ended <-chan struct{}) {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.Log.Debug("stop envoy", "error", err)
	}
	select {
	case <-ended:
	case <-time.After(stopGrace):
		if err := cmd.Process.Kill(); err != nil {
			c.Log.Debug("kill envoy", "error", err)
		}
		<-ended
	}
}

func (c Config) removeSockets() {
	sockets, _ := filepath.Glob(filepath.Join(c.Dir, envoy.AgentSocket("*")))
	for _, s := range append(sockets, filepath.Join(c.Dir, envoy.AdminSocket), filepath.Join(c.Dir, envoy.AccessLogPath), filepath.Join(c.Dir, guard.LeasePath)) {
		_ = os.Remove(s)
	}
}
