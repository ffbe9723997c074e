package since

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/way"
)

// linked makes the links in the folder, by their paths.
func linked(t *testing.T, dir string, links map[string]string) {
	t.Helper()
	for at, to := range links {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(at)), 0o700))
		require.NoError(t, os.Symlink(to, filepath.Join(dir, at)))
	}
}

// outsideOf returns what is said of links that lead out of the folder, by their paths.
func outsideOf(t *testing.T, dir string, before Tools) map[string]string {
	t.Helper()
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	found := map[string]string{}
	for at, f := range after {
		if f != before[at] && f.there != "" {
			found[at] = f.there
		}
	}
	return found
}

// TestLinksThatLeadOut: a link by which a person's next build empties or overwrites another folder
// is named, whatever the way is that it takes. What a person linked before is not.
func TestLinksThatLeadOut(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir, other := filepath.Join(top, "d"), filepath.Join(top, "other")
	home, err := os.UserHomeDir()
	require.NoError(t, err)
	write(t, filepath.Join(other, "thesis"), "a")
	write(t, filepath.Join(dir, "sub/x"), "a")
	linked(t, dir, map[string]string{"mine": other, "up": "sub"})
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Empty(t, before.Since(before))
	linked(t, dir, map[string]string{
		"build": "../other", "out": other, "deep/a/b": "../../../other", "by": "mine/sub", "sub/back": "..",
		"twice": "sub/back/../other", "again": dir + "/sub/back/../other", "new": "later/../../other",
		"around":         "../d/../other",
		"node_modules/x": "../../other", ".vscode": other, "h": filepath.Join(home, "x"),
		"all": "/", ".envrc": other, "odd": "/usr/share/../../etc", "etc": "/etc/hosts",
		"sub/near": "x", "loop": "loop",
		"in": dir + "/sub/x", "round": "../d/sub/x", "up2": "up/../sub/x", "gone": "sub/gone", "dot": ".",
	})
	// Two links whose ways cross.
	require.NoError(t, os.Remove(filepath.Join(dir, "up")))
	linked(t, dir, map[string]string{"up": "sub/back"})
	want := map[string]string{
		"build": other, "out": other, "deep/a/b": other, "by": other + "/sub", "twice": other, "again": other,
		"new": other, "around": other, "node_modules/x": other, ".vscode": other,
		"h": filepath.Join(home, "x"), "all": "/", ".envrc": other, "odd": "/etc",
		"etc": "/etc/hosts", "loop": "loop", "up2": filepath.Join(top, "sub/x"),
	}
	require.Equal(t, want, outsideOf(t, dir, before))
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	said := strings.Join(after.Since(before), "\n")
	require.Contains(t, said, "all -> /, h -> "+home+"/x ("+leadsHome+")")
	require.Contains(t, said, ".vscode -> "+other+", again -> "+other)
	require.Contains(t, said, ".envrc -> "+other+" (a shell may load it)")
	// So the attack works.
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", "rm -rf build/*")
	cmd.Dir = dir
	require.NoError(t, cmd.Run())
	require.NoFileExists(t, filepath.Join(other, "thesis"))
}

// TestLinksOfProjects: links that usual tools make are not named.
func TestLinksOfProjects(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	write(t, filepath.Join(dir, ".venv/pyvenv.cfg"), "home = /usr/bin\n")
	linked(t, dir, map[string]string{
		".venv/bin/python": "/usr/bin/python3", ".venv/bin/python3": "python", ".venv/bin/python3.12": "python",
		".venv/lib64": "lib", "node_modules/.bin/tsc": "../typescript/bin/tsc",
		"node_modules/a": ".pnpm/a@1.0.0/node_modules/a", "lib/x.so": "x.so.1", ".#edited": "me@host.1234:56",
		"log": "/dev/stdout", "cache": "/agent/.cache/pnpm",
	})
	require.Empty(t, outsideOf(t, dir, before))
	require.NoError(t, os.Remove(filepath.Join(dir, ".venv/bin/python")))
	linked(t, dir, map[string]string{".venv/bin/python": "/home/me/.local/share/uv/python/cpython-3.12/bin/python3.12"})
	require.Empty(t, outsideOf(t, dir, before))
	// None of these is the Python of a virtual environment.
	linked(t, dir, map[string]string{
		".venv/bin/tool": "/var/me/bin/python3", ".venv/python": "/var/me/bin/python3",
		"bin/python":     "/var/me/bin/python3",
		".venv/bin/pypy": "/var/me/python3",
	})
	require.Len(t, outsideOf(t, dir, before), 4)
}

// TestLinksOfTheSystem: who may write nothing there needs no word of it. Root may.
func TestLinksOfTheSystem(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	linked(t, dir, map[string]string{"share": "/usr/share/doc", "lib": "/lib/x", "result": "/nix/store/x"})
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	follow := way.New(dir, beneath.Layers{root}.Link).Follow
	who, _ := newOutside(beneath.Layers{root}, "", 0).leads("share", follow(".", "/usr/share/doc"))
	require.Equal(t, leadsOut, who)
	o := newOutside(beneath.Layers{root}, "", 1000)
	for to, want := range map[string]string{
		"/usr/share/doc": "", "/lib/x": "", "/nix/store/x": "", "/usr": leadsOut, "/usr/local/bin": leadsOut,
		"/usr/share/../../x": leadsOut, "/usr/sharex": leadsOut,
	} {
		who, _ := o.leads("x", follow(".", to))
		require.Equal(t, want, who, to)
	}
}

// TestManyLinks: however many links an agent makes, and however long they are, the lines are few,
// and the look ends.
func TestManyLinks(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	home, err := os.UserHomeDir()
	require.NoError(t, err)
	links := map[string]string{"build": home, "long": strings.Repeat("x/../", 800) + ".."}
	for i := range 2000 {
		links[fmt.Sprintf("a/%d", i)] = fmt.Sprintf("/tmp/\x1b%d", i)
	}
	linked(t, dir, links)
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	lines := after.Since(before)
	require.Len(t, lines, 2)
	require.Equal(t, "build -> "+home+" ("+leadsHome+")", lines[0])
	require.Contains(t, lines[1], `a/0 -> "/tmp/\x1b0", `)
	require.Contains(t, lines[1], " and 1996 more ("+leadsOut+")")
}

// TestLinksArePassedOn: what was there before is known in the next process, too.
func TestLinksArePassedOn(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	linked(t, dir, map[string]string{"build": "/var/\xff"})
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	content, err := before.MarshalJSON()
	require.NoError(t, err)
	var again Tools
	require.NoError(t, again.UnmarshalJSON(content))
	require.Equal(t, before, again)
	require.Empty(t, before.Since(again))
	require.Empty(t, Tools{}.Since(again), "a link that is gone leads nowhere")
}
