package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tree makes files (ending in x: executable), folders (ending in /) and links
// (a -> b) below a new folder.
func tree(t *testing.T, entries ...string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, e := range entries {
		name, target, link := strings.Cut(e, " -> ")
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case link:
			require.NoError(t, os.Symlink(strings.ReplaceAll(target, "ROOT", root), path))
		case strings.HasSuffix(e, "/"):
			require.NoError(t, os.MkdirAll(path, 0o755))
		case strings.HasSuffix(e, "x"):
			require.NoError(t, os.WriteFile(path, nil, 0o755))
		default:
			require.NoError(t, os.WriteFile(path, []byte("secret"), 0o600))
		}
	}
	return root
}

// newBuilder is one of this machine, with a home and a working directory below root.
func newBuilder(root, workdir string, environ ...string) *builder {
	b := (&machine{uid: os.Getuid()}).builder(&Input{Environ: environ, Workdir: Workdir{Path: workdir}})
	b.home, b.visible = filepath.Join(root, "home"), []string{"/usr", workdir}
	return b
}

func TestToolchains(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tree []string
		// path has ROOT, and env @, for the folder of the tree; its home is ROOT/home.
		path, env string
		// want are the paths seen and links made, without ROOT.
		want string
		// wantPath is what is left of path.
		wantPath string
	}{
		"pyenv": {
			tree: []string{"home/.pyenv/shims/", "home/.pyenv/versions/3.12/bin/python.x", "home/.pyenv/versions/3.12/pip.conf", "home/.pyenv/.git/config", "home/.pyenv/version"},
			path: "ROOT/home/.pyenv/shims", want: "see /home/.pyenv/shims,see /home/.pyenv/versions/3.12/bin,see /home/.pyenv/version", wantPath: "/home/.pyenv/shims",
		},
		"pyenv elsewhere": {
			tree: []string{"home/", "srv/pyenv/shims/", "srv/pyenv/versions/3/lib/", "srv/secret"},
			path: "ROOT/srv/pyenv/shims", env: "PYENV_ROOT=@/srv/pyenv", want: "see /srv/pyenv/shims,see /srv/pyenv/versions/3", wantPath: "/srv/pyenv/shims",
		},
		"nvm shows the version in use": {
			tree: []string{"home/.nvm/versions/node/v20/bin/node.x", "home/.nvm/versions/node/v18/bin/", "home/.nvm/.npmrc", "home/.nvm/versions/node/v20/etc/npmrc"},
			path: "ROOT/home/.nvm/versions/node/v20/bin", want: "see /home/.nvm/versions/node/v20/bin",
			wantPath: "/home/.nvm/versions/node/v20/bin",
		},
		"a folder that looks like a pattern": {
			tree: []string{"home/", "srv/a[b]*/nvm/versions/node/v20/bin/node.x", "srv/a[b]*/nvm/versions/node/v20/etc/npmrc"},
			path: "ROOT/srv/a[b]*/nvm/versions/node/v20/bin", env: "NVM_DIR=@/srv/a[b]*/nvm",
			want: "see /srv/a[b]*/nvm/versions/node/v20/bin", wantPath: "/srv/a[b]*/nvm/versions/node/v20/bin",
		},
		"fnm is a link": {
			tree: []string{"home/.local/state/fnm/1 -> ROOT/home/.local/share/fnm/node-versions/v20/installation", "home/.local/share/fnm/node-versions/v20/installation/bin/"},
			path: "ROOT/home/.local/state/fnm/1/bin", want: "see /home/.local/share/fnm/node-versions/v20/installation/bin,link /home/.local/state/fnm/1", wantPath: "/home/.local/state/fnm/1/bin",
		},
		"cargo": {
			tree: []string{"home/.cargo/bin/", "home/.cargo/credentials.toml", "home/.cargo/config.toml", "home/.rustup/toolchains/x/lib/", "home/.rustup/toolchains/x/.git/config", "home/.rustup/settings.toml"},
			path: "ROOT/home/.cargo/bin", want: "see /home/.cargo/bin,see /home/.rustup/toolchains/x/lib,see /home/.rustup/settings.toml", wantPath: "/home/.cargo/bin",
		},
		"go": {
			tree: []string{"home/go/bin/", "home/go/pkg/mod/private.test/", "home/sdk/go1.26/bin/", "home/sdk/go1.25/bin/"},
			path: "ROOT/home/sdk/go1.26/bin", want: "see /home/sdk/go1.26/bin", wantPath: "/home/sdk/go1.26/bin",
		},
		"go programs": {
			tree: []string{"home/go/bin/", "home/go/pkg/mod/private.test/"},
			path: "ROOT/home/go/bin", want: "see /home/go/bin", wantPath: "/home/go/bin",
		},
		"links of .local/bin": {
			tree: []string{
				"home/.local/bin/tool -> ../share/pipx/venvs/tool/bin/tool.x", "home/.local/share/pipx/venvs/tool/bin/tool.x", "home/.local/share/pipx/venvs/tool/pyvenv.cfg",
				"home/.local/bin/one -> ROOT/home/apps/one.x", "home/apps/one.x", "home/apps/beside",
				"home/.local/bin/key -> ROOT/home/.ssh/id", "home/.ssh/id", "home/.local/bin/evil -> ROOT/home/.ssh/run.x", "home/.ssh/run.x",
				"home/.local/bin/cli -> ROOT/opt/n/node_modules/cli/cli.x", "opt/n/node_modules/cli/cli.x",
				"opt/n/node_modules/cli/index", "opt/n/secret",
				"home/.local/bin/dir -> ROOT/home", "home/.local/bin/notes -> ROOT/home/notes", "home/notes", "home/.local/bin/gone -> ROOT/none",
			},
			path: "ROOT/home/.local/bin", want: "see /home/.local/bin,see /opt/n/node_modules,see /home/apps/one.x,see /home/.local/share/pipx/venvs/tool/bin,see /home/.local/share/pipx/venvs/tool/pyvenv.cfg", wantPath: "/home/.local/bin",
		},
		"unknown below home": {
			tree: []string{"home/stuff/tools/run.x", "home/stuff/secret", "home/stuff/lib/run.x"},
			path: "ROOT/home/stuff/tools", want: "see /home/stuff/tools", wantPath: "/home/stuff/tools",
		},
		"a folder with settings among the programs": {
			tree: []string{
				"home/tools/run.x", "home/tools/.git/config", "home/tools/token", "home/tools/lib.sh",
				"home/tools/link -> run.x", "home/tools/.npmrc -> token",
			},
			path: "ROOT/home/tools", wantPath: "/home/tools",
			want: "see /home/tools/run.x,see /home/tools/lib.sh,link /home/tools/link",
		},
		"a folder without programs": {
			tree: []string{"home/tools/token"},
			path: "ROOT/home/tools", want: "", wantPath: "",
		},
		"elsewhere with siblings": {
			tree: []string{"home/", "opt/jdk/bin/", "opt/jdk/lib/", "opt/jdk/.env", "opt/jdk/secrets/"},
			path: "ROOT/opt/jdk/bin", want: "see /opt/jdk/bin,see /opt/jdk/lib", wantPath: "/opt/jdk/bin",
		},
		"virtual environment elsewhere": {
			tree: []string{"home/", "opt/venv/bin/", "opt/venv/lib/", "opt/venv/pyvenv.cfg", "opt/venv/pip.conf"},
			path: "ROOT/opt/venv/bin", want: "see /opt/venv/bin,see /opt/venv/lib,see /opt/venv/pyvenv.cfg", wantPath: "/opt/venv/bin",
		},
		"virtual environment in the working directory": {
			tree: []string{"home/", "work/venv/bin/", "work/venv/pyvenv.cfg"},
			path: "ROOT/work/venv/bin", want: "", wantPath: "/work/venv/bin",
		},
		"traps": {
			tree: []string{
				"home/.ssh/bin/", "home/.aws/", "state/bin/", "file", "home/link -> ROOT/home/.ssh", "home/up -> ROOT/home", "home/loop -> loop", "home/.config/gh/",
			},
			path: ":.:bin:ROOT/home:ROOT/home/:ROOT:/:ROOT/home/.ssh:ROOT/home/.ssh/bin:ROOT/home/.aws:ROOT/state:ROOT/state/bin:ROOT/file:ROOT/none:ROOT/home/link:ROOT/home/up:ROOT/home/loop:/etc:/proc:ROOT/home/.config:/root/..",
			want: "", wantPath: "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := tree(t, c.tree...)
			b := newBuilder(root, filepath.Join(root, "work"), "PATH="+strings.ReplaceAll(c.path, "ROOT", root), strings.ReplaceAll(c.env, "@", root))
			b.private = []string{filepath.Join(root, "state")}
			path := b.toolchains()
			var got []string
			for _, m := range b.Mounts {
				switch m.Kind {
				case Symlink:
					got = append(got, "link "+m.Target)
				default:
					require.Equal(t, Mount{Kind: Bind, Source: m.Target, Target: m.Target}, m)
					got = append(got, "see "+m.Target)
				}
			}
			require.Empty(t, b.Masked)
			want := strings.FieldsFunc(c.want, func(r rune) bool { return r == ',' })
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], root, "")
			}
			slices.Sort(got)
			slices.Sort(want)
			require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty()))
			path = strings.TrimPrefix(strings.TrimSuffix(strings.ReplaceAll(path, root, ""), "/usr/local/bin:/usr/bin:/bin"), ":")
			require.Equal(t, c.wantPath, strings.TrimSuffix(path, ":"))
		})
	}
}

// TestLargeFolders: a folder of many programs is shown whole, or not at all: a mount for each of its
// files would take seconds.
func TestLargeFolders(t *testing.T) {
	t.Parallel()
	var programs []string
	var below []string
	for i := range maxBelow + 1 {
		below = append(below, fmt.Sprintf("opt/d/bin/sub/%d.x", i))
	}
	for i := range maxOneByOne {
		below = append(below, fmt.Sprintf("opt/d/bin/%d.x", i))
		programs = append(programs, fmt.Sprintf("opt/c/bin/%d.x", i))
	}
	for extra, want := range map[string]bool{
		"a.x": true, "notes": true, ".a-post-link.sh": true, ".env": false, "my.key": false, ".git/config": false,
	} {
		root := tree(t, append(programs, "opt/c/bin/"+extra, "opt/c/lib/x")...)
		b := newBuilder(root, filepath.Join(root, "work"), "PATH="+root+"/opt/c/bin")
		b.toolchains()
		require.Equal(t, want, b.sees(filepath.Join(root, "opt/c/bin")), extra)
		require.LessOrEqual(t, len(b.Mounts), 2, extra)
	}
	// Nor is a folder shown that nobody has looked at.
	root := tree(t, append(below, "home/.local/share/pnpm/store/key", "opt/d/bin/x.x")...)
	for i := range maxOneByOne + 1 {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/home/.local/share/pnpm/%d", root, i), nil, 0o700))
	}
	b := newBuilder(root, filepath.Join(root, "work"), "PATH="+root+"/opt/d/bin:"+root+"/home/.local/share/pnpm")
	b.toolchains()
	require.Empty(t, b.Mounts)
}

// What an agent wrote does not choose what of the host the next one sees: a link in the place of a
// folder of PATH.
func TestPathThroughAnAgentsFolder(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/", "secrets/key", "srv/tool/bin/run.x", "work/.venv/bin -> ROOT/secrets", "agent/bin -> ROOT/secrets", "srv/bin/one -> ROOT/agent/one", "agent/one -> ROOT/srv/other/run.x", "srv/other/run.x",
		"home/.local/bin/one -> ROOT/agent/one", "agent/tools/bin/", "agent/tools/lib -> ROOT/secrets", "agent/pyenv -> ROOT/secrets", "secrets/bin/")
	b := newBuilder(root, filepath.Join(root, "work"),
		"PATH="+strings.ReplaceAll("ROOT/work/.venv/bin:ROOT/agent/bin:ROOT/agent/tools/bin:ROOT/srv/tool/bin:ROOT/home/.local/bin", "ROOT", root), "PYENV_ROOT="+root+"/agent/pyenv")
	b.in.Trusted = func(path string) bool {
		return !within(path, filepath.Join(root, "work")) && !within(path, filepath.Join(root, "agent")) && path != filepath.Join(root, "home/.local/bin/one")
	}
	path := b.toolchains()
	require.Equal(t, []string{"/usr", root + "/work", root + "/srv/tool/bin", root + "/home/.local/bin"}, b.visible)
	for _, dir := range []string{"/work/.venv/bin", "/agent/bin", "/agent/tools/bin"} {
		require.Contains(t, b.Omitted, Omission{"PATH: " + root + dir, "an agent can write on the way to it"})
	}
	require.Equal(t, root+"/srv/tool/bin:"+root+"/home/.local/bin:/usr/local/bin:/usr/bin:/bin", path)
}

// What is read of an agent's virtual environment neither waits nor is without end.
func TestHostileVirtualEnvironment(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path string) error{
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"large":  func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) },
	} {
		root := tree(t, "work/venv/bin/", "home/")
		require.NoError(t, plant(filepath.Join(root, "work/venv/pyvenv.cfg")), name)
		b := newBuilder(root, filepath.Join(root, "work"))
		watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		require.NoError(t, err)
		_, err = unix.InotifyAddWatch(watch, filepath.Join(root, "work/venv/pyvenv.cfg"), unix.IN_OPEN)
		require.NoError(t, err)
		b.interpreter(filepath.Join(root, "work/venv/bin"))
		require.Len(t, b.visible, 2, name)
		if name != "large" && name != "device" { // everybody opens /dev/zero
			_, err = unix.Read(watch, make([]byte, 1024))
			require.ErrorIs(t, err, unix.EAGAIN, "opening a %s may have an effect", name)
		}
		unix.Close(watch)
	}
}

// An agent's virtual environment chooses among the operator's Pythons, and not what else is shown.
func TestVirtualEnvironmentOfAnything(t *testing.T) {
	t.Parallel()
	root := tree(t, "work/venv/bin/", "home/bin/canary", "home/lib/python3.9/os.py", "home/project/bin/canary", "home/project/lib/canary", "home/project/lib/python3.9/os.py",
		"home/.ssh/bin/canary", "home/.ssh/lib/python3.9/os.py", "srv/linked/bin/canary", "srv/linked/lib/python3.9/os.py -> ROOT/srv/python/lib/python3.9/os.py",
		"srv/venv/bin/canary", "srv/venv/lib/python3.9/os.py", "srv/venv/pyvenv.cfg", "srv/shared/bin/canary", "srv/shared/lib/python3.9/os.py", "srv/data/bin/canary", "srv/data/lib/",
		"srv/python/bin/python3.x", "srv/python/lib/python3.9/os.py", "home/.pyenv/versions/3.9/bin/python3.x", "home/.pyenv/versions/3.9/lib/python3.9/os.py", "home/.pyenv/versions/3.9/pip.conf",
		"home/.local/share/uv/python/cpython-3.9/bin/python3.x", "home/.local/share/uv/python/cpython-3.9/lib/python3.9/os.py", "work/link -> ROOT/home/project")
	require.NoError(t, os.Chmod(filepath.Join(root, "srv/shared/lib"), 0o777))
	for home, want := range map[string]bool{
		"home/bin": false, "home/project/bin": false, "home/.ssh/bin": false, "work/link/bin": false,
		"srv/linked/bin": false, "srv/venv/bin": false, "srv/shared/bin": false, "srv/data/bin": false,
		"srv/python/bin": true, "home/.pyenv/versions/3.9/bin": true, "home/.local/share/uv/python/cpython-3.9/bin": true,
	} {
		home = filepath.Join(root, home)
		require.NoError(t, os.WriteFile(filepath.Join(root, "work/venv/pyvenv.cfg"), []byte("home = "+home+"\n"), 0o600))
		b := newBuilder(root, filepath.Join(root, "work"))
		b.interpreter(filepath.Join(root, "work/venv/bin"))
		seen := []string{"/usr", filepath.Join(root, "work")}
		if want {
			seen = append(seen, home, filepath.Join(filepath.Dir(home), "lib"))
		}
		require.Equal(t, seen, b.visible, home)
	}
}

// Under sudo PATH may lead to another user's home.
func TestOtherHomesHaveNoSiblings(t *testing.T) {
	t.Parallel()
	b := &builder{home: "/home/me"}
	for path, want := range map[string]bool{
		"/opt/jdk/bin": true, "/srv/tools/x/sbin": true, "/opt/bin": false, "/opt/jdk/lib": false,
		"/home/me/x/bin": false, "/home/you/go/bin": false, "/root/go/bin": false,
	} {
		require.Equal(t, want, b.hasSiblings(path), path)
	}
}

func TestHostname(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"demo": "demo", "My_Agent": "my-agent", "az09": "az09", "a!b.c:d{e`f": "a-b-c-d-e-f", "": "agent", "--": "agent", "é": "agent", strings.Repeat("a", 80): strings.Repeat("a", 63)} {
		require.Equal(t, want, hostname(in))
	}
}

// Who the working folder is, is not asked of what a link leads to.
func TestIdentityFollowsNoLink(t *testing.T) {
	t.Parallel()
	root := tree(t, "real/sub/", "link -> ROOT/real")
	_, _, err := new(machine).identity(filepath.Join(root, "real/sub"))
	require.NoError(t, err)
	for _, path := range []string{"link", "link/sub"} {
		_, _, err := new(machine).identity(filepath.Join(root, path))
		require.ErrorIs(t, err, unix.ELOOP, path)
	}
}

// TestProgramIsOfThisMachine: an agent's program of that name is passed over, in its working
// directory and behind a link of its own, wherever its folder is on PATH.
func TestProgramIsOfThisMachine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tree       []string
		path, want string
	}{
		"npm's prefix": {
			tree: []string{
				"home/.npm-global/bin/claude -> ../lib/node_modules/cli.x", "home/.npm-global/lib/node_modules/cli.x",
			},
			path: "ROOT/home/.npm-global/bin", want: "/home/.npm-global/bin/claude",
		},
		"the native installer": {
			tree: []string{
				"home/.local/bin/claude -> ../share/claude/versions/2x", "home/.local/share/claude/versions/2x",
			},
			path: "ROOT/home/.local/bin", want: "/home/.local/bin/claude",
		},
		"the agent's own is first": {
			tree: []string{
				"work/bin/claude -> x", "work/bin/x", "home/.local/bin/claude -> ../share/claude/versions/2x",
				"home/.local/share/claude/versions/2x",
			},
			path: "ROOT/work/bin:ROOT/home/.local/bin", want: "/home/.local/bin/claude",
		},
		"only the agent's own": {
			tree: []string{"home/", "work/bin/claude -> x", "work/bin/x"}, path: "ROOT/work/bin",
		},
		"a link of the agent's": {tree: []string{"home/", "work/bin -> /usr/bin"}, path: "ROOT/work/bin"},
		"a link into the agent's": {
			tree: []string{"home/.local/bin/claude -> ROOT/work/claude.x", "work/claude.x"},
			path: "ROOT/home/.local/bin",
		},
		"a folder that is not shown": {
			tree: []string{"home/.ssh/claude -> claude.x", "home/.ssh/claude.x"}, path: "ROOT/home/.ssh",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := tree(t, append(c.tree, "work/")...)
			work := filepath.Join(root, "work")
			b := newBuilder(root, work, "PATH="+strings.ReplaceAll(c.path, "ROOT", root))
			b.in.Program = "claude"
			b.in.Trusted = func(path string) bool { return !within(path, work) }
			require.Equal(t, c.want, strings.TrimPrefix(b.program(b.toolchains()), root))
		})
	}
}
