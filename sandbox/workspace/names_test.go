package workspace

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/objects"
)

// TestVisible: what acts on a terminal, or hides, is written out. The rest of the line stays.
func TestVisible(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "", "a\tb ü": "a\tb ü", "ü\x1b[2J": `ü\x1b[2J`, "\u202ex": `\u202ex`, "\xffa": `\xffa`, "\u200b": `\u200b`,
		"\ufffdü": `\ufffdü`, "a\r": `a\r`, "\u0085": `\u0085`,
	} {
		require.Equal(t, want, shown(line))
	}
	// What is there and not seen: fillers that are letters, selectors of variants, blank signs.
	for _, r := range []rune{
		0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180e, 0x180f, 0x200b, 0x2028, 0x2060, 0x2064, 0x2800, 0x3164,
		0xfe00, 0xfe0f, 0xfeff, 0xffa0, 0xfffc, 0x1107f, 0x16fe4, 0x1bca0,
		0x1d159, 0x1d173, 0xe0001, 0xe0020, 0xe0100, 0xe01ef,
	} {
		require.NotContains(t, shown("a"+string(r)+"b"), string(r), "U+%04X", r)
	}
}

// TestSelected: a path selects what is at it or below, and the folders that are made on the way.
func TestSelected(t *testing.T) {
	t.Parallel()
	folder, file := &beneath.Entry{Kind: unix.S_IFDIR}, &beneath.Entry{Kind: unix.S_IFREG}
	for _, c := range []struct {
		paths    []string
		change   Change
		selected bool
	}{
		{nil, Change{Path: "a"}, true},
		{[]string{"."}, Change{Path: "a"}, true},
		{[]string{"./"}, Change{Path: "a"}, true},
		{[]string{"a"}, Change{Path: "a"}, true},
		{[]string{"./a/"}, Change{Path: "a/b"}, true},
		{[]string{"x", "a"}, Change{Path: "a/b"}, true},
		{[]string{"a"}, Change{Path: "ab"}, false},
		{[]string{"a/b"}, Change{Path: "a", Kind: Added, new: folder}, true},
		{[]string{"a/b"}, Change{Path: "a", Kind: Modified, new: folder}, false},
		{[]string{"a/b"}, Change{Path: "a", Kind: Added, new: file}, false},
		{[]string{"a/b"}, Change{Path: "c", Kind: Added, new: folder}, false},
		{[]string{"ab"}, Change{Path: "a", Kind: Added, new: folder}, false},
		{[]string{"a/b"}, Change{Path: "a", Kind: Deleted}, false},
	} {
		require.Equal(t, c.selected, Selected(c.paths)(c.change), "%v %+v", c.paths, c.change)
	}
}

// TestSame: two files are the same only if each byte is, and neither could not be read.
func TestSame(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64<<10)
	broken := errors.New("broken")
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "b", false},
		{"a", "ab", false},
		{long, long, true},
		{long, long + "x", false},
		{long + "x", long, false},
		{long + "x", long + "x", true},
		{long + "x", long + "y", false},
	} {
		got, err := objects.Same(strings.NewReader(c.a), strings.NewReader(c.b))
		require.NoError(t, err)
		require.Equal(t, c.same, got, "%d and %d bytes", len(c.a), len(c.b))
	}
	torn := func() io.Reader { return io.MultiReader(strings.NewReader(long), iotest.ErrReader(broken)) }
	whole := func() io.Reader { return strings.NewReader(long) }
	for _, c := range [][2]io.Reader{{torn(), whole()}, {whole(), torn()}, {torn(), torn()}} {
		got, err := objects.Same(c[0], c[1])
		require.ErrorIs(t, err, broken)
		require.False(t, got)
	}
}
