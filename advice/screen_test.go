package advice

import (
	"os"
	"strings"
	"testing"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// TestSettle: a terminal shows what comes next, whatever state it was left in.
func TestSettle(t *testing.T) {
	for name, left := range map[string]string{
		"nothing":             "before\r\n",
		"in a line":           "before",
		"control string DCS":  "\x1bP",
		"control string OSC":  "\x1b]0;",
		"control string APC":  "\x1b_",
		"control sequence":    "\x1b[",
		"scroll region":       "\x1b[5;6r\x1b[6;1H",
		"other screen":        "\x1b[?1049h\x1b[H",
		"drawing characters":  "\x1b(0",
		"second set":          "\x1b)0\x0e",
		"origin":              "\x1b[5;6r\x1b[?6h",
		"no wrap at the edge": "\x1b[?7l\x1b[1;80H",
		"text below":          "\x1b[9;1HType yes: \x1b[1;5H",
		"inserting":           "below\x1b[4h\x1b[H",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := pty.Open()
			require.NoError(t, err)
			defer ours.Close()
			require.NoError(t, pty.Setsize(ours, &pty.Winsize{Rows: 10, Cols: 80}))
			Settle(theirs)
			_, err = theirs.WriteString("evil? one\r\ntwo: end")
			require.NoError(t, err)
			read := make([]byte, 4096)
			n := 0
			for !strings.Contains(string(read[:n]), "end") {
				more, err := ours.Read(read[n:])
				require.NoError(t, err)
				n += more
			}
			screen := vt.NewEmulator(80, 10)
			_, err = screen.WriteString(left + string(read[:n]))
			require.NoError(t, err)
			lines := strings.Split(strings.TrimRight(screen.String(), " \r\n"), "\n")
			for i := range lines {
				lines[i] = strings.TrimRight(lines[i], " \r")
			}
			require.Equal(t, []string{"evil? one", "two: end"}, lines[len(lines)-2:], "the last lines of %q", lines)
			require.False(t, screen.IsAltScreen())
		})
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	Settle(file)
	Settle(&strings.Builder{})
	info, err := file.Stat()
	require.NoError(t, err)
	require.Zero(t, info.Size(), "only a terminal")
}
