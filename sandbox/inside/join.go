package inside

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/counters"
	"github.com/postern/postern/sandbox/wire"
)

// nested is the name by which the first process of a container starts this program again, in
// namespaces of its own.
const nested = "postern-nested"

// join is what this program does as the first process of a container, where it is an ordinary user
// without a capability: it takes over the descriptors that bwrap would have passed, makes a user
// namespace with a network and a mount namespace in it, and serves the sandbox from there. A foreign
// kernel, as gVisor's is, makes no mount namespace.
//
// The command has the same user of the host as the process in those namespaces. It cannot look into
// that process, which is not dumpable, but it can end or stop it: then this one ends too, and the
// container with it. So does it at the end of `postern run`, for which a stopped process cannot look.
// If nothing in the container looks any more, the host ends it: see package container.
func join(foreign bool) (int, error) {
	beImmune()
	files, err := receive()
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("take over descriptors: %w", err)
	}
	complaint := files[3].Fd()
	if err := unix.Dup3(int(complaint), 2, 0); err != nil {
		return 0, fmt.Errorf("take over descriptors: %w", err)
	}
	// Whoever may open this process's descriptors in gVisor would write to the engine.
	for fd := range 2 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return 0, fmt.Errorf("take over descriptors: %w", err)
		}
	}
	own := uintptr(unix.CLONE_NEWNS)
	if foreign {
		own = 0
	}
	pid, err := nest(own, os.Getuid(), os.Getgid(),
		null.Fd(), null.Fd(), complaint, files[0].Fd(), files[1].Fd(), files[2].Fd(), files[4].Fd())
	if err != nil {
		return 0, fmt.Errorf("make user and network namespace in the container: %w", err)
	}
	for _, f := range files[:4] {
		f.Close() // whoever reads the command's output sees its end
	}
	go endWith(files[4])
	if !foreign { // whose kernel counts for this sandbox alone
		go endUsedUp()
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("protect memory: %w", err)
	}
	return reap(pid, unix.WUNTRACED)
}

// nest starts this program again, with the files, in a user namespace whose root is the user, in a
// network namespace, and in more new namespaces.
func nest(more uintptr, uid, gid int, files ...uintptr) (int, error) {
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | more,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Setsid:      true,
		// If the caller is another user, the process has no ID yet.
		Credential: &syscall.Credential{NoSetGroups: true},
	}}
	return syscall.ForkExec(wire.Inside, []string{nested}, attr)
}

// endWith ends this process, and so the container, once the host has closed the control connection.
// It reads nothing: what arrives is for the nested process. gVisor may not wake who waits for the end.
func endWith(control *os.File) {
	const often = 500 // milliseconds
	for {
		ends := []unix.PollFd{{Fd: int32(control.Fd()), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(ends, often)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			os.Exit(1)
		}
		peeked, _, err := unix.Recvfrom(int(ends[0].Fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == nil && peeked == 0 {
			os.Exit(1)
		}
	}
}

// endUsedUp ends this process, and so the container, once nothing of its user can start any more.
// The user owns the working directory: other agents and a person's programs may have it.
func endUsedUp() {
	ctx, _ := counters.Guard(context.Background())
	<-ctx.Done()
	fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", context.Cause(ctx))
	os.Exit(1)
}

// receive connects to the host and returns the descriptors of the command's streams, the one for
// complaints, and the connection itself.
func receive() ([]*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: wire.HostSocket})
	if err != nil {
		return nil, fmt.Errorf("connect to the host: %w", err)
	}
	defer conn.Close()
	control, err := conn.File()
	if err != nil {
		return nil, fmt.Errorf("connect to the host: %w", err)
	}
	const wanted = 4
	text, ancillary := make([]byte, 1), make([]byte, unix.CmsgSpace(4*wanted))
	_, n, _, _, err := conn.ReadMsgUnix(text, ancillary)
	if err != nil {
		return nil, fmt.Errorf("take over descriptors: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(ancillary[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("take over descriptors: %d messages: %w", len(messages), errors.Join(err, unix.EINVAL))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != wanted {
		return nil, fmt.Errorf("take over descriptors: %d of them: %w", len(fds), errors.Join(err, unix.EINVAL))
	}
	files := make([]*os.File, 0, wanted+1)
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "stream"))
	}
	return append(files, control), nil
}
