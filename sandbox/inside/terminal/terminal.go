// Package terminal makes the terminals that a sandbox with a kernel of its own has.
package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// Terminal is the command's, made by gVisor, which takes none of the host's for one. This process
// copies between the two, and does what gVisor does not: it signals the programs in the foreground,
// for a key such as Ctrl-C, and when the size changes. Only the leader of the terminal's session
// learns which these are. So this process is the leader, and the command is not.
type Terminal struct {
	host          *os.File
	master, slave *os.File
	written       sync.WaitGroup
}

// Open makes a terminal like the host's.
func Open(setup *wire.Setup) (master, slave *os.File, err error) {
	if master, slave, err = pty.Open(); err != nil {
		return nil, nil, err
	}
	err = pty.Setsize(slave, &pty.Winsize{Rows: setup.Rows, Cols: setup.Columns})
	if t, terr := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); terr == nil && setup.Raw {
		t.Oflag &^= unix.OPOST
		err = errors.Join(err, unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, t))
	}
	return master, slave, err
}

// New returns the command's terminal, or nil if the command has none or that of the host.
func New(setup *wire.Setup) (*Terminal, error) {
	if !setup.Foreign || setup.Terminal < 0 {
		return nil, nil
	}
	host, err := unix.FcntlInt(wire.StdinFD+uintptr(setup.Terminal), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("take over terminal: %w", err)
	}
	t := &Terminal{host: os.NewFile(uintptr(host), "terminal")}
	master, slave, err := Open(setup)
	if err != nil {
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	// That one blocks, and gVisor tells nobody that the last program has closed the terminal.
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetNonblock(fd, true), unix.IoctlSetInt(int(slave.Fd()), unix.TIOCSCTTY, 0))
	}
	if err != nil {
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	t.master, t.slave = os.NewFile(uintptr(fd), "terminal"), slave
	go t.read()
	t.written.Go(func() {
		if _, err := io.Copy(t.host, t.master); errors.Is(err, os.ErrDeadlineExceeded) {
			Drain(t.host, t.master)
		}
	})
	return t, nil
}

// Replace puts the terminal in place of the host's.
func (t *Terminal) Replace(setup *wire.Setup, streams *[3]uintptr) {
	for i, same := range setup.Streams {
		if same == setup.Terminal {
			streams[i] = t.slave.Fd()
		}
	}
}

// read passes on what is typed.
func (t *Terminal) read() {
	buffer := make([]byte, 4<<10)
	for {
		n, err := t.host.Read(buffer)
		for typed := buffer[:n]; len(typed) > 0; {
			typed = t.typed(typed)
		}
		if err != nil {
			return
		}
	}
}

// keys are those that signal, by their place among a terminal's settings.
var keys = map[int]syscall.Signal{unix.VINTR: unix.SIGINT, unix.VQUIT: unix.SIGQUIT, unix.VSUSP: unix.SIGTSTP}

// typed passes on what is typed, up to the first key that signals, and returns the rest.
func (t *Terminal) typed(text []byte) []byte {
	settings, err := unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS)
	for i, key := range text {
		for place, s := range keys {
			if err != nil || settings.Lflag&unix.ISIG == 0 || key == 0 || settings.Cc[place] != key {
				continue
			}
			if i > 0 { // gVisor waits to write nothing
				_, _ = t.master.Write(text[:i])
			}
			if settings.Lflag&unix.ECHO != 0 {
				_, _ = t.host.Write([]byte{'^', key ^ 0x40})
			}
			t.signal(s)
			return text[i+1:]
		}
	}
	_, _ = t.master.Write(text)
	return nil
}

// Finish passes on what the command, which has ended, has written.
func (t *Terminal) Finish() {
	if t != nil {
		_ = t.master.SetReadDeadline(time.Now())
		t.written.Wait()
	}
}

// Resize gives the terminal a new size.
func (t *Terminal) Resize(s wire.Signal) {
	_ = pty.Setsize(t.slave, &pty.Winsize{Rows: s.Rows, Cols: s.Columns})
	t.signal(syscall.Signal(s.Number))
}

// signal signals the programs in the foreground.
func (t *Terminal) signal(s syscall.Signal) {
	if group, err := unix.IoctlGetInt(int(t.slave.Fd()), unix.TIOCGPGRP); err == nil && group > 1 {
		_ = unix.Kill(-group, s) // they may have ended
	}
}

// MostWritten is what a pipe or a terminal may hold: the most that an ordinary user may have a pipe
// hold.
const MostWritten = 1 << 20

// Drain passes on what was written already. Somebody may still write.
func Drain(to io.Writer, from *os.File) {
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 64<<10)
	for n, all := 1, 0; n > 0 && all < MostWritten; all += n {
		_ = from.SetReadDeadline(time.Time{})
		if raw.Read(func(fd uintptr) bool { n, err = unix.Read(int(fd), buffer); return true }) != nil || err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
