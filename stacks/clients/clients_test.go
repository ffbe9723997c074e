package clients

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestNames: which clients are known, and what is said of another one and of one that is not
// installed.
func TestNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"pip", "npm", "go", "uv", "poetry", "pnpm", "yarn", "bun", "cargo", "gem", "mvn", "nuget", "apt",
	}, Names())
	_, err := URLs(t.Context(), "carg")
	require.EqualError(t, err, `client "carg" is unknown; did you mean cargo?`)
	_, err = ask(t.Context(), "a-client-that-nobody-has")
	require.ErrorContains(t, err, "a-client-that-nobody-has")
	require.ErrorContains(t, err, ": install it, or name the hosts themselves")
}

// P36: clients whose settings name their servers in files are asked by these files.
func TestSettings(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, name := range []string{"CARGO_HOME", "UV_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL"} {
		t.Setenv(name, "")
	}
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(home, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	asks := func(want []string, client string) {
		t.Helper()
		got, err := URLs(t.Context(), client)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := URLs(t.Context(), "cargo")
	require.EqualError(t, err, "ask cargo for its hosts: its configuration names no server: name the hosts themselves")
	write(".cargo/config.toml", `[source.crates-io]
replace-with = "mirror"
[source.mirror]
registry = "sparse+https://crates.test/index/"
[registries.mine]
index = "https://mine.test/git"
`)
	asks([]string{"https://crates.test/index/", "https://mine.test/git"}, "cargo")
	t.Setenv("CARGO_HOME", filepath.Join(home, "c"))
	write("c/config", "[registries.x]\nindex = 'https://x.test'\n")
	asks([]string{"https://x.test"}, "cargo")
	write("c/config", "[registries")
	_, err = URLs(t.Context(), "cargo")
	require.ErrorContains(t, err, "read "+filepath.Join(home, "c/config"))

	write(".config/uv/uv.toml", `extra-index-url = ["https://extra.test/simple"]
[[index]]
url = "https://index.test/simple"
default = true
`)
	t.Setenv("UV_INDEX", "named=https://named.test/simple https://plain.test/a=b")
	asks([]string{
		"https://named.test/simple", "https://plain.test/a=b", "https://extra.test/simple", "https://index.test/simple",
	}, "uv")

	write(".m2/settings.xml", `<settings xmlns="x">
<mirrors><mirror><id>a</id><url> https://mirror.test/maven2 </url></mirror></mirrors>
<profiles><profile><repositories><repository><url>https://repo.test</url></repository></repositories>
<pluginRepositories><pluginRepository><url>https://plugins.test</url></pluginRepository></pluginRepositories>
</profile></profiles></settings>`)
	asks([]string{"https://mirror.test/maven2", "https://repo.test", "https://plugins.test"}, "mvn")
}

// A file that an agent may write names no server for others.
func TestSettingsOfAnAgent(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	require.NoError(t, os.MkdirAll(filepath.Join(home, "open"), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(home, "open", "x.toml"), filepath.Join(home, "config.toml")))
	t.Setenv("CARGO_HOME", home)
	t.Setenv("POSTERN_HOME", filepath.Join(home, "state"))
	content := []byte("[registries.x]\nindex = 'https://x.test'\n")
	require.NoError(t, os.WriteFile(filepath.Join(home, "open", "x.toml"), content, 0o600))
	urls, err := cargo(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"https://x.test"}, urls)
	require.NoError(t, hostpath.In(filepath.Join(home, "state")).Record(filepath.Join(home, "open")))
	_, err = cargo(t.Context())
	require.ErrorContains(t, err, "open")
}

// P36: servers in what a client answers.
func TestAnswered(t *testing.T) {
	t.Parallel()
	urls, err := answered("sh", "-c", "echo '*** CURRENT SOURCES ***'; echo; echo https://gems.test/; "+
		"echo 'E http://feed.test/v3/index.json'")(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"https://gems.test/", "http://feed.test/v3/index.json"}, urls)
}
