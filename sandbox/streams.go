package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// streams are the command's standard streams: the caller's own, or a terminal
// of its own that is connected to the caller's.
type streams struct {
	stdin, stdout, stderr *os.File

	// The rest is for a terminal only.
	outer   *os.File // the caller's, to read from
	out     *os.File // the caller's, to write to
	master  *os.File
	slave   *os.File
	saved   *term.State
	resized chan os.Signal
	copied  chan struct{}
	null    *os.File
}

// connectStreams prepares the streams of s. The caller's terminal is never
// handed in where it can be avoided: a program could push input into it, or
// read what is typed after it.
func connectStreams(s *Spec) (*streams, error) {
	st := &streams{stdin: s.Stdin, stdout: s.Stdout, stderr: s.Stderr}
	if st.stdin == nil || st.stdout == nil || st.stderr == nil {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		st.null = null
		for _, f := range []**os.File{&st.stdin, &st.stdout, &st.stderr} {
			if *f == nil {
				*f = null
			}
		}
	}
	if !isTerminal(st.stdin) || !isTerminal(st.stdout) {
		return st, nil
	}
	master, slave, err := pty.Open()
	if err != nil {
		st.close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	st.outer, st.out, st.master, st.slave = st.stdin, st.stdout, master, slave
	st.stdin, st.stdout = slave, slave
	if isTerminal(st.stderr) {
		st.stderr = slave
	}
	if err := pty.InheritSize(st.outer, st.master); err != nil {
		st.close()
		return nil, fmt.Errorf("size the terminal: %w", err)
	}
	return st, nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func (st *streams) terminal() *int {
	if st.master == nil {
		return nil
	}
	return new(int)
}

// started connects the terminals, after the slave was passed on.
func (st *streams) started() {
	if st.terminal() == nil {
		return
	}
	st.slave.Close()
	st.slave = nil
	// Without raw mode the command is still usable, only less pretty.
	if saved, err := term.MakeRaw(int(st.outer.Fd())); err == nil {
		st.saved = saved
	}
	st.resized = make(chan os.Signal, 1)
	signal.Notify(st.resized, unix.SIGWINCH)
	go func() {
		for range st.resized {
			_ = pty.InheritSize(st.outer, st.master)
		}
	}()
	// Ends with the first read after the command, or with this process.
	go func() { _, _ = io.Copy(st.master, st.outer) }()
	st.copied = make(chan struct{})
	go func() {
		defer close(st.copied)
		// Ends with EIO when the last user is gone.
		if _, err := io.Copy(st.out, st.master); err != nil {
			// The caller's terminal is gone: the command must not hang on writing.
			_, _ = io.Copy(io.Discard, st.master)
		}
	}()
}

// finish waits until everything that was written has been shown.
func (st *streams) finish() {
	if st.copied != nil {
		<-st.copied
	}
}

// close restores the caller's terminal.
func (st *streams) close() {
	if st.resized != nil {
		signal.Stop(st.resized)
		close(st.resized)
	}
	if st.saved != nil {
		_ = term.Restore(int(st.outer.Fd()), st.saved)
	}
	for _, f := range []*os.File{st.master, st.slave, st.null} {
		if f != nil {
			f.Close()
		}
	}
}
