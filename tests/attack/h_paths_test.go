package attack

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// clients are the programs that commands of ours start on the host by their names.
var clients = []string{"bwrap", "python3", "python", "npm", "node", "go", "git", "envoy", "pulumi", "sh", "env"}

// hostPaths are planted programs, and files that the host trusts in a folder where an agent may write.
var hostPaths = []HostCase{
	{"H1", "programs planted in the active venv of the agent's folder (W1)", func(l *laptop) {
		for _, name := range clients {
			l.plant("work/.venv/bin/" + name)
		}
		l.runs(nil, "true") // the folder is the agent's
		venv := []string{"PATH=" + filepath.Join(l.work, ".venv/bin") + ":" + os.Getenv("PATH"), "VIRTUAL_ENV=" + filepath.Join(l.work, ".venv")}
		l.runs(venv, "true")
		for _, client := range []string{"pip", "npm", "go"} {
			out, status := l.does(venv, "allow", "--client", client, "--agent", "demo", "--dry-run")
			require.Zero(l, status, out)
			require.Contains(l, out, "demo may", client)
		}
	}},
	{"H2", "programs planted where a relative PATH leads (W1)", func(l *laptop) {
		for _, name := range clients {
			l.plant("work/" + name)
			l.plant("work/bin/" + name)
		}
		l.runs(nil, "true")
		for _, path := range []string{".", "bin", "./bin", "", "..//work/bin"} {
			variables := []string{"PATH=" + path + ":" + os.Getenv("PATH")}
			l.runs(variables, "true")
			_, _ = l.does(variables, "allow", "--client", "go", "--agent", "demo", "--dry-run")
		}
	}},
	{"H3", "programs planted behind a link from a folder of the user's (W1)", func(l *laptop) {
		for _, name := range clients {
			l.plant("work/tools/" + name)
			require.NoError(l, os.MkdirAll(l.path("user/bin"), 0o700))
			require.NoError(l, os.Symlink(filepath.Join(l.work, "tools", name), filepath.Join(l.path("user/bin"), name)))
		}
		require.NoError(l, os.Symlink(filepath.Join(l.work, "tools"), l.path("user/tools")))
		l.runs(nil, "true")
		for _, dir := range []string{"user/bin", "user/tools"} {
			variables := []string{"PATH=" + l.path(dir) + ":" + os.Getenv("PATH")}
			l.runs(variables, "true")
			for _, client := range []string{"pip", "npm", "go"} {
				_, _ = l.does(variables, "allow", "--client", client, "--agent", "demo", "--dry-run")
			}
		}
	}},
	{"H4", "modules and settings that variables make a client load (W1)", func(l *laptop) {
		for _, name := range []string{"sitecustomize", "pip", "json", "usercustomize"} {
			l.write("work/"+name+".py", "open("+fmt.Sprintf("%q", l.path("canary"))+", 'a').write('loaded')\n")
		}
		l.write("work/x.js", "require('fs').appendFileSync("+fmt.Sprintf("%q", l.path("canary"))+", 'loaded')\n")
		l.write("work/npmrc", "registry=https://evil.test/\n")
		l.write("work/env", "GOPROXY=https://evil.test\n")
		l.write("work/pip.conf", "[global]\nindex-url = https://evil.test/simple\n")
		for _, client := range []string{"pip", "npm", "go"} {
			out, status := l.does([]string{
				"PYTHONPATH=" + l.work, "PYTHONSTARTUP=" + l.work + "/pip.py", "PYTHONHOME=", "NODE_OPTIONS=--require=" + l.work + "/x.js", "NODE_PATH=" + l.work,
				"npm_config_userconfig=" + l.work + "/npmrc", "NPM_CONFIG_GLOBALCONFIG=" + l.work + "/npmrc", "GOENV=" + l.work + "/env", "PIP_CONFIG_FILE=" + l.work + "/pip.conf",
				"BASH_ENV=" + l.work + "/pip.py", "ENV=" + l.work + "/pip.py",
			}, "allow", "--client", client, "--agent", "demo", "--dry-run")
			require.Zero(l, status, out)
			require.Contains(l, out, "demo may", client)
			require.NotContains(l, out, "evil.test", client)
		}
	}},
	{"H5", "a secret in the agent's folder, whose parent the agent renames (W3)", func(l *laptop) {
		l.credential("file://" + l.write("work/keys/key", canary))
		l.refused(nil, "the secret of credential key: /work/keys/key is in /work, where an agent may write", "install -D -m 6", " /work/keys/key ", "rm /work/keys/key")
		require.NoError(l, os.Rename(l.path("work/keys"), l.path("work/.old")))
		require.NoError(l, os.Mkdir(l.path("work/keys"), 0o700))
		l.refused(nil, "/work/keys/key is in /work")
	}},
	{"H6", "a secret outside, reached through the agent's folder, and the other way round (W3)", func(l *laptop) {
		real := l.write("keys/key", canary)
		require.NoError(l, os.Symlink(filepath.Dir(real), l.path("work/keys")))
		l.credential("file://" + l.path("work/keys/key"))
		l.refused(nil, "/work/keys/key is in /work, where an agent may write")
		l.write("work/real", canary)
		require.NoError(l, os.Symlink(l.path("work/real"), l.path("keys/link")))
		l.credential("file://" + l.path("keys/link"))
		l.refused(nil, "/keys/link leads through /work, which is in /work, where an agent may write")
		l.credential("file://" + real)
		l.problem("")
		require.NotContains(l, l.runs(nil, "cat keys/key 2>&1 || true"), canary)
	}},
	{"H7", "a second name of a secret in the agent's folder (W3)", func(l *laptop) {
		real := l.write("keys/key", canary)
		l.credential("file://" + real)
		l.runs(nil, "true")
		require.NoError(l, os.Link(real, l.path("work/.cache")))
		l.refused(nil, "/keys/key has 2 names (hard links), and one may be in /work, where an agent may write")
		l.write("keys/key2", canary)
		require.NoError(l, os.Rename(l.path("keys/key2"), real)) // rotated as documented
		l.runs(nil, "true")
	}},
	{"H8", "a secret that is published, or rotated, into a folder in which an agent runs (W4)", func(l *laptop) {
		l.runs(nil, "true")
		l.credential("file://" + l.write("work/key", canary))
		l.problem("/work/key is in /work, where an agent may write")
		l.write("work/key.new", canary)
		require.NoError(l, os.Rename(l.path("work/key.new"), l.path("work/key")))
		l.refused(nil, "/work/key is in /work")
		l.problem("/work/key is in /work, where an agent may write")
	}},
	{"H9", "a helper in the agent's folder, or one that is replaced (W5)", func(l *laptop) {
		l.runs(nil, "true")
		helper := l.plant("work/helper")
		l.credential("exec://" + helper + "?every=1s&sha256=" + digestOf(l, helper))
		l.problem("/work/helper is in /work, where an agent may write")
		l.refused(nil, "the helper of credential key: /work/helper is in /work")

		good := l.write("helpers/helper", "#!/bin/sh\necho secret\n")
		require.NoError(l, os.Chmod(good, 0o700))
		l.credential("exec://" + good + "?every=1s&sha256=" + digestOf(l, good))
		l.problem("")
		require.NoError(l, os.Rename(l.plant("helpers/other"), good))
		l.problem("/helpers/helper is not the one that was published, so it is not run: look at the change, then run `postern push`")
		l.credential("exec://" + good + "?every=1s")
		l.problem("was published without a digest")
	}},
	{"H10", "Postern itself in the agent's folder (W1)", func(l *laptop) {
		require.NoError(l, os.Mkdir(l.path("work/bin"), 0o700))
		// By another process: what this one has open to be written, a process that it starts has, too.
		from := filepath.Dir(l.postern)
		cp := exec.CommandContext(l.Context(), "cp", from+"/postern", from+"/postern-sandbox", l.path("work/bin"))
		out, err := cp.CombinedOutput()
		require.NoError(l, err, "%s", out)
		l.postern = filepath.Join(l.work, "bin", "postern")
		l.refused(nil, "a program of Postern's: /work/bin/postern is in /work, where an agent may write")
		// What it advises works when it is pasted.
		said, _ := l.does(nil, "run", "--agent", "demo", "--", "pwd")
		_, advice, found := strings.Cut(strings.TrimSpace(said), "run the agent in another folder: ")
		require.True(l, found, said)
		cmd := exec.CommandContext(l.Context(), "sh", "-c", advice)
		cmd.Dir, cmd.Env = l.work, l.environ
		pasted, err := cmd.Output()
		require.NoError(l, err, advice)
		require.Equal(l, l.path("user/agent")+"\n", string(pasted))
	}},
	{"H11", "the state folder, or a secret, mounted into the agent's folder (W3)", func(l *laptop) {
		real := l.write("keys/key", canary)
		l.credential("file://" + real)
		if !l.bound("home", "work/state") {
			l.Skip("only root mounts")
		}
		l.refused(nil, "the folder of Postern's keys and sockets: /home leads through /home, which is also in /work, where an agent may write")
		l.work = l.path("work2")
		l.bound("keys", "work2/data")
		l.refused(nil, "the secret of credential key: /keys/key leads through /keys, which is also in /work2, where an agent may write")
	}},
	{"H12", "the agent's folder moved, and another in its place (W3)", func(l *laptop) {
		l.runs(nil, "true")
		require.NoError(l, os.Rename(l.work, l.path("moved")))
		require.NoError(l, os.Mkdir(l.work, 0o700))
		l.credential("file://" + l.write("moved/key", canary))
		l.problem("/moved/key leads through /moved, which is also in /work, where an agent may write")
		l.refused(nil, "/moved/key leads through /moved, which is also in /work")
	}},
	{"H13", "a list of agents' folders that was damaged (W3)", func(l *laptop) {
		l.runs(nil, "true")
		require.NoError(l, os.WriteFile(l.path("home/workdirs"), []byte("\x00\x00\n"), 0o600))
		l.refused(nil, "/home/workdirs:1: this line of the list of agents' working directories is damaged, so no path can be trusted")
		require.Error(l, hostpath.In(l.path("home")).Record(l.work))
		l.credential("file://" + l.write("keys/key", canary))
		l.problem("/home/workdirs:1: this line")
	}},
	{"H14", "a link in the agent's folder to a folder that the operator names next (W2)", func(l *laptop) {
		l.runs(nil, "true")
		require.NoError(l, os.Mkdir(l.path("other"), 0o700))
		require.NoError(l, os.Symlink(l.path("other"), l.path("work/sub")))
		for _, dir := range []string{"sub", "sub/new"} {
			out, status := l.does(nil, "run", "--workdir", dir, "--agent", "demo", "--", "touch", "started")
			require.Equal(l, 125, status, out)
			require.Contains(l, out, "where an agent may write, and leads out of there: name the folder itself")
		}
		entries, err := os.ReadDir(l.path("other"))
		require.NoError(l, err)
		require.Empty(l, entries)
		// Nor is a folder made there: by then it could be made somewhere else.
		out, status := l.does(nil, "run", "--workdir", "deeper/down", "--agent", "demo", "--", "pwd")
		require.Equal(l, 125, status, out)
		require.Contains(l, out, "where an agent may write: name a folder that is there, or one elsewhere")
		require.NoDirExists(l, l.path("work/deeper"))
		require.NoError(l, os.MkdirAll(l.path("work/deeper/down"), 0o700))
		out, status = l.does(nil, "run", "--workdir", "deeper/down", "--agent", "demo", "--", "pwd")
		require.Zero(l, status, out)
	}},
}

// digestOf returns what the file at path is published with.
func digestOf(l *laptop, path string) string {
	l.Helper()
	content, err := os.ReadFile(path)
	require.NoError(l, err)
	return fmt.Sprintf("%x", sha256.Sum256(content))
}
