package view

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/toolchain"
)

// shown returns the content of every file that the builder shows by now, by its path.
func (b *builder) shown(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, m := range b.Mounts {
		if m.Kind == File {
			files[m.Target] = string(m.Content)
		}
		if m.Kind != Bind {
			continue
		}
		require.NoError(t, filepath.WalkDir(b.at(m.Source), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			files[strings.TrimPrefix(path, b.root)] = string(content)
			return err
		}))
	}
	return files
}

// install makes files of a tool, which hold a canary or something harmless, and returns the paths
// of the harmless ones.
func (m *machine) install(t *testing.T, folder, files string, secret bool) (harmless []string) {
	t.Helper()
	if !filepath.IsAbs(folder) {
		folder = filepath.Join("/home/me", folder)
	}
	for name := range strings.FieldsSeq(files) {
		path, mode, content := filepath.Join(folder, name), fs.FileMode(0o600), "harmless"
		if base, ok := strings.CutSuffix(path, ".x"); ok && filepath.Base(path) != ".x" {
			path, mode = base, 0o755
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(m.at(path)), 0o755))
		if secret {
			content = canary
		} else {
			harmless = append(harmless, path)
		}
		require.NoError(t, os.WriteFile(m.at(path), []byte(content), mode))
	}
	return harmless
}

// TestSettingsAreNotShown plants a canary wherever a tool keeps settings, tokens or keys in the
// folder of an installation, for every row of the table and for what is not in it. The programs and
// libraries next to it are shown.
func TestSettingsAreNotShown(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/settings.txt")
	require.NoError(t, err)
	lists, rest, _ := strings.Cut(string(content), "\n\n")
	for line := range strings.Lines(lists) {
		if name, list, ok := strings.Cut(line, " = "); ok && name[0] == '$' {
			word := regexp.MustCompile(regexp.QuoteMeta(name) + `\b`)
			rest = word.ReplaceAllLiteralString(rest, strings.TrimSpace(list))
		}
	}
	tried := map[string]bool{}
	for block := range strings.SplitSeq(rest, "\n\n") {
		lines := strings.Split(strings.TrimSpace(block), "\n")
		head := strings.Fields(strings.ReplaceAll(lines[0], "~", "/home/me"))
		row, path, variables := strings.ReplaceAll(head[0], "_", " "), head[1], head[2:]
		tried[row] = true
		t.Run(row+strings.ReplaceAll(path, "/", "_"), func(t *testing.T) {
			t.Parallel()
			m := &machine{root: t.TempDir(), uid: os.Getuid()}
			var want []string
			for _, line := range lines[1:] {
				folder, files, _ := strings.Cut(strings.TrimSpace(line), ": ")
				kind, folder, _ := strings.Cut(folder, " ")
				want = append(want, m.install(t, folder, files, kind == "never")...)
			}
			if strings.Contains(path, "/current/") {
				require.NoError(t, os.Symlink("3", m.at(filepath.Dir(path))))
			}
			if row == "pipx and installers" {
				require.NoError(t, os.Symlink("../share/pipx/venvs/t/bin/python3", m.at(path+"/t")))
			}
			b := m.builder(&Input{Environ: append(variables, "PATH="+path), Workdir: Workdir{Path: "/work"}})
			b.home, b.visible = "/home/me", []string{"/usr", "/work"}
			require.Contains(t, b.toolchains(), path+":")
			files := b.shown(t)
			for path, content := range files {
				require.NotEqual(t, canary, content, path)
			}
			for _, path := range want {
				require.Contains(t, files, path)
			}
			require.Empty(t, b.Masked, "a rename takes a mask away")
		})
	}
	for _, row := range toolchain.Table {
		require.True(t, tried[row.Name], row.Name)
	}
}

// TestGoSettings: of what a Go distribution says of its settings, only what is harmless is shown.
func TestGoSettings(t *testing.T) {
	t.Parallel()
	m := &machine{root: t.TempDir(), uid: os.Getuid()}
	require.NoError(t, os.MkdirAll(m.at("/opt/go/bin"), 0o755))
	require.NoError(t, os.WriteFile(m.at("/opt/go/bin/go"), nil, 0o755))
	const harmless = "GOPROXY=https://proxy.test,direct\nGOSUMDB=sum.test\n"
	secrets := "GOPROXY=https://me:" + canary + "@proxy.test\nGOAUTH=" + canary + "\n"
	require.NoError(t, os.WriteFile(m.at("/opt/go/go.env"), []byte("# of Go\n"+harmless+secrets), 0o600))
	b := m.builder(&Input{Environ: []string{"PATH=/opt/go/bin"}, Workdir: Workdir{Path: "/work"}})
	b.home = "/home/me"
	b.toolchains()
	require.Equal(t, harmless, b.shown(t)["/opt/go/go.env"])
}

// TestJavasSettings: a conf folder is shown of Java runtimes only: others may have passwords there.
func TestJavasSettings(t *testing.T) {
	t.Parallel()
	for runtime, java := range map[string]bool{
		"lib/modules": true, "lib/rt.jar": true, "lib/x.jar": false, "conf/modules": false,
	} {
		files := []string{"opt/x/bin/x.x", "opt/x/conf/security/x", "opt/x/conf/settings.xml", "opt/x/release"}
		m := &machine{root: tree(t, append(files, "opt/x/"+runtime)...), uid: os.Getuid()}
		b := m.builder(&Input{Environ: []string{"PATH=/opt/x/bin"}, Workdir: Workdir{Path: "/work"}})
		b.home = "/home/me"
		b.toolchains()
		for path, shown := range map[string]bool{
			"/opt/x/conf": false, "/opt/x/conf/security": java, "/opt/x/conf/settings.xml": false,
			"/opt/x/release": java,
		} {
			require.Equal(t, shown, b.sees(path), "%s: %s", runtime, path)
		}
	}
}
