package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// planted are programs that make and the scripts of tools/ start.
const planted = "bash sh env go gofmt gcc cc curl git pulumi envoy bwrap python3 pip stat id readlink find dirname awk rm " +
	"mkdir cat grep sort flock tail sed realpath sha256sum uname mktemp tar sleep apt-get systemd-sysusers useradd ip jq"

// makeIn runs make in a tree that has nothing but the scripts, with a folder in front of PATH that
// holds a copy of every program that make starts, and returns what the copies and make said.
func makeIn(t *testing.T, target string, variables ...string) (ran, out string) {
	t.Helper()
	return makeBeside(t, "agent", target, variables...)
}

// makeBeside is makeIn with another name of the agent's folder.
func makeBeside(t *testing.T, agent, target string, variables ...string) (ran, out string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	tree, bin, canary := filepath.Join(dir, "tree"), filepath.Join(dir, agent, "venv", "bin"), filepath.Join(dir, "canary")
	state := filepath.Join(dir, "state")
	agent = filepath.Join(dir, agent)
	require.NoError(t, os.Mkdir(agent, 0o700))
	require.NoError(t, hostpath.In(state).Record(agent))
	// Of the folder that is there now, only the path is in the list.
	require.NoError(t, os.Rename(agent, filepath.Join(dir, "was")))
	require.NoError(t, os.MkdirAll(bin, 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(agent, "cache"), 0o700))
	rc := "echo BASH_ENV >> " + canary + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(agent, "rc"), []byte(rc), 0o600))
	require.NoError(t, os.CopyFS(filepath.Join(tree, "tools"), os.DirFS("../tools")))
	for _, name := range []string{"Makefile", "go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(tree, name), content, 0o600))
	}
	for name := range strings.FieldsSeq(planted) {
		program := "#!/bin/sh\necho " + name + " >> " + canary + "\nexit 1\n"
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte(program), 0o700))
	}
	// A folder that is not an agent's, with a link to one.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "links"), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(bin, "go"), filepath.Join(dir, "links", "go")))
	require.NoError(t, os.Symlink(agent, filepath.Join(dir, "link")))
	cmd := exec.CommandContext(t.Context(), "make", target)
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), "POSTERN_HOME="+state, "PATH="+bin+":"+filepath.Join(dir, "links")+":"+os.Getenv("PATH"))
	for _, v := range variables {
		cmd.Env = append(cmd.Env, strings.NewReplacer("AGENT", agent, "LINK", filepath.Join(dir, "link")).Replace(v))
	}
	said, err := cmd.CombinedOutput()
	ran = ""
	if content, err := os.ReadFile(canary); err == nil {
		ran = string(content)
	}
	if target != "help" && target != "clean" {
		require.Error(t, err, "there is nothing to build")
	}
	return ran, strings.ReplaceAll(string(said), dir, "")
}

// TestMakeRunsNothingOfAnAgents: neither make nor a script starts a program of a folder on PATH where
// an agent may write.
func TestMakeRunsNothingOfAnAgents(t *testing.T) {
	t.Parallel()
	for target, says := range map[string]string{"help": "make up", "clean": "", "build": "cmd/postern", "up": "cmd/postern"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			ran, out := makeIn(t, target)
			require.Empty(t, ran, out)
			require.Contains(t, out, says)
			if target == "build" {
				require.Contains(t, out, "not used from PATH: /agent/venv/bin: an agent may write /agent\n")
				require.Contains(t, out, "not used from PATH: /links: an agent may write /agent\n")
			}
		})
	}
}

// TestMakeCompilesNothingOfAnAgents: nor does Go compile what is in a cache of an agent's. The
// refusal names the variable.
func TestMakeCompilesNothingOfAnAgents(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"GOMODCACHE", "GOCACHE", "GOPATH"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ran, out := makeIn(t, "build", name+"=AGENT/cache")
			require.Empty(t, ran, out)
			require.Contains(t, out, "error: "+name+" is /agent/cache: an agent may write /agent\n")
			require.NotContains(t, out, "compiled")
		})
	}
}

// TestMakeUsesNoVariableOfAnAgents: a variable that leads to where an agent may write is not used, whatever
// it is called: Go runs what it has compiled in TMPDIR.
func TestMakeUsesNoVariableOfAnAgents(t *testing.T) {
	t.Parallel()
	for _, variable := range []string{
		"TMPDIR=AGENT/gone", "TMPDIR=LINK/gone", "GOFLAGS=-toolexec=AGENT/venv/bin/env", "CC=AGENT/venv/bin/gcc",
		"CGO_CFLAGS=-O2 -ILINK/cache", "LD_LIBRARY_PATH=/nonexistent:AGENT/cache", "BASH_ENV=AGENT/rc",
		"NODE_OPTIONS=--require AGENT/x.js", "GIT_CONFIG_GLOBAL=AGENT/config", "BASH_FUNC_go%%=() { AGENT/venv/bin/go; }",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			ran, out := makeIn(t, "build", variable)
			require.Empty(t, ran, out)
			name, _, _ := strings.Cut(variable, "=")
			require.Contains(t, out, "not used: "+name+": an agent may write /agent\n")
			require.Contains(t, out, "cmd/postern", "the build goes on")
			require.NotContains(t, out, "creating work dir", "Go was told of TMPDIR")
		})
	}
	ran, out := makeIn(t, "build", "HOME=AGENT/cache")
	require.Empty(t, ran, out)
	require.Contains(t, out, "error: HOME leads to where an agent may write: /agent\n")
}

// TestMakeReadsEveryName: nothing of a folder is used, whatever is in its name.
func TestMakeReadsEveryName(t *testing.T) {
	t.Parallel()
	for _, agent := range []string{`a "b"`, `a\b`, "a\tb\x01", "é", "日本", "😀", "a\xffb", `$(x)*'`} {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			ran, out := makeBeside(t, agent, "build", "TMPDIR=AGENT/gone")
			require.Empty(t, ran, out)
			require.Contains(t, out, "not used from PATH: /"+agent+"/venv/bin: an agent may write /"+agent+"\n")
			require.Contains(t, out, "not used: TMPDIR: an agent may write /"+agent+"\n")
		})
	}
}
