package workspace

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/visible"
)

// maxDiff is the size of the largest file whose lines are compared, in bytes.
const maxDiff = 1 << 20

// Diff writes the changes that selected selects as `git diff` writes them. Lines that begin with
// "!" are ours. Nothing in the output acts on a terminal, whatever the agent wrote.
func (r *Run) Diff(ctx context.Context, out io.Writer, selected func(Change) bool) error {
	upper, host, err := r.both()
	if err != nil {
		return err
	}
	defer host.Close()
	defer upper.Close()
	w := bufio.NewWriter(out)
	err = r.Checked(ctx, selected, func(c Change) error {
		// As git, a folder shows by what is in it.
		if isFolder := c.Kind != Modified && (c.new.Is(unix.S_IFDIR) || c.old.Is(unix.S_IFDIR) &&
			c.new == nil); isFolder && c.Refused == "" {
			return nil
		}
		return c.print(w, tree{host}, tree{upper})
	})
	if flushed := w.Flush(); err == nil {
		err = flushed
	}
	return err
}

func (c *Change) print(w io.Writer, host, upper tree) error {
	a, b := visible.Quote("a/"+c.Path), visible.Quote("b/"+c.Path)
	fmt.Fprintf(w, "diff --git %s %s\n", a, b)
	switch {
	case c.Kind == Added:
		fmt.Fprintf(w, "new file mode %s\n", c.Mode)
		a = "/dev/null"
	case c.Kind == Deleted:
		fmt.Fprintf(w, "deleted file mode %s\n", c.Mode)
		b = "/dev/null"
	case c.Was != "":
		fmt.Fprintf(w, "old mode %s\nnew mode %s\n", c.Was, c.Mode)
	}
	for _, note := range c.Notes {
		fmt.Fprintf(w, "! %s\n", note)
	}
	if c.Refused != "" {
		fmt.Fprintf(w, "! not applied: %s\n", c.Refused)
	}
	before, err := textOf(c.old, host, c.Path)
	if err != nil {
		return err
	}
	after, err := textOf(c.new, upper, c.Path)
	if err != nil {
		return err
	}
	if before.binary || after.binary {
		_, err := fmt.Fprintf(w, "Binary files %s and %s differ\n", a, b)
		return err
	}
	lines := diff.Diff(a, before.content, b, after.content)
	_, lines, _ = bytes.Cut(lines, []byte("\n")) // "diff a b"
	for line := range bytes.Lines(lines) {
		if _, err := io.WriteString(w, shown(strings.TrimSuffix(string(line), "\n"))+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// text is what a diff shows of a file.
type text struct {
	content []byte
	binary  bool
}

// textOf returns what a diff shows of the entry, which is at the path. nil has no text.
func textOf(e *beneath.Entry, t tree, at string) (text, error) {
	if e == nil || !e.Is(unix.S_IFREG) && !e.Is(unix.S_IFLNK) {
		return text{}, nil
	}
	in, name := parent(at)
	dir, err := t.folder(in)
	if err != nil {
		return text{}, err
	}
	defer dir.Close()
	if e.Is(unix.S_IFLNK) {
		to, err := beneath.ReadLink(dir, name)
		return text{content: []byte(to)}, err
	}
	if e.Size > maxDiff {
		return text{binary: true}, nil
	}
	f, _, err := beneath.OpenRegular(dir, name)
	if err != nil {
		return text{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxDiff))
	return text{content: content, binary: bytes.IndexByte(content, 0) >= 0}, err
}
