// Package cut cuts agents off the nodes of this machine from outside, as the last resort of a kill,
// and lets them reach the nodes again.
package cut

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
)

// The last resort of a kill. It needs neither the control plane nor the store nor an answer of
// Envoy, only that Envoy runs here as this user. The agent's sockets are moved out of the folder
// that its sandbox sees, and its connections are shut down through copies of Envoy's own
// descriptors (pidfd_getfd(2)).

// cutFolder holds the sockets of a node that were taken away from agents. It is not in the node's
// folder: root must not act on what a node that was taken over puts there.
func cutFolder(home home.Folder, node string) string { return filepath.Join(home.Root, "cut", node) }

// folderOf opens the folder of an agent's sockets.
func folderOf(home home.Folder, node, agent string) (*os.File, error) {
	return hostpath.OpenBelow(home.Root, home.AgentDir(node, agent))
}

// chmodSocket sets the mode of the socket at name in the folder. If the file is not a socket, or
// has another name too, chmodSocket reports this and changes nothing: a link there may lead to any
// file of the machine.
func chmodSocket(folder *os.File, name string, mode os.FileMode) (bool, error) {
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Nlink != 1 {
		return false, err
	}
	return true, os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

// cut closes the agent's way to a node that runs here, and ends what the agent has open. It returns
// the number of ended connections. It looks at the node's processes until the given time, and at
// least once.
func cut(home home.Folder, node, agent string, until time.Time) (connections int, err error) {
	moved := filepath.Join(cutFolder(home, node), agent)
	// Neither a full disk nor whoever moves the folder away, or puts a link in its place, keeps
	// anything open by that. The node must be started again then before the agent can use it.
	away := os.MkdirAll(moved, 0o700)
	if away == nil {
		away = takeAway(home, node, agent, moved)
	}
	proxies, err := proxiesIn(home.NodeDir(node))
	if err != nil {
		return 0, err
	}
	var failed error
	for _, p := range proxies {
		n, err := shutDown(p.PID, "agents/"+agent+"/", away != nil, until)
		connections += n
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return connections, fmt.Errorf("cut what agent %s has open at node %s: %w", agent, node, failed)
	}
	if away != nil && !errors.Is(away, fs.ErrNotExist) {
		return connections, fmt.Errorf("cut agent %s off node %s: its socket serves nobody until the node is started again: %w", agent, node, away)
	}
	return connections, nil
}

// takeAway moves the agent's sockets out of the folder that its sandbox sees.
func takeAway(home home.Folder, node, agent, to string) error {
	folder, err := folderOf(home, node, agent)
	if err != nil {
		return err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if filepath.Ext(name) != ".sock" {
			continue
		}
		// Nobody can connect to the socket any more, not even with a descriptor of the file.
		ours, err := chmodSocket(folder, name, 0)
		if ours && err == nil {
			err = unix.Renameat(int(folder.Fd()), name, unix.AT_FDCWD, filepath.Join(to, name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// shutDown ends the connections of a process that came in, or were about to come in, by a Unix
// socket whose path begins with prefix, and returns their number. No further connections can come:
// the caller has moved the sockets' files away, or has the listening sockets shut down too.
func shutDown(pid int, prefix string, listening bool, until time.Time) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(process)
	// A running process may accept a connection after its descriptors were listed. So they are
	// listed until nothing is new.
	for n, done := 0, map[string]bool{}; ; {
		fresh, err := shutDownOnce(process, pid, prefix, listening, done, until)
		n += fresh
		if err != nil || fresh == 0 {
			return n, err
		}
		if time.Now().After(until) {
			return n, fmt.Errorf("process %d keeps opening connections, as a process does that was taken over: end it", pid)
		}
	}
}

// cutFor bounds the time spent on the processes of one node: whoever has taken a node over may
// start any number.
const cutFor = 5 * time.Second

// shutDownOnce inspects each socket of the process once, unless it is in done, and adds to done
// those that it has shut down.
func shutDownOnce(process, pid int, prefix string, listening bool, done map[string]bool, until time.Time) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(link, "socket:") || done[link] {
			continue
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // it was closed meanwhile
		}
		if err != nil {
			return n, err
		}
		listens, ours := isOf(fd, prefix)
		switch {
		case ours && listens:
			if listening {
				_ = unix.Shutdown(fd, unix.SHUT_RDWR) // connect(2) is refused from now on
			}
			n += empty(fd, until)
		case ours && unix.Shutdown(fd, unix.SHUT_RDWR) == nil:
			discard(fd)
			done[link] = true
			n++
		}
		unix.Close(fd)
	}
	return n, nil
}

// isOf reports whether the descriptor is a socket at a path with that prefix, or a connection that
// such a socket has accepted, and which of the two.
func isOf(fd int, prefix string) (listens, ours bool) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false, false
	}
	at, ok := local.(*unix.SockaddrUnix)
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return n == 1, ok && err == nil && strings.HasPrefix(at.Name, prefix)
}

// empty closes the connections that nobody has accepted yet, and returns their number. Envoy's
// listening sockets do not block. The socket of a process that was taken over may block, so empty
// turns that off first.
func empty(listening int, until time.Time) int {
	for n := 0; ; n++ {
		if unix.SetNonblock(listening, true) != nil || time.Now().After(until) {
			return n
		}
		fd, _, err := unix.Accept4(listening, unix.SOCK_CLOEXEC)
		if err != nil {
			return n
		}
		unix.Close(fd)
	}
}

// discard reads the bytes that have arrived on a connection that was shut down: otherwise its owner
// would still get them.
func discard(fd int) {
	for b := make([]byte, 64<<10); ; {
		if n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT); n <= 0 || err != nil {
			return
		}
	}
}

// mend puts back the sockets that cut took away, and reports whether it took any. A socket
// that Envoy has made since stays.
func mend(home home.Folder, node, agent string) (bool, error) {
	moved := filepath.Join(cutFolder(home, node), agent)
	switch err := giveBack(home, node, agent, moved); {
	case errors.Is(err, fs.ErrNotExist):
		return false, os.RemoveAll(moved)
	case err != nil:
		return false, fmt.Errorf("let agent %s reach node %s again: %w", agent, node, err)
	}
	return true, os.RemoveAll(moved)
}

func giveBack(home home.Folder, node, agent, from string) error {
	kept, err := hostpath.OpenBelow(home.Root, from)
	if err != nil {
		return err
	}
	defer kept.Close()
	names, err := kept.Readdirnames(-1)
	if err != nil {
		return err
	}
	folder, err := folderOf(home, node, agent)
	if err != nil {
		return err
	}
	defer folder.Close()
	for _, name := range names {
		if ours, err := chmodSocket(kept, name, socketMode); err != nil || !ours {
			return errors.Join(err, fmt.Errorf("%s is not a socket that was taken away", filepath.Join(from, name)))
		}
		// A socket that is there belongs to an Envoy that was started since.
		err := unix.Renameat2(int(kept.Fd()), name, int(folder.Fd()), name, unix.RENAME_NOREPLACE)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// socketMode is the mode of an agent's socket: whoever may enter its folder may connect.
const socketMode = 0o666

// agentsOf returns the agents that have, or had, a folder at the node.
func agentsOf(home home.Folder, node string) []string {
	var names []string
	for _, dir := range []string{filepath.Join(home.NodeDir(node), "agents"), cutFolder(home, node)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}
