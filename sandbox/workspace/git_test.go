package workspace

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Why changes of git's objects are refused.
const (
	otherObject = "git never changes an object, and yours of this name has other content: keep yours"
	elsewhere   = "git would take objects from where the agent has them"
	derivedFile = "git makes it from objects, and believes it: run `git gc` if you want it"
	largeObject = "unpacked, git's objects are more than the layer may have: apply it by its path"
	loneIndex   = "a pack and its index are only applied together"
)

// worked is a run whose agent started with the repository of [upstream] and ran the script in it.
// Its layer is what the kernel makes of that.
func worked(t *testing.T, before, script string) *layered {
	t.Helper()
	l := newLayered(t, nil)
	must(t, l.host, upstream+"\n"+before)
	time.Sleep(20 * time.Millisecond) //nolint:forbidigo // the clock of a file system is coarse
	l.Close()
	var err error
	l.Run, err = Create(t.Context(), l.state, Record{Agent: "demo", Workdir: l.host, Size: 1 << 30})
	require.NoError(t, err)
	t.Cleanup(l.Close)
	l.layer = l.upper()
	agent := filepath.Join(t.TempDir(), "agent")
	must(t, l.host, "cp -a . "+agent)
	must(t, agent, script)
	l.become(t, agent)
	return l
}

// become has the layer make the agent's folder of the host's.
func (l *layered) become(t *testing.T, agent string) {
	t.Helper()
	visit := func(top string, f func(at string, info fs.FileInfo)) {
		require.NoError(t, filepath.Walk(top, func(path string, info fs.FileInfo, err error) error {
			require.NoError(t, err)
			at, err := filepath.Rel(top, path)
			if at != "." {
				f(at, info)
			}
			return err
		}))
	}
	visit(agent, func(at string, info fs.FileInfo) {
		to := filepath.Join(l.layer, at)
		switch was, err := os.Lstat(filepath.Join(l.host, at)); {
		case info.IsDir():
			if err != nil || !was.IsDir() {
				require.NoError(t, os.MkdirAll(to, info.Mode().Perm()))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(filepath.Join(agent, at))
			require.NoError(t, err)
			require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
			require.NoError(t, os.Symlink(target, to))
		default:
			content := read(t, filepath.Join(agent, at))
			if err != nil || !was.Mode().IsRegular() || read(t, filepath.Join(l.host, at)) != content {
				write(t, to, content)
				require.NoError(t, os.Chmod(to, info.Mode().Perm()))
			}
		}
	})
	visit(l.host, func(at string, _ fs.FileInfo) {
		_, err := os.Lstat(filepath.Join(agent, at))
		_, above := os.Lstat(filepath.Join(agent, filepath.Dir(at)))
		if err != nil && above == nil {
			l.whiteout(t, at)
		}
	})
}

// TestHonestGit: what an agent's git made is applied, whatever it did, but for its index. Then `git
// reset`, which is advised, makes the repository whole.
func TestHonestGit(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"echo 2 > app.c; git commit -qam fix":                                  "fix upstream",
		"git checkout -qb topic; git rm -q app.c; git commit -qm gone":         "gone upstream",
		"git commit -q --amend -m other; git reflog expire --expire=now --all": "other",
		"echo 2 > new; git add new; git commit -qm new":                        "new upstream",
		"git branch objects/x; echo 2 > app.c; git commit -qam fix":            "fix upstream",
	} {
		l := worked(t, "", script)
		result, err := l.Apply(t.Context(), Selected(nil), func(c Change) {
			require.Equal(t, ".git/index "+stagedAgain, c.Path+" "+c.Refused, script)
			require.True(t, c.Never())
		})
		require.NoError(t, err)
		require.Equal(t, []int{0, 1}, []int{result.Refused, result.Never}, script)
		require.LessOrEqual(t, len(l.changes(t)), 1)
		must(t, l.host, "git reset -q && git fsck --strict && git diff --exit-code HEAD")
		require.Empty(t, must(t, l.host, "git status --porcelain"), script)
		require.Equal(t, want, must(t, l.host, "git log --format=%s | paste -sd' '"), script)
	}
	l := worked(t, "", "mkdir sub; cd sub; "+upstream)
	require.Equal(t, map[string]string{"sub/.git/index": stagedAgain}, l.apply(t))
	must(t, filepath.Join(l.host, "sub"), "git reset -q && git fsck --strict && git diff --exit-code HEAD")
}

// TestForgedObjects: no object gets another content, and none comes that has not the content for
// its name. The diff marks it. The rest is applied.
func TestForgedObjects(t *testing.T) {
	t.Parallel()
	const forged = "it has not the content that its name says"
	bad := strings.Repeat("ab", 20)
	at := ".git/objects/ab/" + bad[2:]
	var bomb bytes.Buffer
	z := zlib.NewWriter(&bomb)
	fmt.Fprintf(z, "blob %d\x00", 2<<30)
	require.NoError(t, z.Close())
	for _, c := range []struct {
		what, before string
		work         func(t *testing.T, agent, blob string)
		path, why    string
	}{
		{what: "an object that is there", work: forgeries["loose"], why: otherObject},
		{what: "a pack", work: forgeries["pack"], path: ".pack", why: "its objects cannot be checked"},
		{what: "an index", work: forgeries["pack"], path: ".idx", why: "its objects cannot be checked"},
		{what: "a new object", path: at, why: forged, work: func(t *testing.T, agent, _ string) {
			t.Helper()
			write(t, filepath.Join(agent, at), loose("blob", evil))
		}},
		{what: "cut off", path: at, why: forged, work: func(t *testing.T, agent, _ string) {
			t.Helper()
			write(t, filepath.Join(agent, at), loose("blob", evil)[:12])
		}},
		{what: "a bomb", path: at, why: largeObject, work: func(t *testing.T, agent, _ string) {
			t.Helper()
			write(t, filepath.Join(agent, at), bomb.String())
		}},
		{what: "a link to an object", path: at, why: elsewhere, work: func(t *testing.T, agent, _ string) {
			t.Helper()
			write(t, filepath.Join(agent, "o"), loose("blob", evil))
			must(t, agent, "mkdir -p .git/objects/ab; ln -s ../../../o "+at)
		}},
		{
			what: "a link to objects", path: ".git/objects/ab", why: elsewhere,
			work: func(t *testing.T, agent, _ string) {
				t.Helper()
				write(t, filepath.Join(agent, "o", bad[2:]), loose("blob", evil))
				must(t, agent, "rm -rf .git/objects/ab; ln -s ../../o .git/objects/ab")
			},
		},
		{
			what: "a link to all objects", path: ".git/objects", why: elsewhere,
			work: func(t *testing.T, agent, blob string) {
				t.Helper()
				forgeries["loose"](t, agent, blob)
				must(t, agent, "mv .git/objects o; ln -s ../o .git/objects")
			},
		},
		{
			what: "an object of a bare repository", before: "git clone -q --bare . bare",
			path: "bare/objects/ab/" + bad[2:], why: forged, work: func(t *testing.T, agent, _ string) {
				t.Helper()
				write(t, filepath.Join(agent, "bare/objects/ab", bad[2:]), loose("blob", evil))
			},
		},
		{
			what: "an object of a submodule", path: ".git/modules/a/b/objects/ab/" + bad[2:],
			why: forged, work: func(t *testing.T, agent, _ string) {
				t.Helper()
				write(t, filepath.Join(agent, ".git/modules/a/b/objects/ab", bad[2:]), loose("blob", evil))
			},
		},
		{
			what: "alternates", path: ".git/objects/info/alternates", why: elsewhere,
			work: func(t *testing.T, agent, _ string) {
				t.Helper()
				write(t, filepath.Join(agent, ".git/objects/info/alternates"), "../../o\n")
			},
		},
		{
			what: "a graph of commits", path: ".git/objects/info/commit-graph", why: derivedFile,
			work: func(t *testing.T, agent, _ string) {
				t.Helper()
				must(t, agent, "git commit-graph write --reachable")
			},
		},
		{
			what: "a file of LFS", path: ".git/lfs/objects/ab/ab/" + strings.Repeat("ab", 32), why: forged,
			work: func(t *testing.T, agent, _ string) {
				t.Helper()
				write(t, filepath.Join(agent, ".git/lfs/objects/ab/ab", strings.Repeat("ab", 32)), evil)
			},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			l := worked(t, c.before, "true")
			blob := must(t, l.host, "git rev-parse HEAD:Makefile")
			agent := filepath.Join(t.TempDir(), "agent")
			must(t, l.host, "cp -a . "+agent)
			c.work(t, agent, blob)
			write(t, filepath.Join(agent, "new"), "x")
			l.become(t, agent)
			var out bytes.Buffer
			require.NoError(t, l.Diff(t.Context(), &out, Selected(nil)))
			require.Contains(t, out.String(), "! not applied: "+c.why)
			refused := l.apply(t)
			found := false
			for path, why := range refused {
				found = found || strings.HasSuffix(path, c.path) && strings.HasPrefix(why, c.why)
			}
			require.True(t, found, "%v", refused)
			require.Equal(t, "x", read(t, filepath.Join(l.host, "new")))
			must(t, l.host, "rm Makefile; git checkout -q Makefile; git fsck --strict")
			require.Equal(t, "all:\n\techo honest\n", read(t, filepath.Join(l.host, "Makefile")))
			require.Equal(t, refused, l.apply(t), "it stays refused")
		})
	}
}

// TestPacksTogether: a pack comes with its index, and only after both were checked.
func TestPacksTogether(t *testing.T) {
	t.Parallel()
	const gc = "echo 2 > app.c; git commit -qam fix; git gc -q --prune=now"
	l := worked(t, "", gc)
	refused := l.apply(t)
	require.Contains(t, fmt.Sprint(refused), "its objects cannot be checked here")
	must(t, l.host, "git checkout -q -f trusted")

	l = worked(t, "", gc)
	l.CheckPack = func(context.Context, *os.File, *os.File) error { return errors.New("no") }
	refused = l.apply(t)
	var packs []string
	for path, why := range refused {
		if why == "no" {
			packs = append(packs, filepath.Ext(path))
		}
	}
	slices.Sort(packs)
	require.Equal(t, []string{".idx", ".pack"}, packs)

	checked := 0
	l.CheckPack = func(_ context.Context, pack, index *os.File) error {
		checked++
		for f, start := range map[*os.File]string{pack: "PACK", index: "\xfftOc"} {
			got := make([]byte, 4)
			_, err := f.Read(got)
			require.NoError(t, err)
			require.Equal(t, start, string(got))
		}
		return nil
	}
	for path, why := range l.apply(t) {
		if path != ".git/index" {
			require.Equal(t, derivedFile, why, path)
		}
	}
	require.Equal(t, 1, checked)
	must(t, l.host, "git reset -q && git fsck --strict && git diff --exit-code HEAD")
	require.Equal(t, "fix upstream", must(t, l.host, "git log --format=%s | paste -sd' '"))

	// Without the other file, and next to another one.
	stem := "x/objects/pack/pack-1"
	write(t, filepath.Join(l.layer, stem+".idx"), "i")
	require.Equal(t, loneIndex, l.apply(t, "x")[stem+".idx"])
	write(t, filepath.Join(l.host, stem+".pack"), "other")
	write(t, filepath.Join(l.layer, stem+".pack"), "p")
	require.Equal(t, map[string]string{stem + ".idx": otherObject, stem + ".pack": changedMeanwhile},
		l.apply(t, "x"))
}

// TestPacksAreBounded: however many packs an agent made, checking them ends.
func TestPacksAreBounded(t *testing.T) {
	t.Parallel()
	l := worked(t, "", "true")
	for n := range 100 {
		for _, ext := range []string{".pack", ".idx"} {
			write(t, filepath.Join(l.layer, fmt.Sprintf("x/objects/pack/pack-%d%s", n, ext)), "x")
		}
	}
	synctest.Test(t, func(t *testing.T) {
		checked := 0
		l.CheckPack = func(ctx context.Context, _, _ *os.File) error {
			checked++
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * packsPatience / 5):
				return errors.New("no")
			}
		}
		began, refused := time.Now(), 0
		_, err := l.Apply(context.Background(), Selected([]string{"x/objects/pack"}), func(c Change) {
			refused++
			if c.Path == "x/objects/pack/pack-99.idx" {
				require.Equal(t, errPacks.Error(), c.Refused)
			}
		})
		require.NoError(t, err)
		require.Equal(t, 200, refused)
		require.Equal(t, 3, checked)
		require.Equal(t, packsPatience, time.Since(began))
	})
}

// TestObjectsStay: what the agent's git removed of the objects stays, unless the repository goes.
func TestObjectsStay(t *testing.T) {
	t.Parallel()
	const nested = "mkdir sub; cd sub; " + upstream + "; cd ..; git clone -q --bare . bare"
	l := worked(t, nested, "rm -rf .git/objects; mkdir .git/objects; rm -rf sub bare/objects; touch a")
	require.Empty(t, l.apply(t))
	must(t, l.host, "git fsck --strict && git -C bare fsck")
	require.NoDirExists(t, filepath.Join(l.host, "sub"))
	require.FileExists(t, filepath.Join(l.host, "a"))

	l = worked(t, nested, "rm -rf sub bare; mkdir bare; touch bare/a")
	l.set(t, "bare", "opaque", "y")
	require.Empty(t, l.apply(t))
	require.NoDirExists(t, filepath.Join(l.host, "sub"))
	require.NoDirExists(t, filepath.Join(l.host, "bare/objects"))
}
