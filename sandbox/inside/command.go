package inside

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/bound"
	"github.com/postern/postern/sandbox/inside/terminal"
	"github.com/postern/postern/sandbox/wire"
)

// refusedError says why a command could not be started, in the words and with the exit status of a
// shell.
type refusedError struct {
	message string
	status  int
}

func (e *refusedError) Error() string { return e.message }

// start runs the agent's command and leaves this process one capability, over
// the sandbox's own network: broker asks with it which file a socket is bound to.
//
// The command gets a user namespace below this one, so that it has no
// capability over the network namespace whatever it does (also not by making
// further namespaces), cannot trace this process, and sees itself as the
// ordinary user that called, never as root.
func start(setup *wire.Setup, gate *gate, own *terminal.Terminal) (int, error) {
	path, err := findCommand(setup)
	if err != nil {
		return 0, err
	}
	streams := [3]uintptr{wire.StdinFD, wire.StdoutFD, wire.StderrFD}
	if own != nil {
		own.Replace(setup, &streams)
	}
	pid, err := confine(setup, path, streams, gate.refused)
	var failed *startError
	switch {
	case errors.As(err, &failed) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrPermission)):
		return 0, &refusedError{message: fmt.Sprintf("%s: start: %v (is its interpreter in the sandbox?)", setup.Argv[0], err), status: 126}
	case err != nil:
		return 0, fmt.Errorf("start %s: %w", setup.Argv[0], err)
	}
	// Only the command keeps the agent's streams open, so that their readers
	// see the end when it closes them.
	for _, fd := range []int{wire.StdinFD, wire.StdoutFD, wire.StderrFD} {
		unix.Close(fd)
	}
	return pid, nil
}

// confine starts the program at the path, which setup describes, with the streams, and gives up
// what this process needed for that. refused is told of its connections that nobody has taken.
func confine(
	setup *wire.Setup, path string, streams [3]uintptr, refused func(ip net.IP, port int),
) (int, error) {
	// The command inherits the keyring, and depends on the parent's thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var sockets *bound.Sockets
	var err error
	if !setup.Foreign {
		// The caller's session keyring may hold tickets and keys.
		if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return 0, fmt.Errorf("leave caller's keyring: %w", err)
		}
		if sockets, err = bound.New(); err != nil {
			return 0, err
		}
	}
	// Mapping our user, which is 0 here, into another namespace requires CAP_SETFCAP.
	if err := keepCapabilities(1<<unix.CAP_SETFCAP | 1<<unix.CAP_NET_ADMIN); err != nil {
		return 0, err
	}
	pid, listener, err := spawn(setup, path, streams)
	if err != nil {
		return 0, err
	}
	if err := keepCapabilities(1 << unix.CAP_NET_ADMIN); err != nil {
		return 0, err
	}
	if !setup.Foreign {
		slots := make(chan struct{}, maxConnects)
		broker := &broker{listener: listener, slots: slots, bound: sockets, refused: refused}
		go broker.serve()
	}
	if _, err := filterThread(setup.GateFilter, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
		return 0, err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("protect memory: %w", err)
	}
	return pid, nil
}

// keepCapabilities gives up, on every thread, all capabilities except those in the mask, which must
// be held. Ambient capabilities go with the permitted ones.
func keepCapabilities(mask uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		bits := uint32(mask >> (32 * i))
		data[i] = unix.CapUserData{Effective: bits, Permitted: bits}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&data)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

// findCommand looks the command up as a shell would, in the agent's own PATH.
func findCommand(setup *wire.Setup) (string, error) {
	name := string(setup.Argv[0])
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(string(setup.Dir), name)
		}
		switch info, err := os.Stat(name); {
		case err != nil:
			return "", &refusedError{message: fmt.Sprintf("%s: no such file in the sandbox", setup.Argv[0]), status: 127}
		case info.IsDir() || info.Mode()&0o111 == 0:
			return "", &refusedError{message: fmt.Sprintf("%s: not executable", setup.Argv[0]), status: 126}
		}
		return name, nil
	}
	path := setup.Variable("PATH")
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // so that no program of the working directory runs by accident
		}
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", &refusedError{message: fmt.Sprintf("%s: command not found in the sandbox (PATH=%s)", name, path), status: 127}
}
