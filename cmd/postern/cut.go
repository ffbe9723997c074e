package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/stacks"
)

// The last resort of a kill: it needs neither the control plane nor the store nor an
// answer of Envoy's, only that both are this user's on this machine. The agent's
// sockets are taken out of the folder that its sandbox sees, and its connections are
// shut down through copies of Envoy's own descriptors (pidfd_getfd(2)).

// cutFolder is where a node's sockets are that were taken away from agents.
func cutFolder(home stacks.Home, node string) string {
	return filepath.Join(home.NodeDir(node), "cut")
}

// cut closes the way of the agent to a node that runs here, and ends what it has open.
// It returns how many connections that were.
func cut(home stacks.Home, node, agent string) (connections int, err error) {
	moved := filepath.Join(cutFolder(home, node), agent)
	if err := os.MkdirAll(moved, 0o700); err != nil {
		return 0, fmt.Errorf("cut agent %s off node %s: %w", agent, node, err)
	}
	sockets, err := filepath.Glob(filepath.Join(home.AgentDir(node, agent), "*.sock"))
	if err != nil {
		return 0, fmt.Errorf("cut agent %s off node %s: %w", agent, node, err)
	}
	for _, s := range sockets {
		// Nobody can connect to it any more, not even who holds a descriptor of the file.
		err := os.Chmod(s, 0)
		if err == nil {
			err = os.Rename(s, filepath.Join(moved, filepath.Base(s)))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("cut agent %s off node %s: %w", agent, node, err)
		}
	}
	proxies, err := daemon.Find(func(p daemon.Process) bool {
		return p.Dir == home.NodeDir(node) && p.Has("--config-path", "bootstrap.json")
	})
	if err != nil {
		return 0, err
	}
	for _, p := range proxies {
		n, err := shutDown(p.PID, "agents/"+agent+"/")
		connections += n
		if err != nil {
			return connections, fmt.Errorf("cut what agent %s has open at node %s: %w", agent, node, err)
		}
	}
	return connections, nil
}

// shutDown ends the connections of a process that came in by a Unix socket whose path
// begins with prefix, and returns how many those were.
func shutDown(pid int, prefix string) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(process)
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
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // it was closed meanwhile
		}
		if err != nil {
			return n, err
		}
		if connectionOf(fd, prefix) && unix.Shutdown(fd, unix.SHUT_RDWR) == nil {
			n++
		}
		unix.Close(fd)
	}
	return n, nil
}

// connectionOf reports whether the descriptor is a connection that a listener at a path
// with that prefix has accepted.
func connectionOf(fd int, prefix string) bool {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	at, ok := local.(*unix.SockaddrUnix)
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return ok && err == nil && listens == 0 && strings.HasPrefix(at.Name, prefix)
}

// mend gives an agent back what cut took away, unless Envoy has made it anew.
func mend(home stacks.Home, node, agent string) error {
	moved := filepath.Join(cutFolder(home, node), agent)
	sockets, err := filepath.Glob(filepath.Join(moved, "*.sock"))
	if err != nil {
		return fmt.Errorf("let agent %s reach node %s again: %w", agent, node, err)
	}
	for _, s := range sockets {
		back := filepath.Join(home.AgentDir(node, agent), filepath.Base(s))
		if _, err := os.Lstat(back); err == nil {
			continue // it belongs to an Envoy that was started since
		}
		if err := errors.Join(os.Rename(s, back), os.Chmod(back, socketMode)); err != nil {
			return fmt.Errorf("let agent %s reach node %s again: %w", agent, node, err)
		}
	}
	return os.RemoveAll(moved)
}

// socketMode is the mode of an agent's socket: who may enter its folder may connect.
const socketMode = 0o666

// agentsOf are the agents that have a folder at the node, or had one.
func agentsOf(home stacks.Home, node string) []string {
	var names []string
	for _, dir := range []string{filepath.Join(home.NodeDir(node), "agents"), cutFolder(home, node)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}
