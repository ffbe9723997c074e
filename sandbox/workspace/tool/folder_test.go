package tool

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLeadsOut: paths that git adds to no index, and those that it adds.
func TestLeadsOut(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		"", "/a", "a//b", "a/", ".", "a/./b", "../a", "a/..", ".git", "a/.git/b", "a/.GIT", "git~1/x", "GIT~1", ".git ",
		".git./x", ".git::$INDEX_ALLOCATION/x", `.git\x`, ".g\u200cit/x", "\ufeff.git/x", "a\x1bb", "a\nb", "a\x7f",
	} {
		require.True(t, leadsOut([]byte(at), 0o100644), "%q", at)
	}
	require.True(t, leadsOut([]byte("a/.gitmodules"), 0o120000))
	for _, at := range []string{
		"a", ".gitmodules", ".gitignore", ".github/x", "git/x", "...", "..a", "a..", "a b", "ü/⚡️", ".git1", "x.git/y",
		"git~10", "gitx~1", "a/.hidden", `a\b`,
	} {
		require.False(t, leadsOut([]byte(at), 0o100644), "%q", at)
	}
}

// TestForms: what git's usual commands leave, and what looks like it.
func TestForms(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("a", 40)
	for _, in := range []string{
		"objects/aa/" + hex[2:], "objects/pack/pack-" + hex + ".pack", "objects/pack/tmp_pack_x1", "HEAD",
		"refs/heads/a/b", "logs/HEAD", "logs/refs/heads/a", "modules/a/b/refs/heads/x",
		"worktrees/w/index", "modules/a/worktrees/w/HEAD",
		"refs/heads/ü", "worktrees/w/locked", "modules/a/modules/b/index",
	} {
		require.Empty(t, unknown(in, 0), in)
		require.Equal(t, follows, unknown(in, fs.ModeSymlink), in)
		require.Equal(t, acted, unknown(in, fs.ModeNamedPipe), in)
	}
	for _, in := range []string{
		"objects/aa/x", "objects/" + hex, "objects/pack/pack-x.pack", "objects/pack/x/pack-" + hex + ".pack", "head",
		"refs/heads/a.lock", "refs/heads/-x", "refs/heads/.x", "refs/heads/a..b", "refs/heads/$(x)", "refs/heads/a`b`",
		"refs/heads/a;b", "refs/heads/a b", "logs/refs/heads/a\x1b", "logs/x", "worktrees/a/b/HEAD",
		"modules/a/.git/HEAD", "modules/HEAD", "x", "index.lock", "MERGE_HEAD",
		"MERGE_AUTOSTASH", "CHERRY_PICK_HEAD", "worktrees/a/MERGE_HEAD", "rr-cache/x", "lfs/x", "HEAD/x", "HEAD\n",
	} {
		require.Equal(t, acted, unknown(in, 0), in)
	}
	for at, contents := range map[string][2][]string{
		".git/HEAD": {
			{hex + "\n", "ref: refs/heads/x\n"}, {"", "x", "ref: /etc/x\n", "ref: refs/../x\n", hex + "\n\x1b"},
		},
		".git/ORIG_HEAD": {{hex + "\n" + hex + "\n"}, {hex + "\x1b\n", "x\n"}},
		".git/FETCH_HEAD": {
			{"", hex + "\t\tbranch 'x' of ../up\n", hex + "\tnot-for-merge\ttag 'v1' of https://a.test/b\n"},
			{hex + "\t\ta\x1b[2J\n", hex + "\tx\ta\n"},
		},
		".git/opencode":  {{hex, hex + "\n"}, {"x", hex + "\x1b"}},
		".git/logs/HEAD": {{"x\ty ⚡️\n"}, {"x\x1b[2J\n", "x\u009b2J\n", "x\r"}},
	} {
		for _, content := range contents[0] {
			who, _ := Deceives(at, 0, strings.NewReader(content))
			require.Empty(t, who, "%s: %q", at, content)
		}
		for _, content := range contents[1] {
			who, state := Deceives(at, 0, strings.NewReader(content))
			require.Equal(t, acted, who, "%s: %q", at, content)
			_, other := Deceives(at, 0, strings.NewReader(content+"\x1b"))
			require.NotEqual(t, state, other)
		}
	}
}

// TestBranchesOfAnyName: a reference is not taken for a file of that name.
func TestBranchesOfAnyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Makefile", "main.tf", "AGENTS.md", "Dockerfile"} {
		require.Empty(t, Acts(".git/refs/heads/"+name, 0, false, false), name)
	}
	require.Equal(t, acted, Acts(".git/foo/Makefile", 0, false, false))
}

// TestNothingHides: a name of a branch, and a line that git prints, has nothing that nobody sees.
// Signs of other scripts, and what joins them, are as people write them.
func TestNothingHides(t *testing.T) {
	t.Parallel()
	for _, hidden := range []string{"\u3164", "\u200b", "\u202e", "\ufe0f", "\u2800", "\u00ad", "\xff", "\U000e0041"} {
		require.False(t, isRefName("refs/heads/main"+hidden), "%q", hidden)
		is, line := eachLine(func(string) bool { return true }), "commit: main"+hidden+"\n"
		require.False(t, is(strings.NewReader(line)), "%q", hidden)
		who, _ := Deceives(".git/logs/HEAD", 20, strings.NewReader(line))
		require.Equal(t, acted, who, "%q", hidden)
	}
	for _, plain := range []string{
		"\u26a1\ufe0f", "\U0001f469\u200d\U0001f4bb", "\U0001f3f3\ufe0f\u200d\U0001f308",
		"\u0645\u06cc\u200c\u0634\u0648\u062f",
		"a\tb",
	} {
		require.True(t, eachLine(func(string) bool { return true })(strings.NewReader(plain+"\n")), "%q", plain)
	}
	require.True(t, isRefName("refs/heads/\u00fc\u65e5\u672c"))
}
