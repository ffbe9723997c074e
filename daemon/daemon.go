// Package daemon starts, finds and stops a process that outlives the command that started it. A pid
// file has one holder at a time.
//
// The truth is the lock on the pid file's folder (flock), not the file or the number in it. The
// kernel drops the lock when its holder dies, however it dies, and knows the holder. So a number
// that now belongs to another process is never mistaken for the daemon. A daemon whose pid file was
// removed is still found. Linux only.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is the interval for looking at what the kernel does not announce.
const pollEvery = 5 * time.Millisecond

// settle is the time for which a lock may be held without a number next to it: its holder is just
// writing the number, or it is a prober (see [Running]).
const settle = 500 * time.Millisecond

// HeldError says that another process holds the pid file's folder.
type HeldError struct {
	PIDFile string
	// PID is the holder's process ID, or 0 if the holder has not written it.
	PID int
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is held by another process", e.PIDFile)
	}
	return fmt.Sprintf("%s is held by process %d, which is still running", e.PIDFile, e.PID)
}

// Lock takes the pid file's folder for the calling process until release is called or the process
// ends, and writes the process's ID to the file. It creates the file, not its folder. The error is
// a [*HeldError] if another process has the folder. Call release once.
func Lock(pidfile string) (release func(), err error) {
	deadline := time.Now().Add(settle)
	for {
		dir, err := openFolder(pidfile)
		if err != nil {
			return nil, fmt.Errorf("lock pid file: %w", err)
		}
		err = flock(dir, unix.LOCK_EX)
		if err == nil && !same(dir, filepath.Dir(pidfile)) { // replaced between open and flock: the lock guards nothing
			dir.Close()
			continue
		}
		if err == nil {
			if err := write(pidfile); err != nil {
				dir.Close()
				return nil, fmt.Errorf("lock pid file: %w", err)
			}
			return func() {
				os.Truncate(pidfile, 0) //nolint:errcheck // the number means nothing without the lock
				dir.Close()
			}, nil
		}
		pid := holder(dir, pidfile)
		dir.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", filepath.Dir(pidfile), err)
		}
		if time.Now().After(deadline) { // a prober is gone long before
			return nil, &HeldError{PIDFile: pidfile, PID: pid}
		}
		time.Sleep(pollEvery)
	}
}

// Running reports whether a process holds the pid file's folder, and which. Nobody holds a folder
// that does not exist.
func Running(pidfile string) (pid int, ok bool, err error) {
	deadline := time.Now().Add(settle)
	for {
		dir, err := openFolder(pidfile)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, fmt.Errorf("probe pid file: %w", err)
		}
		// A shared lock does not disturb other probers, and Lock waits it out.
		err = flock(dir, unix.LOCK_SH)
		if err == nil {
			dir.Close()
			return 0, false, nil
		}
		pid := holder(dir, pidfile)
		dir.Close()
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK):
			return 0, false, fmt.Errorf("probe %s: %w", filepath.Dir(pidfile), err)
		case pid != 0 && pid != os.Getpid():
			return pid, true, nil
		case time.Now().After(deadline):
			if pid != 0 {
				return pid, true, nil
			}
			return 0, true, fmt.Errorf("%s is locked, but nothing says by which process; is it in another container?", filepath.Dir(pidfile))
		}
		time.Sleep(pollEvery)
	}
}

// holder returns the process that holds the open folder, as the kernel reports it. If the kernel
// does not name the process here, holder returns the one in the pid file. It returns 0 if neither
// tells.
func holder(dir *os.File, pidfile string) int {
	if pid := Holder(dir); pid != 0 {
		return pid
	}
	f, err := os.OpenFile(pidfile, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	pid, _ := read(f)
	return pid
}

func openFolder(pidfile string) (*os.File, error) {
	return os.OpenFile(filepath.Dir(pidfile), os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Command is a daemon to start.
type Command struct {
	Path string
	Args []string
	// Dir is the working folder; "" means the caller's.
	Dir string
	// PIDFile is the pid file that the process takes with [Lock] when it begins.
	PIDFile string
	// LogFile gets the process's output, after its existing content. Its folder is created if
	// necessary, private to the user.
	LogFile string
	// Env is the whole environment; nil means the caller's.
	Env []string
	// User is the user as whom the process runs; nil means the caller.
	User *syscall.Credential
}

// Start starts c in a new session and returns its process ID as soon as it holds its pid file's
// folder. If the process exits before, the error has the last lines that it logged. If ctx ends
// before, the process is killed. After that it runs until it is stopped, even if ctx is cancelled.
func Start(ctx context.Context, c Command) (pid int, err error) {
	name := filepath.Base(c.Path)
	if pid, ok, err := Running(c.PIDFile); err != nil {
		return 0, err
	} else if ok {
		return 0, fmt.Errorf("start %s: %w", name, &HeldError{PIDFile: c.PIDFile, PID: pid})
	}
	if err := os.MkdirAll(filepath.Dir(c.LogFile), 0o700); err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	// Its folder may be writable for the process's user: nothing but a file is written to.
	log, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(c.Path, c.Args...) //nolint:noctx // the process must survive the end of ctx
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.User}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-exited:
			return 0, fmt.Errorf("start %s: it ended at once (%s)%s", name, state(err), lastLines(c.LogFile, before))
		case <-ctx.Done():
			cmd.Process.Kill() //nolint:errcheck // it is gone already
			<-exited           //nolint:errcheck // it was killed here
			return 0, fmt.Errorf("start %s: %w%s", name, context.Cause(ctx), lastLines(c.LogFile, before))
		case <-tick.C:
			held, ok, err := Running(c.PIDFile)
			if err == nil && ok && held == cmd.Process.Pid {
				return held, nil
			}
		}
	}
}

// Stop ends the process that holds the pid file's folder. It sends SIGTERM, and SIGKILL when ctx
// ends. It returns when the process is gone. If nobody holds the folder, it succeeds.
func Stop(ctx context.Context, pidfile string) error {
	pid, ok, err := Running(pidfile)
	if err != nil || !ok {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	if err == nil {
		defer unix.Close(fd)
	}
	// The number may have passed to another process before the descriptor was
	// open. If the lock is still held by it now, the descriptor is the daemon.
	if now, ok, rerr := Running(pidfile); rerr != nil || !ok || now != pid {
		return rerr
	}
	if err != nil {
		return fmt.Errorf("stop process %d: %s is locked by it, but there is no such process here; is it in another container?", pid, pidfile)
	}
	if err := checkUser(pid, pidfile); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	if os.Geteuid() == 0 && !hasOpen(pid, filepath.Dir(pidfile)) {
		return fmt.Errorf("stop process %d: the lock on %s was handed on by a process of that number, which has ended: find its holder with `fuser -v %s`, and end it",
			pid, filepath.Dir(pidfile), filepath.Dir(pidfile))
	}
	return end(ctx, fd, pid, unix.SIGTERM)
}

// end ends the process behind the descriptor: by sig, and when ctx ends by SIGKILL.
func end(ctx context.Context, fd, pid int, sig syscall.Signal) error {
	if err := signal(fd, sig); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	if err := wait(ctx, fd); err == nil {
		return nil
	}
	if err := signal(fd, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	// Only a process stuck in the kernel takes longer.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := wait(last, fd); err != nil {
		return fmt.Errorf("kill process %d: it does not go away: %w", pid, err)
	}
	return nil
}

// checkUser returns an error if the process belongs to another user than the pid file.
// Without a pid file, checkUser refuses a process of root's in a folder of another group.
// A daemon that was taken over can write any number, for root to end that process.
func checkUser(pid int, pidfile string) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	uid := ""
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			uid = strings.Fields(ids)[0]
		}
	}
	info, err := os.Lstat(pidfile)
	if errors.Is(err, fs.ErrNotExist) {
		if info, err = os.Lstat(filepath.Dir(pidfile)); err != nil {
			return err
		}
		if info.Sys().(*syscall.Stat_t).Gid != 0 && uid == "0" {
			return fmt.Errorf("it is root's, but %s is for the daemons of another user: look with `ps %d`", filepath.Dir(pidfile), pid)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if owner := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid)); uid != owner {
		return fmt.Errorf("it is of user %s, but %s is user %s's, who may have written another process's number there: look with `ps %d`, and remove the file",
			uid, pidfile, owner, pid)
	}
	return nil
}

// hasOpen reports whether the process has the folder open. A process that takes a lock may fork and
// end. The kernel still names its number then, which may belong to another process, and another
// user. If the process's files may not be read, hasOpen returns true.
func hasOpen(pid int, folder string) bool {
	want, err := os.Stat(folder)
	if err != nil {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	descriptors, err := os.ReadDir(dir)
	if err != nil {
		return errors.Is(err, fs.ErrPermission)
	}
	return slices.ContainsFunc(descriptors, func(d os.DirEntry) bool {
		info, err := os.Stat(filepath.Join(dir, d.Name()))
		return err == nil && os.SameFile(info, want)
	})
}

// Tail returns the last n lines of the file at path, or "" if it cannot be read.
func Tail(path string, n int) string { return tail(path, 0, n) }

func signal(fd int, sig syscall.Signal) error {
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// wait returns nil when the process behind the descriptor has ended.
func wait(ctx context.Context, fd int) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make an event: %w", err)
	}
	done := make(chan struct{})
	fired := make(chan struct{})
	go func() {
		defer close(fired)
		select {
		case <-ctx.Done():
			unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) //nolint:errcheck // an event can always be raised once
		case <-done:
		}
	}()
	defer func() { close(done); <-fired; unix.Close(wake) }()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("wait for the end of a process: %w", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if fds[1].Revents != 0 {
			return ctx.Err()
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

func write(pidfile string) error {
	// The folder may be writable for others: nothing but a file is written to.
	f, err := os.OpenFile(pidfile, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return errors.Join(err, f.Close())
}

// read returns the number in the pid file, if it is there whole.
func read(f *os.File) (pid int, ok bool) {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	line, whole := bytes.CutSuffix(b[:n], []byte("\n"))
	pid, err := strconv.Atoi(string(line))
	return pid, whole && err == nil && pid > 0
}

func state(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func lastLines(path string, from int64) string {
	if s := tail(path, from, 10); s != "" {
		return "; it logged last:\n" + s
	}
	return "; it logged nothing to " + path
}

// tail returns the last n lines of the file at path, from the offset on.
func tail(path string, from int64, n int) string {
	// The folder may be writable for the daemon's user: nothing but a file is read.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	from = max(from, st.Size()-16<<10)
	b, err := io.ReadAll(io.NewSectionReader(f, from, 16<<10))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
