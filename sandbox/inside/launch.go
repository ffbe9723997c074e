package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// launcher is the name by which this program is started a second time: as the
// process that becomes the command. A filter of system calls that forbids
// namespaces cannot be set before the command's own namespace is made, and Go
// can run nothing between fork and exec.
const launcher = "postern-launch"

// maxSignals is the number of signals that may be queued for the command's processes together.
const maxSignals = 1024

// launchFD is the descriptor of the launcher's connection to the first process.
const launchFD = 3

// launch says what the launcher becomes.
type launch struct {
	Path      string       `json:"path"`
	Argv      []wire.Bytes `json:"argv"`
	Env       []wire.Bytes `json:"env"`
	Filter    wire.Bytes   `json:"filter"`
	Processes uint64       `json:"processes"`
	// Foreign is true if the kernel asks nobody about a call.
	Foreign bool `json:"foreign"`
}

// becomeCommand replaces this process by the command. It first hands over the
// descriptor by which the kernel asks about calls, and returns only if
// something fails.
func becomeCommand() int {
	connection := os.NewFile(launchFD, "launch")
	defer connection.Close()
	report := func(err error) int {
		// The reader understands only an errno.
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = unix.EIO
		}
		_ = json.NewEncoder(connection).Encode(failure{Message: err.Error(), Errno: int(errno)})
		return 1
	}
	var l launch
	if err := json.NewDecoder(connection).Decode(&l); err != nil {
		return report(fmt.Errorf("read what to start: %w", err))
	}
	if err := closeOnExec(launchFD); err != nil {
		return report(fmt.Errorf("keep descriptors from the command: %w", err))
	}
	// The limit counts in the command's own user namespace (since Linux 5.14), so the caller's
	// other processes lose nothing.
	limit := unix.Rlimit{Cur: l.Processes, Max: l.Processes}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &limit); err != nil {
		return report(fmt.Errorf("limit processes: %w", err))
	}
	// Otherwise one agent could queue all the signals that its user may have, and no other sandbox
	// of this user would start. A foreign kernel is this sandbox's alone.
	signals := unix.Rlimit{Cur: maxSignals, Max: maxSignals}
	if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &signals); err != nil && !l.Foreign {
		return report(fmt.Errorf("limit signals: %w", err))
	}
	// A core file would be in the working directory, as large as the memory.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return report(fmt.Errorf("limit core files: %w", err))
	}
	// If the machine runs out of memory, the kernel should end the agent first. Without a memory
	// limit nothing else protects the machine, and a kernel that refuses this is not worse off.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)

	// A filter belongs to a thread, and exec keeps the filter of the calling thread.
	runtime.LockOSThread()
	if l.Foreign {
		if _, err := filterThread(l.Filter, 0); err != nil {
			return report(err)
		}
		return report(unix.Exec(l.Path, wire.Strings(l.Argv), wire.Strings(l.Env)))
	}
	listener, err := filterThread(l.Filter, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if err != nil {
		return report(err)
	}
	if err := unix.Sendmsg(launchFD, []byte("\n"), unix.UnixRights(listener), nil, 0); err != nil {
		return report(fmt.Errorf("hand over connections: %w", err))
	}
	return report(unix.Exec(l.Path, wire.Strings(l.Argv), wire.Strings(l.Env)))
}

// failure is why the command could not be started.
type failure struct {
	Message string `json:"message"`
	Errno   int    `json:"errno"`
}

// filterThread installs a filter of system calls on the calling thread, or on
// all threads if the flags say so. With SECCOMP_FILTER_FLAG_NEW_LISTENER it
// returns the descriptor by which the kernel asks.
func filterThread(program wire.Bytes, flags uintptr) (int, error) {
	const instruction = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(program) == 0 || len(program)%instruction != 0 {
		return 0, errors.New("filter system calls: not a program")
	}
	code := []byte(program)
	fprog := unix.SockFprog{Len: uint16(len(code) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("filter system calls: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags|waitKillable(flags), uintptr(unsafe.Pointer(&fprog)))
	if errno == unix.EINVAL && waitKillable(flags) != 0 {
		// Before Linux 5.19: a signal during a connect makes the kernel ask twice.
		fd, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	}
	runtime.KeepAlive(code)
	if errno != 0 {
		return 0, fmt.Errorf("filter system calls: %w", errno)
	}
	return int(fd), nil
}

// waitKillable is the flag by which only death interrupts a call that the listener has received.
func waitKillable(flags uintptr) uintptr {
	const flagWaitKillable = 1 << 5
	if flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		return 0
	}
	return flagWaitKillable
}

// spawn starts the launcher in a user namespace of its own, has it become the
// command, and returns its process and the descriptor by which the kernel asks
// about its calls.
func spawn(setup *wire.Setup, path string, streams [3]uintptr) (pid, listener int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("connect to the command's process: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "launch"), pair[1]
	defer ours.Close()
	attr := &syscall.ProcAttr{
		Dir: string(setup.Dir), Env: []string{},
		Files: append(streams[:], uintptr(theirs)),
		Sys: &syscall.SysProcAttr{
			// The host has put this process into a control group, which becomes the command's root.
			// So the command does not see the group's name on the host.
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWCGROUP,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: setup.UID, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: setup.GID, HostID: 0, Size: 1}},
			Setsid:      true,
			Setctty:     setup.Terminal >= 0,
			Ctty:        max(setup.Terminal, 0),
		},
	}
	if setup.Foreign && setup.Terminal >= 0 { // this process leads the terminal's session
		attr.Sys.Setsid, attr.Sys.Setctty, attr.Sys.Foreground = false, false, true
		attr.Sys.Ctty = int(streams[setup.Terminal])
	}
	pid, err = syscall.ForkExec(wire.Inside, []string{launcher}, attr)
	unix.Close(theirs)
	if err != nil {
		return 0, 0, fmt.Errorf("start the command's process: %w", err)
	}
	err = json.NewEncoder(ours).Encode(launch{Path: path, Argv: setup.Argv, Env: setup.Env, Filter: setup.Filter, Processes: setup.Processes, Foreign: setup.Foreign})
	if err != nil {
		return 0, 0, fmt.Errorf("say what to start: %w", err)
	}
	var failed []byte
	if !setup.Foreign {
		if listener, failed, err = handedOver(pair[0]); err != nil {
			return 0, 0, err
		}
	}
	// The end of the stream means that exec has closed the connection.
	rest, err := io.ReadAll(ours)
	if err != nil {
		return 0, 0, fmt.Errorf("wait for the command's start: %w", err)
	}
	if failed = append(failed, rest...); len(failed) > 0 {
		var f failure
		if err := json.Unmarshal(failed, &f); err != nil {
			return 0, 0, fmt.Errorf("wait for the command's start: %w", err)
		}
		return 0, 0, &startError{message: f.Message, errno: syscall.Errno(f.Errno)}
	}
	return pid, listener, nil
}

// startError is why the launcher did not become the command.
type startError struct {
	message string
	errno   syscall.Errno
}

func (e *startError) Error() string { return e.message }
func (e *startError) Unwrap() error { return e.errno }

// handedOver receives a descriptor, or -1 and the beginning of a failure.
func handedOver(connection int) (fd int, failed []byte, err error) {
	text, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		n, cn, _, _, err := unix.Recvmsg(connection, text, control, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, nil, fmt.Errorf("take over connections: %w", err)
		case n == 0:
			return -1, nil, errors.New("take over connections: the command's process ended")
		case cn == 0:
			return -1, text[:n], nil
		}
		messages, err := unix.ParseSocketControlMessage(control[:cn])
		if err != nil || len(messages) != 1 {
			return -1, nil, fmt.Errorf("take over connections: %d messages: %w", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return -1, nil, fmt.Errorf("take over connections: %d descriptors: %w", len(fds), err)
		}
		return fds[0], nil, nil
	}
}
