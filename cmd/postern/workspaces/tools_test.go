package workspaces

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/begun"
	"github.com/postern/postern/sandbox/workspace/since"
)

// TestSayTools: what is there when before returns is not named, and what is written from then on
// is.
func TestSayTools(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("Makefile", "all:\n")
	write("package.json", "{}\n")
	var out bytes.Buffer
	before, after := SayTools(&out, notes, dir)
	require.NoError(t, before())
	write("Makefile", "all:\n\ttouch pwned\n")
	write("package.json", "{}\n") // the same content
	after()
	left, err := os.ReadDir(notes)
	require.NoError(t, err)
	require.Empty(t, left, "it is said")
	require.Equal(t, "postern: look before you use it: Makefile (a build runs commands from it)\n", out.String())
}

// TestTwoInOneFolder (N1): two commands in a folder hide nothing by turns. What the first takes
// back when the second has begun, the second makes again.
func TestTwoInOneFolder(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), t.TempDir()
	write := func(name string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	var first, second, third, fourth bytes.Buffer
	before, firstEnds := SayTools(&first, notes, dir)
	require.NoError(t, before())
	write(".envrc")
	before, secondEnds := SayTools(&second, notes, dir)
	require.NoError(t, before())
	require.NoError(t, os.Remove(filepath.Join(dir, ".envrc")))
	firstEnds()
	require.Empty(t, first.String(), "at its end nothing is other than at its start")
	write(".envrc")
	before, thirdEnds := SayTools(&third, notes, dir) // the first has ended, the second has its start
	require.NoError(t, before())
	const line = "postern: look before you use it: .envrc (a shell may load it)\n"
	secondEnds()
	require.Equal(t, line, second.String())
	thirdEnds()
	require.Equal(t, line, third.String())
	before, fourthEnds := SayTools(&fourth, notes, dir)
	require.NoError(t, before())
	fourthEnds()
	require.Empty(t, fourth.String(), "nobody is there any more")
	left, err := os.ReadDir(notes)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestSeveralKilled: what several killed commands wrote in a folder is said once, from where the
// first began, and so is which folder it is.
func TestSeveralKilled(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), t.TempDir()
	write := func(name string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	for _, name := range []string{".envrc", "Makefile", "setup.py"} {
		were, err := findTools(dir)
		require.NoError(t, err)
		note, err := begun.Begin(notes, dir, were)
		require.NoError(t, err)
		write(name)
		note.Close()
	}
	var status, scan bytes.Buffer
	nameUnsaid(&status, notes)
	require.Equal(t, 1, strings.Count(status.String(), "\n"), status.String())
	sayUnsaid(&scan, notes, dir)
	require.Regexp(t, "^postern: the command that began in "+dir+" on [0-9: -]+ was killed, and this is what it "+
		"would have said:\n"+
		"postern: look before you use it: .envrc \\(a shell may load it\\)\n"+
		"postern: look before you use it: Makefile, setup.py \\(a build runs commands from it\\)\n"+
		"postern: 2 later commands were killed there, too: what was written then is in these lines\n$", scan.String())
	left, err := os.ReadDir(notes)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestQuietIsNoted: a command of which nobody wants to hear has its note until it ends, so the next
// one says what it wrote if it is killed. It says nothing of others, and leaves theirs.
func TestQuietIsNoted(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), t.TempDir()
	killed, err := begun.Begin(notes, dir, since.Tools{})
	require.NoError(t, err)
	killed.Close()
	began := 0
	p := &run.Prepared{Writes: true, Unsaid: notes, Spec: &sandbox.Spec{
		View: &view.View{}, Begin: func() error { began++; return nil },
	}}
	p.Spec.View.Workdir.Path = dir
	noted := func() int {
		left, err := os.ReadDir(notes)
		require.NoError(t, err)
		return len(left)
	}
	var out bytes.Buffer
	end := Begin(t.Context(), &out, "", p, true)
	require.NoError(t, p.Spec.Begin())
	require.Equal(t, 1, began)
	require.Equal(t, 2, noted())
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".envrc"), nil, 0o600))
	end()
	require.Equal(t, 1, noted())
	require.Empty(t, out.String())
	sayUnsaid(&out, notes, dir)
	require.Contains(t, out.String(), "look before you use it: .envrc")
}

// TestOverlaySaysLater: what a killed command wrote in the folder itself is said by the next one
// there, also if that writes to a layer.
func TestOverlaySaysLater(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), t.TempDir()
	killed, err := begun.Begin(notes, dir, since.Tools{})
	require.NoError(t, err)
	killed.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".envrc"), nil, 0o600))
	p := &run.Prepared{Unsaid: notes, Spec: &sandbox.Spec{View: &view.View{}}, Layer: &workspace.Run{}}
	p.Layer.Workdir = dir
	var out bytes.Buffer
	Begin(t.Context(), &out, "", p, true)
	require.Empty(t, out.String())
	Begin(t.Context(), &out, "", p, false)
	require.Contains(t, out.String(), "look before you use it: .envrc")
}

// TestNamingChangesNothing: who only asks which commands were killed changes nothing in their
// folders.
func TestNamingChangesNothing(t *testing.T) {
	t.Parallel()
	dir, notes := t.TempDir(), filepath.Join(t.TempDir(), "notes")
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".git"), 0o700))
	killed, err := begun.Begin(notes, dir, since.Tools{})
	require.NoError(t, err)
	killed.Close()
	old := time.Unix(1, 0)
	for _, at := range []string{".git", "."} {
		require.NoError(t, os.Chtimes(filepath.Join(dir, at), old, old))
	}
	var out bytes.Buffer
	nameUnsaid(&out, notes)
	require.Regexp(t, "^warning: the command that began in .* was killed", out.String())
	for _, at := range []string{".git", "."} {
		info, err := os.Stat(filepath.Join(dir, at))
		require.NoError(t, err)
		require.Equal(t, old, info.ModTime(), at)
	}
}

// TestKilledSaysLater (F6): what a command wrote is said by the next one in the folder, if `postern
// run` was killed, and once. So it is if nobody could read it.
func TestKilledSaysLater(t *testing.T) {
	t.Parallel()
	const killed, in = "POSTERN_TEST_KILLED", "POSTERN_TEST_IN"
	if folder := os.Getenv(killed); folder != "" {
		before, _ := SayTools(os.Stderr, os.Getenv(in), folder)
		require.NoError(t, before())
		_, _ = os.Stdout.WriteString("begun\n")
		select {} // until it is killed
	}
	dir, notes := t.TempDir(), t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("Makefile", "all:\n")
	write(".tool-versions", "go 1\n")
	self, err := os.Executable()
	require.NoError(t, err)
	run := exec.CommandContext(t.Context(), self, "-test.run=^TestKilledSaysLater$")
	run.Env = append(os.Environ(), killed+"="+dir, in+"="+notes)
	run.Stderr = os.Stderr
	stdout, err := run.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, run.Start())
	_, err = io.ReadFull(stdout, make([]byte, len("begun\n")))
	require.NoError(t, err)

	next := func() string {
		var out bytes.Buffer
		before, after := SayTools(&out, notes, dir)
		require.NoError(t, before())
		after()
		return out.String()
	}
	write(".envrc", "evil")
	require.Equal(t, "postern: look before you use it: .envrc (a shell may load it)\n", next())
	write("\xff\n/.tool-versions", "evil")
	require.NoError(t, run.Process.Kill())
	_ = run.Wait()
	var elsewhere bytes.Buffer
	sayUnsaid(&elsewhere, notes, t.TempDir())
	require.Empty(t, elsewhere.String())
	const want = "postern: look before you use it: .envrc (a shell may load it)\n" +
		"postern: look before you use it: \"\\xff\\n/.tool-versions\" (a shell may load it)\n"
	said := next()
	require.Regexp(t, "^postern: the command that began in "+dir+" on [0-9: -]+ was killed, and this is what it "+
		"would have said:\n", said)
	require.Contains(t, said, want)
	require.Empty(t, next(), "it is said once")

	// A terminal that is gone has told nobody.
	gone, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer gone.Close()
	before, after := SayTools(gone, notes, dir)
	require.NoError(t, before())
	write(".envrc", "evil again")
	after()
	require.Contains(t, next(), "postern: look before you use it: .envrc (a shell may load it)\n")
	require.Empty(t, next())

	// Without the note, nothing starts.
	require.NoError(t, os.RemoveAll(notes))
	require.NoError(t, os.WriteFile(notes, nil, 0o600))
	before, _ = SayTools(io.Discard, notes, dir)
	require.ErrorContains(t, before(), "note what is in "+dir+" before the command starts")
}
