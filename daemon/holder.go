package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Holder returns the process that holds a lock (flock) on the open file, as the kernel reports it
// (/proc/locks, proc(5)). It returns 0 if there is none, or if the process is not in this process's
// PID namespace.
func Holder(f *os.File) int {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	// The device is not compared: some file systems have another one there.
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	device := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
	found := 0
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4711 08:01:131073 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 {
			continue
		}
		if fields[5] == device+inode {
			return pid
		}
		// An agent chooses the inode of a file in its sandbox, and locks it: it is not meant.
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && !nested(status) {
			found = pid
		}
	}
	return found
}

// Process is a process that runs on this machine.
type Process struct {
	PID int
	// Args are the process's arguments, including the program's name.
	Args []string
	// Dir is the process's working folder, or "" if it may not be read.
	Dir string
}

// Find returns the processes of this user (for root: of any user) for which match reports true. It
// leaves out processes of other PID namespaces, such as a sandbox's, because what they say about
// themselves is not trustworthy.
func Find(match func(Process) bool) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := look(pid); ok && match(p) {
			found = append(found, p)
		}
	}
	return found, nil
}

// look reads from /proc what Find returns about a process.
func look(pid int) (Process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Process{}, false // it has ended
	}
	for line := range strings.Lines(string(status)) {
		ids, ok := strings.CutPrefix(line, "Uid:")
		if ok && os.Geteuid() != 0 && strings.Fields(ids)[0] != strconv.Itoa(os.Geteuid()) {
			return Process{}, false
		}
	}
	if nested(status) {
		return Process{}, false
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(cmdline) == 0 {
		return Process{}, false
	}
	p := Process{PID: pid, Args: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")}
	p.Dir, _ = os.Readlink(filepath.Join(dir, "cwd"))
	return p, true
}

// nested reports whether the process with this /proc/<pid>/status is in a PID namespace below this
// one, as in a sandbox.
func nested(status []byte) bool {
	for line := range strings.Lines(string(status)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(pids)) > 1
		}
	}
	return false
}

// End sends the process the signal, and SIGKILL when ctx ends. It returns when the process is gone.
func (p Process) End(ctx context.Context, ask syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// The number may have passed to another process before the descriptor was open.
	if now, ok := look(p.PID); !ok || !slices.Equal(now.Args, p.Args) {
		return nil
	}
	return end(ctx, fd, p.PID, ask)
}

// Has reports whether the words follow each other among the process's arguments.
func (p Process) Has(words ...string) bool {
	for i := range p.Args {
		if i+len(words) <= len(p.Args) && slices.Equal(p.Args[i:i+len(words)], words) {
			return true
		}
	}
	return false
}
