package way_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/workspace/way"
)

func links(of map[string]string) func(string) (string, bool) {
	return func(at string) (string, bool) { to, ok := of[at]; return to, ok }
}

func TestFollow(t *testing.T) {
	t.Parallel()
	f := way.New("/w/d", links(map[string]string{
		"l": "a/b", "up": "..", "loop": "loop", "abs": "/w/d/a", "out": "/x/y",
	}))
	for _, c := range []struct {
		in, to string
		end    way.End
	}{
		{".", "", way.End{In: ".", Exact: true}},
		{".", "a", way.End{In: "a", Exact: true}},
		{"x/y", "../z", way.End{In: "x/z", Exact: true}},
		{"x", "..", way.End{In: ".", Exact: true}},
		{"x/y", "..", way.End{In: "x", Exact: true}},
		{".git", "x", way.End{In: ".git/x", Exact: true}},
		{".git/x", "../../l/c", way.End{In: "a/b/c", Exact: true, Links: []string{"l"}}},
		{".", "..x", way.End{In: "..x", Exact: true}},
		{".", "..", way.End{Out: "/w", Exact: true}},
		{"x", "../../x", way.End{Out: "/w/x", Exact: true}},
		{".", "x/../../y", way.End{Out: "/w/y", Exact: true}},
		{".", "../d/x", way.End{In: "x", Exact: true}},
		{".", "../dx", way.End{Out: "/w/dx", Exact: true}},
		{".", "/w/d/x", way.End{In: "x", Exact: true}},
		{".", "/w/d", way.End{In: ".", Exact: true}},
		{".", "/w/dx", way.End{Out: "/w/dx", Exact: true}},
		{".", "/o/../w/d/x", way.End{In: "x", Exact: true}},
		{".", "/o/../q", way.End{Out: "/q"}},
		{".", "l/../c", way.End{In: "a/c", Exact: true, Links: []string{"l"}}},
		{".", "l/../../../c", way.End{Out: "/w/c", Exact: true, Links: []string{"l"}}},
		{".", "up/d/abs/x", way.End{In: "a/x", Exact: true, Links: []string{"up", "abs"}}},
		{".", "out/z", way.End{Out: "/x/y/z", Exact: true, Links: []string{"out"}}},
	} {
		require.Equal(t, c.end, f.Follow(c.in, c.to), c)
	}
	require.Equal(t, "loop", f.Follow(".", "loop").Out)
	require.False(t, f.Follow(".", "loop").Exact)
	require.Equal(t, strings.Repeat("a/../", 1000), f.Follow(".", strings.Repeat("a/../", 1000)).Out)
}

// TestMazeIsBounded (N5): however many paths an agent makes, and however long each is, a folder is
// asked for a bounded number of links, and one path only once. From then on all lead out.
func TestMazeIsBounded(t *testing.T) {
	t.Parallel()
	asked := 0
	f := way.New("/w/d", func(string) (string, bool) { asked++; return "", false })
	require.Equal(t, "a", f.Follow(".", "a").In)
	require.Equal(t, "a", f.Follow(".", "a").In)
	require.Equal(t, 1, asked)
	deep := strings.Repeat("a/", 450)
	for i := range 100_000 {
		f.Follow(".", fmt.Sprintf("x%d/%s", i, deep))
	}
	require.Less(t, asked, 600_000)
	require.Equal(t, "a", f.Follow(".", "a").Out)
}

// TestFollowsAsTheKernel: whatever the links are, a path leads where the kernel has it lead.
func TestFollowsAsTheKernel(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir := filepath.Join(top, "d")
	random := rand.New(rand.NewPCG(1, 2))
	path := func() string {
		steps := []string{"a", "b", "c", "..", "..", ".", "d"}
		var p []string
		for range 1 + random.IntN(5) {
			p = append(p, steps[random.IntN(len(steps))])
		}
		text := strings.Join(p, "/")
		if random.IntN(8) == 0 {
			text = dir + "/" + text
		}
		return text
	}
	in, out := 0, 0
	for range 60 {
		require.NoError(t, os.RemoveAll(dir))
		for _, at := range []string{"a/a/b", "a/b/c", "b/a/a", "b/c", "c/b"} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, at), 0o700))
		}
		for range 6 {
			at, err := filepath.EvalSymlinks(filepath.Join(dir, []string{".", "a", "b", "a/b"}[random.IntN(4)]))
			if err == nil && strings.HasPrefix(at, dir) {
				at = filepath.Join(at, []string{"a", "b", "c"}[random.IntN(3)])
				_ = os.Remove(at) // only what is empty
				_ = os.Symlink(path(), at)
			}
		}
		f := way.New(dir, func(at string) (string, bool) {
			to, err := os.Readlink(filepath.Join(dir, at))
			return to, err == nil
		})
		for range 20 {
			to := path()
			abs := to
			if !filepath.IsAbs(to) {
				abs = dir + "/" + to
			}
			want, err := followed(abs)
			if err != nil {
				continue
			}
			end := f.Follow(".", to)
			if below, ok := strings.CutPrefix(want+"/", dir+"/"); ok {
				in++
				require.Equal(t, filepath.Clean("./"+below), end.In, to)
			} else {
				out++
				require.Equal(t, want, end.Out, to)
			}
		}
	}
	require.Greater(t, in, 100)
	require.Greater(t, out, 100)
}

// followed returns where the kernel has a folder's path lead.
func followed(at string) (string, error) {
	f, err := os.Open(at)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}
