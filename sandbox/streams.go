package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/sandbox/wire"
)

// streams are the command's standard streams. None is the caller's own. Through /proc/self/fd, a
// process with a descriptor of a file, a device, a pipe or a terminal can open it again: to write
// to a file that was opened for reading, to read what others write, or to push input. So a terminal
// becomes the command's own terminal, everything else becomes a pipe, and the bytes are copied.
// Only /dev/null stays.
type streams struct {
	// inner are stdin, stdout and stderr of the command.
	inner [3]*os.File
	// terminal is the number of the first that is a terminal, or -1.
	terminal int

	ours    []*os.File // open until the end
	theirs  []*os.File // open until the command has them
	copies  []*copier
	running sync.WaitGroup
	stop    int

	master *os.File
	size   *os.File // the caller's terminal whose size counts
	keys   *os.File // the caller's terminal that is typed at, if any
	show   *os.File // the caller's terminal on which the command's is shown
	plain  bool     // the caller's terminal continues to make its own line ends
	saved  *term.State

	mu     sync.Mutex
	failed error
}

// connectStreams prepares the streams of s.
func connectStreams(s *Spec) (*streams, error) {
	st := &streams{terminal: -1}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("connect streams: %w", err)
	}
	st.stop = stop
	if err := st.connect([3]*os.File{s.Stdin, s.Stdout, s.Stderr}); err != nil {
		st.close()
		return nil, fmt.Errorf("connect streams: %w", err)
	}
	return st, nil
}

func (st *streams) connect(outer [3]*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st.theirs = append(st.theirs, null)
	for i, f := range outer {
		switch {
		case f == nil, sameFile(f, null), i == 0 && isTerminal(f) && !inForeground(f):
			st.inner[i] = null
		case isTerminal(f):
			if err := st.addTerminal(i, f); err != nil {
				return err
			}
		case i == 2 && outer[1] != nil && sameFile(f, outer[1]):
			st.inner[2] = st.inner[1] // in the order in which it was written
		default:
			if err := st.addPipe(i, f); err != nil {
				return err
			}
		}
	}
	if st.master == nil {
		return nil
	}
	// It is shown where the command would have written it.
	st.show = st.size
	for _, i := range []int{1, 2} {
		if outer[i] != nil && isTerminal(outer[i]) {
			st.show = outer[i]
			break
		}
	}
	st.copies = append(st.copies, &copier{from: st.master, to: st.show, stop: st.stop, patience: hangUp})
	st.plain = st.keys == nil || outer[1] == nil || !isTerminal(outer[1])
	if st.plain {
		return keepLineEnds(st.inner[st.terminal])
	}
	return nil
}

// addPipe makes the stream a pipe, of which this process has the other end.
func (st *streams) addPipe(i int, outer *os.File) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	names := [3]string{"standard input", "standard output", "standard error"}
	read, write := os.NewFile(uintptr(fds[0]), names[i]), os.NewFile(uintptr(fds[1]), names[i])
	inner, ours := read, write
	c := &copier{from: outer, to: write, stop: st.stop, input: true}
	if i > 0 {
		inner, ours = write, read
		c = &copier{from: read, to: outer, stop: st.stop}
	}
	st.inner[i] = inner
	st.theirs, st.ours, st.copies = append(st.theirs, inner), append(st.ours, ours), append(st.copies, c)
	// This only makes it faster. If the user's bound for all pipes is reached, the pipe stays
	// small.
	_, _ = unix.FcntlInt(ours.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	return unix.SetNonblock(int(ours.Fd()), true)
}

// addTerminal makes the stream a terminal, the same for all.
func (st *streams) addTerminal(i int, outer *os.File) error {
	if st.master == nil {
		master, slave, err := pty.Open()
		if err != nil {
			return err
		}
		st.master, st.size, st.terminal = master, outer, i
		st.inner[i] = slave
		st.ours, st.theirs = append(st.ours, master), append(st.theirs, slave)
		if err := pty.InheritSize(outer, master); err != nil {
			return err
		}
	}
	st.inner[i] = st.inner[st.terminal]
	if i == 0 {
		st.keys = outer
		st.copies = append(st.copies, &copier{from: outer, to: st.master, stop: st.stop, input: true, end: []byte{4}}) // end of transmission
	}
	return nil
}

// give makes the user the owner of the command's streams, because programs open them again as
// /dev/stdout.
func (st *streams) give(uid, gid int) error {
	for _, f := range st.theirs[1:] { // the first is /dev/null
		if err := f.Chown(uid, gid); err != nil {
			return fmt.Errorf("give streams to user %d: %w", uid, err)
		}
	}
	return nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// inForeground reports whether this process may read from the terminal. A job
// in the background that tries is stopped.
func inForeground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

func sameFile(a, b *os.File) bool {
	var x, y unix.Stat_t
	if unix.Fstat(int(a.Fd()), &x) != nil || unix.Fstat(int(b.Fd()), &y) != nil {
		return false
	}
	if x.Mode&unix.S_IFMT == unix.S_IFCHR && y.Mode&unix.S_IFMT == unix.S_IFCHR {
		return x.Rdev == y.Rdev
	}
	return x.Dev == y.Dev && x.Ino == y.Ino
}

// keepLineEnds lets the command's terminal pass on text unchanged: the caller's terminal makes line
// ends of it.
func keepLineEnds(slave *os.File) error {
	t, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	return unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, t)
}

// same returns, for each stream, the number of the first that is the same, or -1 for /dev/null.
func (st *streams) same() (numbers [3]int) {
	for i, f := range st.inner {
		if numbers[i] = slices.Index(st.inner[:], f); f.Name() == os.DevNull {
			numbers[i] = -1
		}
	}
	return numbers
}

// apart tells of the command's terminal, if it has one, and has it pass on everything as it is: the
// sandbox, whose kernel is another one, makes its own.
func (st *streams) apart(setup *wire.Setup) error {
	if st.master == nil {
		return nil
	}
	if _, err := term.MakeRaw(int(st.master.Fd())); err != nil {
		return fmt.Errorf("prepare terminal: %w", err)
	}
	setup.Raw = st.plain
	setup.Rows, setup.Columns = st.resize()
	return nil
}

// resize gives the command's terminal the size of the caller's, and returns it.
func (st *streams) resize() (rows, columns uint16) {
	if st.master == nil {
		return 0, 0
	}
	size, err := pty.GetsizeFull(st.size)
	if err == nil {
		err = pty.Setsize(st.master, size)
	}
	if err != nil {
		return 0, 0 // the caller's terminal is gone
	}
	return size.Rows, size.Cols
}

// started copies from now on, after the command's ends were passed on.
func (st *streams) started() {
	for _, f := range st.theirs {
		f.Close()
	}
	st.theirs = nil
	if st.keys != nil {
		// Without raw mode the command is still usable, only less pretty.
		if saved, err := term.MakeRaw(int(st.keys.Fd())); err == nil {
			st.saved = saved
		}
		if t, err := unix.IoctlGetTermios(int(st.keys.Fd()), unix.TCGETS); err == nil && st.plain {
			t.Oflag |= unix.OPOST
			_ = unix.IoctlSetTermios(int(st.keys.Fd()), unix.TCSETS, t)
		}
	}
	for _, c := range st.copies {
		st.running.Go(func() {
			err := c.run()
			// The process at the other end learns that no more comes, or that nobody reads.
			for _, end := range []*os.File{c.from, c.to} {
				if end != st.master && slices.Contains(st.ours, end) { // only c uses it
					end.Close()
				}
			}
			st.mu.Lock()
			st.failed = errors.Join(st.failed, err)
			st.mu.Unlock()
		})
	}
}

// finish passes on what the command, which has ended, has written. It returns why something of
// that, or of what the command should have read, was lost.
func (st *streams) finish() error {
	one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	if _, err := unix.Write(st.stop, one); err != nil {
		return fmt.Errorf("end streams: %w", err)
	}
	st.running.Wait()
	return st.failed
}

// close restores the caller's terminal, on which what follows is to be seen.
func (st *streams) close() {
	if st.saved != nil {
		_ = term.Restore(int(st.keys.Fd()), st.saved)
	}
	if st.show != nil {
		advice.Settle(st.show)
	}
	for _, f := range append(st.ours, st.theirs...) {
		f.Close()
	}
	unix.Close(st.stop)
}
