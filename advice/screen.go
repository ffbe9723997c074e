package advice

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// settled ends everything that an agent may have begun on a terminal so that later text is
// swallowed, unreadable or drawn over, as far as a terminal can be told. A terminal ignores what it
// does not know. The cursor stays where it is.
const settled = "\x18\x1b\\" + // control strings (DCS, OSC, APC)
	"\x1b[4i\x1b[?4i\x1b<\x1b[0$}" + // to a printer, as a VT52, in the status line
	"\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]R\x1b\\" + // colors that are others
	"\x1b[!p\x1b[?1047l" + // soft reset, the other screen
	"\x1b7\x1b[?1049l\x1b[?69l\x1b[r\x1b8" + // it and margins, by what moves the cursor
	"\x1b[0m\x1b(B\x1b)B\x0f\x1b#5" + // concealed, other characters, double height
	"\x1b[4l\x1b[?5;1000;1002;1003;1004;1006;2004;2026l" + // inserting, mouse
	"\x1b[?7;25h"

// Settle makes a terminal show what is written to w next, whatever an agent wrote there: on a line
// of its own, with nothing below. If w is not a terminal, Settle does nothing. Call it before
// the first line after an agent's output, and before a question and what the question is about.
func Settle(w io.Writer) {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return
	}
	width := 0
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		width = int(size.Col)
	}
	// So many blanks end at the end of a line that has nothing, and in the next line otherwise.
	// If the terminal is gone, nobody reads.
	_, _ = io.WriteString(f, settled+strings.Repeat(" ", width)+"\r\x1b[J")
}
