package credential_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/credential"
	"github.com/postern/postern/tests/terminal"
)

const askVariable = "POSTERN_TEST_ASK"

// TestMain is also a command that asks, and says how the terminal is afterwards.
func TestMain(m *testing.M) {
	if os.Getenv(askVariable) == "" {
		os.Exit(m.Run())
	}
	fmt.Print(os.Getenv(askVariable)) // of an agent
	mode := func() unix.Termios {
		t, err := unix.IoctlGetTermios(0, unix.TCGETS)
		if err != nil {
			panic(err)
		}
		return *t
	}
	before := mode()
	value, err := credential.Ask(context.Background(), os.Stdin, os.Stdout, "New value of key")
	fmt.Printf("%d bytes, %v, as before: %v\n", len(value), err, mode() == before)
}

// TestAsk: what is typed is not shown, the question is, and the terminal is as before, whatever ends
// it.
func TestAsk(t *testing.T) {
	t.Parallel()
	interrupt := func(sig syscall.Signal) func(*terminal.Screen, *exec.Cmd) error {
		return func(_ *terminal.Screen, cmd *exec.Cmd) error { return cmd.Process.Signal(sig) }
	}
	types := func(text string) func(*terminal.Screen, *exec.Cmd) error {
		return func(s *terminal.Screen, _ *exec.Cmd) error { return s.Type(text) }
	}
	const ended = "0 bytes, nothing was changed: context canceled, as before: true"
	for name, c := range map[string]struct {
		agent string
		does  func(*terminal.Screen, *exec.Cmd) error
		says  string
	}{
		"a value":         {" ", types("geheim!\n"), "7 bytes, <nil>, as before: true"},
		"nothing":         {" ", types("\x04"), "0 bytes, <nil>, as before: true"},
		"Ctrl-C":          {" ", types("geheim!\x03"), ended},
		"Ctrl-Backslash":  {" ", types("geheim!\x1c"), ended},
		"SIGTERM":         {" ", interrupt(syscall.SIGTERM), ended},
		"SIGHUP":          {" ", interrupt(syscall.SIGHUP), ended},
		"two lines":       {" ", types("geheim!\ngeheim!\n"), "0 bytes, the value has more than one line"},
		"too long":        {" ", types(strings.Repeat("x", 5000) + "\n"), "0 bytes, the line has 4095 bytes or more"},
		"a hidden screen": {"\x1b[8m\x1b[?1049h\x1b]0;", types("geheim!\n"), "7 bytes, <nil>, as before: true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), askVariable+"="+c.agent, "TERM=xterm")
			screen, err := terminal.Start(cmd)
			require.NoError(t, err)
			defer func() { _ = screen.Close() }() // it has ended
			require.NoError(t, screen.Await(ctx, `New value of key \(it is not shown; Ctrl-C: nothing changes\):`))
			require.NoError(t, c.does(screen, cmd))
			require.NoError(t, screen.Await(ctx, `as before: \w+`))
			require.Contains(t, screen.Text(), c.says)
			require.NotContains(t, screen.Text(), "geheim")
			require.NotContains(t, screen.Text(), "xxxx")
		})
	}
}
