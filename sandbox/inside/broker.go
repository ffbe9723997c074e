package inside

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/bound"
	"github.com/postern/postern/sandbox/wire"
)

// broker makes every connection for the command, in its place.
//
// A socket file in the working folder may belong to a daemon of the host. Neither a mount nor a
// network namespace stops such a connection: whoever may write the file may connect. A filter does
// not see the path, and the memory that it saw could change a moment later. So the kernel stops
// each connect and asks here. The broker copies the address, takes a copy of the socket, and
// connects it itself to the file that it has inspected.
type broker struct {
	listener int
	// slots bounds how many connects may block at a time.
	slots chan struct{}
	bound *bound.Sockets
	// refused is told of connections of TCP that nobody has taken.
	refused func(ip net.IP, port int)
}

// maxConnects bounds the connects in progress. Others wait.
const maxConnects = 256

// notification and response are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	ID    uint64
	PID   uint32
	Flags uint32
	Nr    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

type response struct {
	ID    uint64
	Val   int64
	Error int32
	Flags uint32
}

// notifIDValid is SECCOMP_IOCTL_NOTIF_ID_VALID.
const notifIDValid = 0x40082102

// serve answers until the sandbox ends. If the kernel cannot be asked any
// longer, the sandbox ends.
func (b *broker) serve() {
	for {
		n := new(notification)
		err := b.control(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // who asked is gone
			continue
		case err != nil:
			fmt.Fprintf(os.Stderr, "postern-sandbox: wait for connections: %v\n", err)
			os.Exit(1)
		}
		b.slots <- struct{}{}
		go func() {
			defer func() { <-b.slots }()
			r := response{ID: n.ID}
			if err := b.connect(n); err != nil {
				var errno syscall.Errno
				if !errors.As(err, &errno) {
					errno = unix.EACCES
				}
				r.Error = -int32(errno)
			}
			// The process that asked may be gone meanwhile.
			_ = b.control(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
		}()
	}
}

func (b *broker) control(request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(b.listener), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// connect does what connect(2) of the process that asks would do.
func (b *broker) connect(n *notification) error {
	length := uint32(n.Args[2])
	if length > unix.SizeofSockaddrAny+unix.SizeofSockaddrUnix { // no address is as long
		return unix.EINVAL
	}
	address := make([]byte, length)
	if err := readMemory(int(n.PID), uintptr(n.Args[1]), address); err != nil {
		return unix.EFAULT
	}
	fd, err := bound.Descriptor(int(n.PID), int(int32(n.Args[0])))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Checked after both, because another thread may have the number by now.
	if err := b.control(notifIDValid, unsafe.Pointer(&n.ID)); err != nil {
		return err
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	path, ok := socketPath(address)
	if family != unix.AF_UNIX || !ok {
		err := connectRaw(fd, address)
		if ip, port, ok := inetAddress(address); ok && nobodyListens(fd, err) {
			b.refused(ip, port)
		}
		return err
	}
	file, err := unix.Open(seenFrom(int(n.PID), path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	if err := b.mayReach(file); err != nil {
		return err
	}
	// By the descriptor, because the path may lead elsewhere by now.
	return unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(file)})
}

// seenFrom returns the path as the thread means it: relative to the thread's folder and with the
// thread's descriptors.
func seenFrom(tid int, path string) string {
	own := fmt.Sprintf("/proc/%d/", tid)
	for _, self := range []string{"/proc/self/", "/proc/thread-self/"} {
		if rest, ok := strings.CutPrefix(path, self); ok {
			return own + rest
		}
	}
	if !filepath.IsAbs(path) {
		return own + "cwd/" + path
	}
	return path
}

// mayReach returns nil if a process in this sandbox listens on the socket file, or if it is the
// agent's own way to the proxy.
func (b *broker) mayReach(file int) error {
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return unix.ECONNREFUSED
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(file))
	if err != nil {
		return unix.EACCES
	}
	if strings.HasPrefix(path, wire.NodesDir+"/") {
		return nil
	}
	ours, err := b.bound.Has(file, &st)
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", err)
		return unix.EACCES
	}
	if !ours {
		return unix.EACCES
	}
	return nil
}

// socketPath returns the path in the address of a Unix socket. Abstract names and other kinds of
// addresses have none.
func socketPath(address []byte) (string, bool) {
	const header = 2
	if len(address) <= header || binary.NativeEndian.Uint16(address) != unix.AF_UNIX || address[header] == 0 {
		return "", false
	}
	path, _, _ := bytes.Cut(address[header:], []byte{0})
	return string(path), true
}

// inetAddress returns what the address of an IPv4 or IPv6 socket says.
func inetAddress(address []byte) (net.IP, int, bool) {
	if len(address) < unix.SizeofSockaddrInet4 {
		return nil, 0, false
	}
	port := int(binary.BigEndian.Uint16(address[2:]))
	switch binary.NativeEndian.Uint16(address) {
	case unix.AF_INET:
		return net.IP(address[4:8]), port, true
	case unix.AF_INET6:
		if len(address) >= unix.SizeofSockaddrInet6 {
			return net.IP(address[8:24]), port, true
		}
	}
	return nil, 0, false
}

// nobodyListens reports whether a connect of TCP that returned err was refused. On loopback the
// kernel knows at once, even if the caller does not wait.
func nobodyListens(fd int, err error) bool {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		return err == nil && kind == unix.SOCK_STREAM
	case errors.Is(err, unix.EINPROGRESS):
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		const closed = 7 // TCP_CLOSE
		return err == nil && info.State == closed
	}
	return false
}

func connectRaw(fd int, address []byte) error {
	var p unsafe.Pointer
	if len(address) > 0 {
		p = unsafe.Pointer(&address[0])
	}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(p), uintptr(len(address))); errno != 0 {
		return errno
	}
	return nil
}

// readMemory reads the memory of a thread. It needs no capability while the process has the same
// user and can be traced.
func readMemory(tid int, from uintptr, into []byte) error {
	if len(into) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &into[0]}}
	local[0].SetLen(len(into))
	n, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: from, Len: len(into)}}, 0)
	if err == nil && n != len(into) {
		err = unix.EFAULT
	}
	return err
}
