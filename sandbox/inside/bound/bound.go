// Package bound finds out which socket files have a listener in this sandbox, and takes descriptors
// of other processes.
package bound

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets finds out which socket files have a listener in this sandbox. The host's have none
// here.
//
// The kernel lists the sockets of this network namespace, each with 32 bits of its file's inode
// number and the device of the whole file system. Other files can have the same values: in another
// subvolume of btrfs, or on a large XFS. So that list only says where to look. The file to which a
// descriptor of the listening socket leads is what counts.
type Sockets struct {
	mu sync.Mutex
	fd int
}

// The parts of linux/unix_diag.h and linux/sock_diag.h that are needed.
const (
	unixDiagVFS     = 1
	showVFS         = 2
	stateListen     = 1 << 10
	sizeUnixDiag    = 16
	sizeUnixDiagReq = 24
)

// New opens the list of the sockets of this network namespace.
func New() (*Sockets, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return &Sockets{fd: fd}, nil
}

// Has reports whether a process of this sandbox listens on the file, whose status is st. The caller
// keeps the descriptor open, so no other file gets the inode meanwhile.
func (b *Sockets) Has(file int, st *unix.Stat_t) (bool, error) {
	device, err := deviceOf(file)
	if err != nil {
		return false, err
	}
	candidates, err := b.listeners(device, uint32(st.Ino))
	if err != nil || len(candidates) == 0 {
		return false, err
	}
	return heldHere(candidates, st)
}

// heldHere reports whether a process of this sandbox has one of the sockets open, by their names
// below /proc/PID/fd, and the socket listens on the file.
func heldHere(sockets map[string]bool, st *unix.Stat_t) (bool, error) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + p.Name() + "/fd"
		descriptors, err := os.ReadDir(dir)
		if err != nil {
			continue // the process has ended, or is not the agent's
		}
		for _, d := range descriptors {
			if link, err := os.Readlink(dir + "/" + d.Name()); err != nil || !sockets[link] {
				continue
			}
			number, err := strconv.Atoi(d.Name())
			if err != nil {
				continue
			}
			if listensOn(pid, number, st) {
				return true, nil
			}
		}
	}
	return false, nil
}

// listensOn reports whether the descriptor of the process is a socket that listens on the file.
func listensOn(pid, number int, st *unix.Stat_t) bool {
	socket, err := Descriptor(pid, number)
	if err != nil {
		return false
	}
	defer unix.Close(socket)
	listens, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && listens == 1 && isBoundTo(socket, st)
}

// siocUnixFile is SIOCUNIXFILE of linux/un.h: it opens the file that a Unix socket is bound to,
// with O_PATH. It needs CAP_NET_ADMIN over the socket's network namespace.
const siocUnixFile = 0x89e0

// isBoundTo reports whether the Unix socket is bound to the file.
func isBoundTo(socket int, st *unix.Stat_t) bool {
	opened, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), siocUnixFile, 0)
	if errno != 0 {
		return false
	}
	defer unix.Close(int(opened))
	var bound unix.Stat_t
	return unix.Fstat(int(opened), &bound) == nil && bound.Dev == st.Dev && bound.Ino == st.Ino
}

// listeners returns the sockets that listen on a file with this device and these 32 bits of an
// inode number, named as below /proc/PID/fd.
func (b *Sockets) listeners(device, inode uint32) (map[string]bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	request := make([]byte, unix.SizeofNlMsghdr+sizeUnixDiagReq)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := request[unix.SizeofNlMsghdr:]
	body[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(body[4:], stateListen)
	binary.NativeEndian.PutUint32(body[12:], showVFS)
	if err := unix.Sendto(b.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	found := map[string]bool{}
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(b.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return found, nil
			case m.Header.Type == unix.NLMSG_ERROR:
				return nil, errors.New("list sockets: the kernel does not (is the module unix_diag missing?)")
			case len(m.Data) >= sizeUnixDiag && isFile(m.Data[sizeUnixDiag:], device, inode):
				// udiag_ino. The rest must be read all the same.
				found[fmt.Sprintf("socket:[%d]", binary.NativeEndian.Uint32(m.Data[4:]))] = true
			}
		}
	}
}

// isFile reports whether the attributes name the file.
func isFile(attributes []byte, device, inode uint32) bool {
	for len(attributes) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		kind := binary.NativeEndian.Uint16(attributes[2:])
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return false
		}
		value := attributes[unix.SizeofRtAttr:length]
		if kind == unixDiagVFS && len(value) >= 8 {
			return binary.NativeEndian.Uint32(value) == inode && binary.NativeEndian.Uint32(value[4:]) == device
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return false
}

// deviceOf returns the file system's device as the kernel has it; stat shows
// another one on btrfs and overlays.
func deviceOf(file int) (uint32, error) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(file))
	if err != nil {
		return 0, fmt.Errorf("find mount: %w", err)
	}
	_, rest, _ := strings.Cut(string(info), "mnt_id:")
	line, _, _ := strings.Cut(rest, "\n")
	id := strings.TrimSpace(line)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0, fmt.Errorf("find mount: %w", err)
	}
	for mount := range strings.Lines(string(mounts)) {
		fields := strings.Fields(mount)
		if len(fields) < 3 || fields[0] != id {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
			return 0, fmt.Errorf("find mount: %w", err)
		}
		return major<<20 | minor, nil
	}
	return 0, fmt.Errorf("find mount %s: not there", id)
}

// Descriptor copies a descriptor of the thread or, before Linux 6.9, of its process. There
// threads have no pidfd, but nearly always share their descriptors.
func Descriptor(tid, fd int) (int, error) {
	const threadToo = unix.O_EXCL // PIDFD_THREAD
	pidfd, err := unix.PidfdOpen(tid, threadToo)
	if errors.Is(err, unix.EINVAL) {
		status, rerr := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
		if rerr != nil {
			return -1, unix.ESRCH
		}
		_, rest, _ := strings.Cut(string(status), "\nTgid:")
		line, _, _ := strings.Cut(rest, "\n")
		pid, perr := strconv.Atoi(strings.TrimSpace(line))
		if perr != nil {
			return -1, unix.ESRCH
		}
		pidfd, err = unix.PidfdOpen(pid, 0)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}
