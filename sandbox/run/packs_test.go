package run

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestCheckPack: the index that git made of a pack is its own, and no other one is: an agent can
// give the names in it to other content.
func TestCheckPack(t *testing.T) {
	t.Parallel()
	const other = "the index is not that of the pack"
	const commits = `for n in 1 2 3; do seq $((n * 1000)) > f; git add .; git commit -qm $n; done; git repack -adq; `
	const pack = `chmod 600 .git/objects/pack/*
		mv "$(echo .git/objects/pack/*.pack)" pack; mv "$(echo .git/objects/pack/*.idx)" idx; `
	const made = "git init -q; " + commits + pack
	const flip = `printf '\377' | dd of=$F bs=1 seek=$(($(stat -c %s $F) / 2)) conv=notrunc 2>/dev/null`
	for what, c := range map[string]struct{ script, why string }{
		"git's":      {made, ""},
		"by SHA-256": {"git init -q --object-format=sha256; " + commits + pack, ""},
		"another index": {made + "mv pack p; rm -r .git; git init -q; " + commits +
			"echo x > f; git add f; git commit -qm x; git repack -adq; " + pack + "mv p pack", other},
		"a name in the index": {made + "F=idx; " + flip, other},
		"a longer index":      {made + "echo >> idx", other},
		"a shorter index":     {made + "truncate -s -1 idx", other},
		"an empty index":      {made + "true > idx", "check a pack: "},
		"a damaged pack":      {made + "F=pack; " + flip, "check a pack: "},
		"a shorter pack":      {made + "truncate -s -30 pack", "check a pack: "},
		"no pack":             {made + "cp idx pack", "check a pack: "},
		"a thin pack": {"git init -q; " + commits + `printf 'HEAD\n^HEAD~1\n' |
			git pack-objects -q --revs --thin --stdout > pack; touch idx`, "check a pack: "},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			shell(t, dir, c.script)
			var files []*os.File
			for _, name := range []string{"pack", "idx"} {
				f, err := os.Open(filepath.Join(dir, name))
				require.NoError(t, err)
				t.Cleanup(func() { _ = f.Close() })
				files = append(files, f)
			}
			err := CheckPack(t.Context(), hostpath.In(t.TempDir()), files[0], files[1])
			if c.why == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.why)
		})
	}
}

// TestCheckPackEnds: git ends with the caller.
func TestCheckPackEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Open("/dev/zero")
	require.NoError(t, err)
	defer f.Close()
	require.Error(t, CheckPack(ctx, hostpath.In(t.TempDir()), f, f))
}
