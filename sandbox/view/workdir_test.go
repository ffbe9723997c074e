package view

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHomesOf: a service's home is not somebody's, unless somebody may log in.
func TestHomesOf(t *testing.T) {
	t.Parallel()
	const passwd = `root:x:0:0:root:/root:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sync:x:4:65534:sync:/sync:/bin/sync
games:x:5:60:games:/usr/games:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash
odd:x:102:1::/odd:/opt/shell
none:x:103:1::/none:
short:x:104:1::/short
false:x:999:1::/false:/bin/false
ann:x:1000:1000::/home/ann:/bin/bash
bob:x:1001:1001::/people/bob:/usr/sbin/nologin
no number:x:y:1::/y:/bin/false
torn:x:1
relative:x:1002:1::home:/bin/sh
`
	const defs = "#UID_MIN 1\nUID_MIN\t\t\t 1000\nUID_MAX 60000\n"
	people, services := homesOf(passwd, defs, "# shells\n/bin/sh\n/bin/bash\n")
	require.Equal(t, []string{
		"/root", "/var/lib/postgresql", "/odd", "/none", "/short", "/home/ann", "/people/bob", "/y",
	}, people)
	require.Equal(t, []string{"/bin", "/sync", "/usr/games", "/var/www", "/false"}, services)
	for _, c := range []struct{ account, defs, shells string }{
		{"low:x:500:1::/p:/bin/false\n", "UID_MIN 500\n", ""},           // people have lower numbers here
		{"high:x:1500:1::/p:/bin/false\n", "UID_MIN 5000\n", ""},        // and elsewhere
		{"high:x:1500:1::/p:/bin/false\n", "", ""},                      // nothing is known
		{"sync:x:4:1::/p:/bin/sync\n", "UID_MIN 1000\n", "/bin/sync\n"}, // it lets people in here
	} {
		people, services := homesOf(c.account, c.defs, c.shells)
		require.Equal(t, []string{"/p"}, people, "%+v", c)
		require.Empty(t, services, "%+v", c)
	}
}

// TestWhyNotUsr: a folder of the system is refused for what it is, not as the home of a service.
func TestWhyNotUsr(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/usr", "/usr/sbin", "/var/cache"} {
		_, err := look(dir, "/nonexistent")
		require.Error(t, err, dir)
		require.NotContains(t, err.Error(), "somebody's home", dir)
		require.NotContains(t, err.Error(), "for secrets", dir)
	}
}

// TestNoProgramsAreAWorkdir: what an agent writes must not be what people, or their Go tool, run next.
func TestNoProgramsAreAWorkdir(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/usr/local", "/usr/share", "/usr/libexec", "/usr/include", "/var/lib/dpkg", "/var/backups"} {
		_, err := look(dir, "/nonexistent")
		require.Error(t, err, dir)
	}
	home := tree(t, "go/pkg/mod/x/", "go/src/app/", ".cache/go-build/", ".cargo/bin/", ".local/share/app/", "src/bin/")
	for dir, refused := range map[string]bool{
		"go": true, "go/pkg": true, "go/pkg/mod/x": true, ".cache": true, ".cache/go-build": true, ".cargo/bin": true,
		"go/src/app": false, ".local/share/app": false, "src/bin": false, "src": false,
	} {
		_, err := look(filepath.Join(home, dir), home)
		require.Equal(t, refused, err != nil, "%s: %v", dir, err)
		if refused {
			require.ErrorContains(t, err, "from which the owner's programs are run or compiled")
		}
	}
	for dir, refused := range map[string]bool{".npm": true, ".m2/x": true, "sdk/go1.99": false, "src/new": false} {
		require.Equal(t, refused, Judge(filepath.Join(home, dir), []string{"HOME=" + home}, nil) != nil, dir)
	}
}

// TestDotfilesAreNoWorkdir: nor the folder into which the links of a person's settings lead.
func TestDotfilesAreNoWorkdir(t *testing.T) {
	t.Parallel()
	home := tree(t, "home/.config/nvim/", "home/.ssh/", "home/bin/", "home/dotfiles/git/", "home/later/",
		"home/nvim/", "home/work/", "home/tool/", "home/.gitconfig -> dotfiles/git/config",
		"home/.bash_aliases -> later/none/yet", "home/.config/nvim/init.lua -> ../../nvim/init.lua",
		"home/bin/tool -> ../tool/run", "home/project -> work",
		"home/kept/zed/", "home/.config/zed -> ../kept/zed", "home/kept/zed/keys -> ../keys/file",
		"home/kept/keys/") + "/home"
	for dir, link := range map[string]string{
		"dotfiles": ".gitconfig", "dotfiles/git": ".gitconfig", "later": ".bash_aliases",
		"nvim": ".config/nvim/init.lua", "tool": "", "work": "", "kept/keys": ".config/zed/keys",
	} {
		_, err := look(filepath.Join(home, dir), home)
		if link == "" {
			require.NoError(t, err, dir)
			continue
		}
		require.ErrorContains(t, err, filepath.Join(home, link)+" leads into it", dir)
	}
}

// TestNoPlaceOfAVariableIsAWorkdir: nor what a variable or a tool's settings say, wherever it is.
// The refusal names what says so.
func TestNoPlaceOfAVariableIsAWorkdir(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/.config/go/", "home/.cargo/", "home/.m2/", "srv/app/sub/", "srv/gomod/x/",
		"srv/link -> gomod", "srv/path/src/app/", "srv/path/bin/", "srv/npm/", "srv/cargo/", "srv/m2/", "srv/uv/", "srv/jdk/bin/",
		"srv/o/go/", "srv/o/npm/", "srv/never/", "srv/tmp/own/", "srv/template/")
	home := filepath.Join(root, "home")
	for name, content := range map[string]string{
		".config/go/env":     "GOMODCACHE=ROOT/srv/link/x\nGOPATH=ROOT/srv/path\n",
		".npmrc":             "//registry.test/:_authToken=x\nprefix = \"${HOME}/../srv/npm\"\n",
		".cargo/config.toml": "[build]\ntarget-dir = \"ROOT/srv/cargo\"\n",
		".m2/settings.xml":   `<settings xmlns="x"><localRepository>ROOT/srv/m2</localRepository></settings>`,
	} {
		content = strings.ReplaceAll(content, "ROOT", root)
		require.NoError(t, os.WriteFile(filepath.Join(home, name), []byte(content), 0o600))
	}
	for dir, want := range map[string]string{
		"srv/gomod/x": "(GOMODCACHE in ROOT/home/.config/go/env)", "srv/gomod": "(GOMODCACHE in ",
		"srv/path":     "(GOPATH in ",
		"srv/path/bin": "(GOPATH in ", "srv/path/src/app": "", "srv/npm": "(prefix in ROOT/home/.npmrc)",
		"srv/cargo": "(target-dir in ROOT/home/.cargo/config.toml)",
		"srv/m2":    "(localRepository in ROOT/home/.m2/settings.xml)",
		"srv/uv":    "(UV_CACHE_DIR)", "srv/jdk/bin": "(JAVA_HOME)", "srv/jdk": "(JAVA_HOME)",
		"srv/o/npm": "(NPM_CONFIG_CACHE)", "srv/tmp": "(TMPDIR)", "srv/tmp/own": "", "srv/template": "(GIT_TEMPLATE_DIR)",
		"srv/o/go": "(GOBIN)", "srv/app": "", "srv/app/sub": "", "srv/never": "(GOCACHE)",
	} {
		_, err := Look(filepath.Join(root, dir), []string{
			"HOME=" + home, "UV_CACHE_DIR=" + root + "/srv/uv", "JAVA_HOME=" + root + "/srv/jdk",
			"NPM_CONFIG_CACHE=" + root + "/srv/o/npm", "GOBIN=" + root + "/srv/o/go/bin",
			"GOCACHE=" + root + "/srv/never/yet", "TMPDIR=" + root + "/srv/tmp",
			"GIT_TEMPLATE_DIR=" + root + "/srv/template",
			"PYTHONPATH=.", "VIRTUAL_ENV=" + root + "/srv/app/venv", "PROJECT=" + root + "/srv/app",
		}, nil)
		if want == "" {
			require.NoError(t, err, dir)
			continue
		}
		require.ErrorContains(t, err, "from which the owner's programs are run or compiled", dir)
		require.ErrorContains(t, err, strings.ReplaceAll(want, "ROOT", root), dir)
	}
}

// TestNoCommandIsInAWorkdir: nor what a command line of the person's names, in variables and in
// settings of git and ssh.
func TestNoCommandIsInAWorkdir(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/.ssh/", "home/.config/git/", "home/xdg/git/", "home/one/two/", "home/safe/",
		"home/.claude/", "home/.codex/", "home/.cargo/", "home/link -> one/two/out")
	home := filepath.Join(root, "home")
	one := filepath.Join(home, "one")
	for _, c := range []struct{ file, content, refused string }{
		{".gitconfig", "[core]\n\tautocrlf = input\n\thooksPath = ~/one/hooks\n", "core.hooksPath in "},
		{".gitconfig", "[core] hooksPath = \"~/one/my hooks\" \n", "core.hooksPath in "},
		{".gitconfig", "[CORE]\nhookspath=~/one\n", "CORE.hookspath in "},
		{".gitconfig", "[core]\n\tfsmonitor = HOME/one/two/x\n", "core.fsmonitor in "},
		{".gitconfig", "[core]\n\tsshCommand = ssh -F HOME/one/ssh_config\n", "core.sshCommand in "},
		{".gitconfig", "[core]\n\tsshCommand = ssh \\\n -F HOME/one/ssh_config\n", "core.sshCommand in "},
		{
			".gitconfig", "[credential \"https://x.test/[a]\"]\n\thelper = \"!f() { HOME/one/get; }; f\"\n",
			"credential.helper in ",
		},
		{".gitconfig", "[alias]\n\tx = !sh -c 'cd / && HOME/one/run'\n", "alias.x in "},
		{".gitconfig", "[filter \"lfs\"]\n\tprocess = env A=HOME/one/lfs\n", "filter.process in "},
		{".gitconfig", "[include]\n\tpath = one/settings\n", "include.path in "},
		{".gitconfig", "[includeIf \"gitdir:~/x/\"]\n\tpath = safe/settings\n", "core.hooksPath in HOME/safe/settings"},
		{".gitconfig", "[gpg]\n\tprogram = HOME/link\n", "gpg.program in "},
		{".config/git/config", "[diff]\n\texternal = HOME/one/diff\n", "diff.external in "},
		{"xdg/git/config", "[diff]\n\texternal = HOME/one/diff\n", "diff.external in "},
		{".ssh/config", "Host x\n  ProxyCommand HOME/one/connect %h\n", "ProxyCommand in "},
		{".ssh/config", "# HOME/one\nHost x\n", ""},
		{".gitconfig", "# ~/one\n[safe]\n\tdirectory = ~/one\n[maintenance]\n\trepo = HOME/one\n", ""},
		{".gitconfig", "[url \"HOME/one\"]\n\tinsteadOf = /one\n[alias]\n\tx = !find / -name x\n", ""},
		{".gitconfig", "[include]\n\tpath = .gitconfig\n", ""},
		{".vimrc", "source ~/one/x.vim\n", "HOME/.vimrc"},
		{
			".claude/settings.json", `{"hooks":{"Stop":[{"hooks":[{"command":"HOME/one/hook.sh"}]}]}}`,
			"HOME/.claude/settings.json",
		},
		{".codex/config.toml", "notify = [\"python3\", \"HOME/one/n.py\"]\n", "HOME/.codex/config.toml"},
		{".codex/config.toml", "[projects.\"HOME/one\"]\ntrust_level = \"trusted\"\n", ""},
		{".tmux.conf", "source-file ~/one/x\n", "HOME/.tmux.conf"},
		{".tmux.conf", "set -g default-path ~/one\n", ""},
		{".vimrc", "set rtp+=~/one\n", "HOME/.vimrc"},
		{".hgrc", "[extensions]\nx = HOME/one\n", "HOME/.hgrc"},
		{".claude/settings.json", `{"permissions":{"allow":["Read(HOME/one/**)"]}}`, ""},
		{
			".claude/settings.json",
			`{"permissions":{"allow":["Bash(HOME/one/x:*)"]},"hooks":{"Stop":[{"matcher":"*","command":"HOME/one/hook.sh"}]}}`,
			"HOME/.claude/settings.json",
		},
		{".vimrc", "autocmd BufRead *.py source ~/one/py.vim\n", "HOME/.vimrc"},
		{".direnvrc", "for f in ~/one/*.sh; do . $f; done\n", "HOME/.direnvrc"},
		{".npmrc", "script-shell=HOME/one/sh\n", "HOME/.npmrc"},
		{".cargo/config.toml", "[target.x]\nlinker = 'HOME/one/ld'\n", "HOME/.cargo/config.toml"},
	} {
		path := filepath.Join(home, c.file)
		settings := filepath.Join(home, "safe/settings")
		require.NoError(t, os.WriteFile(settings, []byte("[core]\n\thooksPath = "+one+"/hooks\n"), 0o600))
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(c.content, "HOME", home)), 0o600))
		_, err := Look(one, []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home + "/xdg"}, nil)
		require.NoError(t, os.Remove(path))
		if c.refused == "" {
			require.NoError(t, err, c.content)
			continue
		}
		require.ErrorContains(t, err, "from which the owner's programs are run or compiled", c.content)
		require.ErrorContains(t, err, "("+strings.ReplaceAll(c.refused, "HOME", home), c.content)
	}
	for _, set := range []string{
		"EDITOR=HOME/one/edit -w", "GIT_SSH_COMMAND=ssh -F HOME/one/x", "NODE_OPTIONS=--require=HOME/one/x.js",
		"PAGER=HOME/link", "RUBYOPT=-rHOME/one/x", "PERL5OPT=-w -IHOME/one/lib", "MAKEFLAGS=-k -IHOME/one/mk",
		"RUBYOPT=-r~/one/x",
	} {
		_, err := Look(one, []string{"HOME=" + home, strings.ReplaceAll(set, "HOME", home)}, nil)
		name, _, _ := strings.Cut(set, "=")
		require.ErrorContains(t, err, "("+name+")")
	}
	_, err := Look(one, []string{
		"HOME=" + home, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=core.hooksPath", "GIT_CONFIG_VALUE_0=" + one,
		"EDITOR=vi -w",
	}, nil)
	require.ErrorContains(t, err, "(GIT_CONFIG_VALUE_0)")
}

func TestNobodysHomeIsAWorkdir(t *testing.T) {
	t.Parallel()
	people, _ := new(machine).homes()
	require.NotEmpty(t, people)
	for _, home := range people {
		for dir := home; dir != "/"; dir = filepath.Dir(dir) {
			_, err := look(dir, "/nonexistent")
			require.Error(t, err, dir)
		}
	}
	project := t.TempDir()
	for _, name := range []string{".ssh/x", "project"} {
		require.NoError(t, os.MkdirAll(filepath.Join(project, name), 0o755))
	}
	_, err := look(filepath.Join(project, "project"), project)
	require.NoError(t, err)
	for dir, want := range map[string]bool{"/proc": true, "/dev/pts": true, "/usr/share": false, project: false} {
		whole, _, err := new(machine).mounts(dir)
		require.NoError(t, err)
		require.Equal(t, want, whole, dir)
	}
}
