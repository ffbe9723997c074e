package sandbox

import (
	"context"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/terminal"
)

// TestShell: a person works with a shell, and it is the same under every runtime: the size, keys
// that end and stop programs, jobs, and the exit status.
func TestShell(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := b.command(t, "env", "PS1=ready> ", "bash", "--norc", "--noprofile", "-i")
		screen, err := terminal.Start(cmd)
		require.NoError(t, err)
		closing := sync.OnceValue(screen.Close)
		defer func() {
			_ = cmd.Process.Kill() // the shell takes no notice of less
			_ = closing()
		}()
		for _, step := range []struct {
			typed string
			rows  uint16
			shows string
			again bool // the shell ignores the key until the job has the terminal
		}{
			{shows: `ready>$`},
			{typed: "echo size $(stty size); test -t 0 && test -t 2 && echo a''terminal\r", shows: `size 50 120\s+aterminal`},
			{
				typed: `sh -c 'trap "echo now \$(stty size); exit" WINCH; echo wai""ting; ` +
					"while :; do sleep 0.05; done'\r",
				shows: `waiting`,
			},
			{rows: 40, shows: `now 40 100\s+ready>$`},
			{typed: "sh -c 'echo star\"\"ted; exec sleep 1000'\r", shows: `started`},
			{typed: "\x03", shows: `\^C\s+ready>$`},
			{typed: "echo status $?\r", shows: `status 130\s+ready>$`},
			{typed: "sh -c 'echo beg\"\"un; exec sleep 1001'\r", shows: `begun`},
			{typed: "\x1a", shows: `\[1\]\+\s+Stopped`},
			{typed: "echo after''wards\r", shows: `afterwards\s+ready>$`},
			{typed: "fg\r", shows: `ready> fg\s+sh -c`},
			{typed: "\x1c", shows: `Quit.*\s+ready>$`, again: true},
			{typed: "sh -c 'read x; echo got \"<$x>\"'\r", shows: `ready> sh .*read.*$`},
			{typed: "a line\r", shows: `got <a line>\s+ready>$`},
			{typed: "exit 9\r"},
		} {
			if step.rows != 0 {
				require.NoError(t, screen.Resize(step.rows, 100))
			}
			for patience := 500 * time.Millisecond; step.again; {
				require.NoError(t, screen.Type(step.typed))
				moment, done := context.WithTimeout(ctx, patience)
				step.again = screen.Await(moment, step.shows) != nil && ctx.Err() == nil
				done()
				step.typed = map[bool]string{true: step.typed}[step.again]
			}
			require.NoError(t, screen.Type(step.typed))
			if step.shows != "" {
				require.NoError(t, screen.Await(ctx, step.shows), "%q", step.typed)
			}
		}
		require.NoError(t, screen.Wait(ctx))
		err = closing()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 9, exit.ExitCode(), screen.Text())
	})
}
