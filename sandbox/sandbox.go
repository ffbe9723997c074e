// Package sandbox runs an agent's command under bubblewrap so that the agent's own proxy socket is
// the only way out.
//
// [Run] is the host's side: what of this machine a sandbox may see (files.go, toolchains.go,
// environ.go), and how its streams and signals are connected. Package inside is the other side,
// which runs in the sandbox before the command does. Package wire is the protocol between the two.
//
// Everything is an allow list: the sandbox starts empty and sees what is named here. It works for
// an ordinary user and for root. For root the command runs without capabilities, but as the owner
// of root's files. So what is mounted must never be writable outside the working directory.
package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/bubblewrap"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// Spec is one command to run in a sandbox.
type Spec struct {
	// View describes what the command sees, and its limits.
	View *view.View
	// Command and its arguments.
	Command []string
	// Gateways are the loopback ports that reach the proxy over plain HTTP.
	Gateways []int
	// Ports are captured whatever address they are at, in addition to 80 and 443.
	Ports []int
	// Bubblewrap is the absolute path of bwrap, which runs outside the sandbox with
	// the caller's rights: the caller has found it where no agent writes.
	Bubblewrap string
	// Log, if set, is told what the sandbox is made of: names, never values.
	Log *slog.Logger `json:"-"`
	// The caller's streams; nil is /dev/null. The command gets none of them, but
	// terminals and pipes of its own that are connected to them.
	Stdin, Stdout, Stderr *os.File `json:"-"`
}

func (s *Spec) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// RefusedError says why the command, not the sandbox, could not be started.
type RefusedError struct {
	Message string
	// Status is the exit status that a shell would have: 126 or 127.
	Status int
}

func (e *RefusedError) Error() string { return e.Message }

// Result says how a command ended.
type Result struct {
	// Status is its exit status, 128+n if signal n ended it.
	Status int
	// Connections is the number of connections to the proxy that the command asked for.
	Connections uint64
}

// Run runs the command of s and returns how it ended. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and
// SIGUSR2 that this process receives in the meantime are passed to the command. When Run returns,
// for whatever reason, nothing of the sandbox is left.
func Run(ctx context.Context, s *Spec) (Result, error) {
	if !filepath.IsAbs(s.Bubblewrap) {
		return Result{}, fmt.Errorf("run sandbox: %q is not the absolute path of bwrap", s.Bubblewrap)
	}
	agentFilter, err := filter(false)
	if err != nil {
		return Result{}, err
	}
	gateFilter, err := filter(true)
	if err != nil {
		return Result{}, err
	}
	// What whoever called us left open would be the agent's: a folder's
	// descriptor is a way to the host's whole file system.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("keep descriptors from the sandbox: %w", err)
	}
	for _, o := range s.View.Omitted {
		s.log().Debug("not in the sandbox", "what", o.What, "why", o.Why)
	}
	group := newCgroup(s.View.Limits)
	defer group.remove()
	starter := newThread()
	defer starter.end()
	var passed descriptors
	defer passed.close()
	streams, err := connectStreams(s)
	if err != nil {
		return Result{}, err
	}
	defer streams.close()
	host, inside, err := controlPair()
	if err != nil {
		return Result{}, err
	}
	defer host.Close()
	for _, f := range streams.inner {
		passed.add(f)
	}
	passed.own(inside)

	args, contents := bubblewrap.Render(s.View, passed.next())
	for _, content := range contents {
		if err := passed.data(content); err != nil {
			return Result{}, err
		}
	}
	var first *os.File // where bwrap says which process is the sandbox's first
	if len(group.legacy()) > 0 {
		read, write, err := os.Pipe()
		if err != nil {
			return Result{}, fmt.Errorf("connect to bwrap: %w", err)
		}
		defer read.Close()
		args = append([]string{"--info-fd", strconv.Itoa(passed.next())}, args...)
		first = read
		passed.own(write)
	}
	cmd := exec.CommandContext(ctx, s.Bubblewrap, args...)
	cmd.Env = []string{}
	cmd.ExtraFiles = passed.files
	var complaint bytes.Buffer
	cmd.Stderr = &complaint // of bubblewrap and postern-sandbox; the command has its own
	// Out of the terminal's foreground group: Ctrl-C is for the command, which
	// gets it from us, and must not kill bubblewrap before that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)

	s.log().Debug("limits", "processes", s.View.Limits.Processes, "memory", s.View.Limits.Memory, "by control group", group.held, "by resource limit", []string{"processes"})
	if err := s.start(cmd, group, starter, streams); err != nil {
		return Result{}, fmt.Errorf("start %s: %w", s.Bubblewrap, err)
	}
	passed.close()
	streams.started()

	// The kernel takes up to 20 ms to move a process, in which bwrap makes the mounts. The first
	// process starts nothing before it has its setup, so everything that the command may start is
	// in the groups.
	groupErr := group.takeFirst(first)
	encoder := json.NewEncoder(host)
	dir := s.View.Workdir
	setup := wire.Setup{
		Argv: wire.Raw(s.Command), Env: wire.Raw(s.View.Env), Dir: wire.Bytes(dir.Path), Device: dir.Device, Inode: dir.Inode, Mounts: dir.Mounts,
		UID: s.View.UID, GID: s.View.GID, Nodes: s.View.Nodes, Gateways: s.Gateways, Ports: capturedPorts(s),
		Terminal: streams.terminal, Filter: wire.Bytes(agentFilter), GateFilter: wire.Bytes(gateFilter), Processes: s.View.Limits.Processes,
	}
	setupErr := groupErr
	if setupErr == nil {
		setupErr = encoder.Encode(setup)
	} else {
		setupErr = errors.Join(setupErr, host.CloseWrite()) // the first process ends: it waits for its setup
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				// If the inside is gone, so is whom the signal was for.
				_ = encoder.Encode(wire.Signal{Number: int(sig.(syscall.Signal))})
			case <-done:
				return
			}
		}
	}()
	result, eventErr := readEvents(host)
	waitErr := cmd.Wait()
	close(done)
	streamErr := streams.finish()

	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("run %s: %w", s.Command[0], ctx.Err())
	case groupErr != nil && complaint.Len() == 0:
		return Result{}, groupErr
	case result.Exited != nil:
		return Result{Status: *result.Exited, Connections: result.Connections}, streamErr
	case result.Refused != "":
		return Result{}, &RefusedError{Message: result.Refused, Status: result.Status}
	case result.Broken != "":
		return Result{}, fmt.Errorf("set up sandbox of agent %s: %s", s.View.Agent, result.Broken)
	case result.Started:
		return Result{}, fmt.Errorf("run %s: the sandbox was killed%s", s.Command[0], colon(complaint.String()))
	}
	return Result{}, bubblewrap.Explain(complaint.String(), errors.Join(waitErr, setupErr, eventErr))
}

// start starts bubblewrap on the thread, in the control group of version 2. For root it uses a
// subordinate user. If this machine or the file system cannot do that, start says so, and the
// sandbox is root without capabilities. Any other failure ends the run, because an agent that works
// above can cause it.
func (s *Spec) start(cmd *exec.Cmd, group *cgroup, starter *thread, streams *streams) error {
	if group.unified != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.unified.Fd())
	}
	if os.Getuid() != 0 {
		return starter.do(cmd.Start)
	}
	user, err := bubblewrap.NewUser()
	if err == nil {
		err = streams.give(user.UID, user.GID)
	}
	if err == nil {
		err = starter.do(func() error { return user.Prepare(cmd, s.View) })
	}
	if err == nil {
		s.log().Debug("user", "uid", user.UID, "gid", user.GID)
		return starter.do(cmd.Start)
	}
	if unable := (*bubblewrap.UnableError)(nil); !errors.As(err, &unable) {
		return err
	}
	if s.Stderr != nil {
		fmt.Fprintf(s.Stderr, "postern: the agent runs as root without capabilities, not as its own user: %v\n", err)
	}
	cmd.Dir, cmd.SysProcAttr.Credential = "", nil
	starter.renew() // what it sees of the host may be half changed
	return starter.do(cmd.Start)
}

// readEvents collects what the inside reports until it ends.
func readEvents(host net.Conn) (wire.Event, error) {
	decoder := json.NewDecoder(host)
	var all wire.Event
	for {
		var e wire.Event
		if err := decoder.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
				return all, nil
			}
			return all, fmt.Errorf("read from sandbox: %w", err)
		}
		if e.Started {
			all.Started = true
			continue
		}
		e.Started = all.Started
		all = e
	}
}

func colon(message string) string {
	if message = strings.TrimSpace(message); message == "" {
		return ""
	}
	return ": " + message
}

// controlPair returns the two ends of the connection between host and inside.
func controlPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// capturedPorts are the ports that are captured for every address.
func capturedPorts(s *Spec) []int {
	ports := append([]int{80, 443}, s.Ports...)
	slices.Sort(ports)
	return slices.Compact(ports)
}

// descriptors are the files that bubblewrap inherits, in order from 3.
type descriptors struct {
	files []*os.File
	owned []*os.File
}

// next is the number of the descriptor that is added next.
func (d *descriptors) next() int { return 3 + len(d.files) }

func (d *descriptors) add(f *os.File) { d.files = append(d.files, f) }

// own is add for a file that is closed here.
func (d *descriptors) own(f *os.File) {
	d.owned = append(d.owned, f)
	d.add(f)
}

// data adds a descriptor that reads content.
func (d *descriptors) data(content []byte) error {
	fd, err := unix.MemfdCreate("postern", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make anonymous file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	d.own(f)
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write anonymous file: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind anonymous file: %w", err)
	}
	return nil
}

func (d *descriptors) close() {
	for _, f := range d.owned {
		f.Close()
	}
	d.owned = nil
}
