package terminal

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/charmbracelet/x/vt"
	"golang.org/x/sys/unix"
)

// The size of a [Screen].
const (
	columns = 120
	rows    = 50
)

// Screen is the screen of a command that a person works with.
type Screen struct {
	terminal *os.File
	cmd      *exec.Cmd
	mu       sync.Mutex
	emulator *vt.Emulator
	// changed is closed when something was written, and replaced.
	changed chan struct{}
	ended   bool
}

// Start starts the command on a terminal with a screen.
func Start(cmd *exec.Cmd) (*Screen, error) {
	ours, theirs, err := open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer theirs.Close()
	size := unix.Winsize{Row: rows, Col: columns}
	if err := unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		return nil, fmt.Errorf("set the size of a terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Screen{terminal: ours, cmd: cmd, emulator: vt.NewEmulator(columns, rows), changed: make(chan struct{})}
	go s.answer()
	go s.draw()
	return s, nil
}

// answer sends what a terminal answers to a program that asks it, e.g. where the cursor is.
func (s *Screen) answer() {
	answer := make([]byte, 256)
	for {
		n, err := s.emulator.Read(answer)
		if err != nil {
			return
		}
		if _, err := s.terminal.Write(answer[:n]); err != nil {
			return
		}
	}
}

// draw draws what the command writes, until it has ended.
func (s *Screen) draw() {
	part := make([]byte, 64<<10)
	for {
		n, err := s.terminal.Read(part)
		s.mu.Lock()
		_, _ = s.emulator.Write(part[:n]) // it cannot fail
		s.ended = err != nil              // EIO: the command has ended
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Text returns the screen: a line for each row, without what is blank at its end.
func (s *Screen) Text() string {
	text, _, _ := s.now()
	return text
}

func (s *Screen) now() (text string, changed <-chan struct{}, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := strings.Split(s.emulator.String(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \r")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n"), s.changed, s.ended
}

// Await returns when the screen matches the expression. If it does not before the end of ctx or of
// the command, the error says what is there instead.
func (s *Screen) Await(ctx context.Context, expression string) error {
	wanted := regexp.MustCompile(expression)
	for {
		text, changed, ended := s.now()
		switch {
		case wanted.MatchString(text):
			return nil
		case ended:
			return fmt.Errorf("the command has ended, and the screen has no %s:\n%s", expression, text)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the screen has no %s: %w\n%s", expression, context.Cause(ctx), text)
		}
	}
}

// Wait returns when the command has ended, or an error at the end of ctx.
func (s *Screen) Wait(ctx context.Context) error {
	for {
		text, changed, ended := s.now()
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the command has not ended: %w\n%s", context.Cause(ctx), text)
		}
	}
}

// Resize gives the screen another size.
func (s *Screen) Resize(rows, columns uint16) error {
	s.mu.Lock()
	s.emulator.Resize(int(columns), int(rows))
	s.mu.Unlock()
	return unix.IoctlSetWinsize(int(s.terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
}

// Type types the text.
func (s *Screen) Type(text string) error {
	_, err := s.terminal.WriteString(text)
	return err
}

// Close ends the command, if it has not ended, and returns how it did.
func (s *Screen) Close() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := s.cmd.Wait()
	// The emulator's own Close takes no lock. This ends what answers the command.
	if answers, ok := s.emulator.InputPipe().(io.Closer); ok {
		_ = answers.Close()
	}
	_ = s.terminal.Close()
	return err
}
