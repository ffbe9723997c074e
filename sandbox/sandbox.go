// Package sandbox runs an agent's command under bubblewrap so that the only
// way out of it is the agent's own proxy socket.
//
// [Run] is the host's side: what of this machine a sandbox may see (files.go,
// toolchains.go, environ.go) and how its streams and signals are connected.
// Package inside is the other side, which runs in the sandbox before the
// command does; package wire is what the two say to each other.
//
// Everything is an allowlist: the sandbox starts empty and sees what is named
// here. It works for an ordinary user and for root alike; for root the command
// runs without capabilities, but as the owner of root's files, so what is
// mounted must never be writable beyond the working directory.
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

	"github.com/postern/postern/sandbox/wire"
)

// Spec is one command to run in a sandbox.
type Spec struct {
	// Agent is the name of the agent, for messages and as the host name.
	Agent string
	// Command and its arguments.
	Command []string
	// Workdir is visible, writable and current in the sandbox. See [Workdir].
	Workdir string
	// Private are files and folders that no agent may see, such as the state folder and secrets. Nothing that contains
	// one, or is inside one, is shown.
	Private []string
	// Trusted, if set, reports whether nobody but the caller chooses where a path leads. What PATH names is shown only
	// if so: an agent that puts a link in the place of a folder of its own would choose what the next one sees.
	Trusted func(path string) bool `json:"-"`
	// Environ is the caller's environment, of which only an allowlist passes.
	Environ []string
	// Env are NAME=VALUE that the command gets in addition.
	Env []string
	// Sockets are folders, one per node, that hold the agent's proxy.sock.
	Sockets []string
	// CA is the certificate, in PEM, of the authority that the proxy signs with.
	CA []byte
	// Gateways are the loopback ports that reach the proxy over plain HTTP.
	Gateways []int
	// Ports are captured whatever address they are at, besides 80 and 443.
	Ports []int
	// Bubblewrap is the absolute path of bwrap, which runs outside the sandbox with
	// the caller's rights: the caller has found it where no agent writes.
	Bubblewrap string
	// Inside is the static program that serves the sandbox from the inside:
	// postern-sandbox.
	Inside string
	Limits Limits
	// Log, if set, is told what the sandbox is made of: names, never values.
	Log *slog.Logger `json:"-"`
	// The caller's streams; nil is /dev/null. The command gets none of them, but
	// terminals and pipes of its own that are connected to them.
	Stdin, Stdout, Stderr *os.File

	// folder is who Workdir was when it was first looked at.
	folder *unix.Stat_t
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
	// Status is what a shell would exit with: 126 or 127.
	Status int
}

func (e *RefusedError) Error() string { return e.Message }

// Result is how a command ended.
type Result struct {
	// Status is its exit status, 128+n if signal n ended it.
	Status int
	// Connections is how many connections to the proxy it asked for.
	Connections uint64
}

// Run runs the command of s and returns how it ended. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 that this
// process receives in the meantime are passed to the command. When Run
// returns, for whatever reason, nothing of the sandbox is left.
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
	if s.Limits, err = s.Limits.orDefaults(); err != nil {
		return Result{}, err
	}
	group := newCgroup(s.Limits)
	defer group.remove()
	starter := newThread()
	defer starter.end()
	// Takes the kernel some milliseconds, in which there is other work.
	entered := make(chan error, 1)
	go func() { entered <- starter.do(group.enter) }()
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

	args, env, err := arguments(s, &passed)
	if err != nil {
		return Result{}, err
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

	if err := <-entered; err != nil {
		return Result{}, err
	}
	s.log().Debug("limits", "processes", s.Limits.Processes, "memory", s.Limits.Memory, "by control group", group.held, "by resource limit", []string{"processes"})
	if err := s.start(cmd, group, starter, streams); err != nil {
		return Result{}, fmt.Errorf("start %s: %w", s.Bubblewrap, err)
	}
	passed.close()
	streams.started()

	mounts, err := mountsBelow(s.Workdir)
	if err != nil {
		return Result{}, err
	}
	encoder := json.NewEncoder(host)
	uid, gid := identity()
	setupErr := encoder.Encode(wire.Setup{
		Argv: wire.Raw(s.Command), Env: wire.Raw(env), Dir: wire.Bytes(s.Workdir), Device: s.folder.Dev, Inode: s.folder.Ino, Mounts: mounts,
		UID: uid, GID: gid, Nodes: nodeFolders(s), Gateways: s.Gateways, Ports: capturedPorts(s),
		Terminal: streams.terminal, Filter: wire.Bytes(agentFilter), GateFilter: wire.Bytes(gateFilter), Processes: s.Limits.Processes,
	})
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
	case result.Exited != nil:
		return Result{Status: *result.Exited, Connections: result.Connections}, streamErr
	case result.Refused != "":
		return Result{}, &RefusedError{Message: result.Refused, Status: result.Status}
	case result.Broken != "":
		return Result{}, fmt.Errorf("set up sandbox of agent %s: %s", s.Agent, result.Broken)
	case result.Started:
		return Result{}, fmt.Errorf("run %s: the sandbox was killed%s", s.Command[0], colon(complaint.String()))
	}
	return Result{}, explain(complaint.String(), errors.Join(waitErr, setupErr, eventErr))
}

// start starts bubblewrap on the thread, which is in the group: for root, as a user that is subordinate. If this machine
// or the file system cannot do that, start says so, and the sandbox is root without capabilities. Any other failure ends
// the run, because an agent that works above can cause it.
func (s *Spec) start(cmd *exec.Cmd, group *cgroup, starter *thread, streams *streams) error {
	if group.unified != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.unified.Fd())
	}
	if os.Getuid() != 0 {
		return starter.do(cmd.Start)
	}
	user, err := newSubordinate()
	if err != nil {
		err = &unableError{err}
	} else {
		err = streams.give(user)
	}
	if err == nil {
		err = starter.do(func() error { return user.prepare(cmd, cmd.Args[1:], s) })
	}
	if err == nil {
		s.log().Debug("user", "uid", user.uid, "gid", user.gid)
		return starter.do(cmd.Start)
	}
	if unable := (*unableError)(nil); !errors.As(err, &unable) {
		return err
	}
	if s.Stderr != nil {
		fmt.Fprintf(s.Stderr, "postern: the agent runs as root without capabilities, not as its own user: %v\n", err)
	}
	cmd.Dir, cmd.SysProcAttr.Credential = "", nil
	starter.renew() // what it sees of the host may be half changed
	if err := starter.do(group.enter); err != nil {
		return err
	}
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
func controlPair() (net.Conn, *os.File, error) {
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
	return conn, theirs, nil
}

// identity is what the command believes to be: the caller, but never root, so
// that programs do not try what they cannot do.
func identity() (uid, gid int) {
	uid, gid = os.Getuid(), os.Getgid()
	if uid == 0 {
		uid = 1000
	}
	if gid == 0 {
		gid = 1000
	}
	return uid, gid
}

// capturedPorts are the ports that are captured for every address.
func capturedPorts(s *Spec) []int {
	ports := append([]int{80, 443}, s.Ports...)
	slices.Sort(ports)
	return slices.Compact(ports)
}

// nodeFolders are the folders, inside, of s.Sockets.
func nodeFolders(s *Spec) []string {
	folders := make([]string, len(s.Sockets))
	for i := range s.Sockets {
		folders[i] = filepath.Join(wire.NodesDir, strconv.Itoa(i))
	}
	return folders
}

// descriptors are the files that bubblewrap inherits, in order from 3.
type descriptors struct {
	files []*os.File
	owned []*os.File
}

func (d *descriptors) add(f *os.File) int {
	d.files = append(d.files, f)
	return 2 + len(d.files)
}

// own is add for a file that is closed here.
func (d *descriptors) own(f *os.File) int {
	d.owned = append(d.owned, f)
	return d.add(f)
}

// data returns a descriptor that reads content.
func (d *descriptors) data(content []byte) (int, error) {
	fd, err := unix.MemfdCreate("postern", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("make anonymous file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	n := d.own(f)
	if _, err := f.Write(content); err != nil {
		return 0, fmt.Errorf("write anonymous file: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("rewind anonymous file: %w", err)
	}
	return n, nil
}

func (d *descriptors) close() {
	for _, f := range d.owned {
		f.Close()
	}
	d.owned = nil
}
