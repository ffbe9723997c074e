package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/visible"
)

// longestLine is what a terminal passes of a line; the rest is lost without a word.
const longestLine = 4095

// Ask asks for a secret on the terminal that in and on are. It shows the question whatever an agent
// left the terminal in, and not what is typed. What was typed before is discarded. The terminal is
// then as it was, also if ctx ends or somebody interrupts. The value is in no error.
func Ask(ctx context.Context, in, on *os.File, question string) ([]byte, error) {
	before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	}
	hidden := *before
	hidden.Lflag = hidden.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	hidden.Iflag |= unix.ICRNL
	set := func(t *unix.Termios) error { return unix.IoctlSetTermios(int(in.Fd()), unix.TCSETSF, t) } // discards
	// A process that these end leaves the terminal as it is. Before SIGCONT a shell may change it.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGCONT)
	defer signal.Stop(signals)
	if err := set(&hidden); err != nil {
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	}
	defer func() {
		_ = set(before) // if the terminal is gone, it needs no mode
		fmt.Fprintln(on)
	}()
	advice.Settle(on)
	show := func() { fmt.Fprintf(on, "%s (it is not shown; Ctrl-C: nothing changes): ", visible.Text(question)) }
	show()
	read := make(chan error, 1)
	line := make([]byte, longestLine+1)
	length := 0
	go func() {
		var err error
		length, err = in.Read(line) // a whole line
		read <- err
	}()
	for {
		select {
		case err := <-read:
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("ask on the terminal: %w", err)
			}
			return whole(in, line[:length])
		case sig := <-signals:
			if sig != syscall.SIGCONT {
				return nil, fmt.Errorf("nothing was changed: %w", context.Canceled)
			}
			if err := set(&hidden); err != nil {
				return nil, fmt.Errorf("ask on the terminal: %w", err)
			}
			show()
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing was changed: %w", ctx.Err())
		}
	}
}

// whole returns the line without its end, if nothing follows it.
func whole(in *os.File, line []byte) ([]byte, error) {
	more, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCINQ)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	case more > 0:
		return nil, errors.New("the value has more than one line, so nothing was changed: " +
			"give it by standard input, < FILE")
	case len(line) >= longestLine:
		return nil, fmt.Errorf("the line has %d bytes or more, and a terminal loses what is longer, so nothing was "+
			"changed: give the value by standard input, < FILE", longestLine)
	case len(line) > 0 && line[len(line)-1] == '\n':
		line = line[:len(line)-1]
	}
	return line, nil
}
