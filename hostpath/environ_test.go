package hostpath

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestClean: a variable that names what an agent may write is not passed on, wherever in its value; nor is one that
// makes a program start something. Whoever judges a variable by itself gets it.
func TestClean(t *testing.T) { //nolint:paralleltest // it changes the current folder
	w := newWorld(t)
	w.link("work", "link")
	t.Chdir(w.path("work/sub"))
	f := w.folders()
	f.variable = w.variables("work/bin:safe")
	work, link := w.path("work"), w.path("link")
	kept := []string{
		"HOME=" + w.path("safe"), "EDITOR=vi -f", "AWS_PROFILE=file", "AWS_CONFIG_FILE=" + w.path("safe/keys"),
		"GOPATH=" + w.path("safe"), "KEY=a/b+c==", "POSTERN_STACK=" + work + "/stacks/dev.yaml", "ENVOY=" + work + "/envoy",
		"PROXY=https://user:p@host.test/x",
	}
	dropped := []string{
		"TMPDIR=" + work, "AWS_CONFIG_FILE=" + link + "/config", "AWS_SHARED_CREDENTIALS_FILE=config", "AWS_CA_BUNDLE=./file",
		"EDITOR=" + work + "/vi -f", "CC=ccache " + work + "/gcc", "CGO_CFLAGS=-O2 -I" + link, "GOPROXY=https://x.test,file://" + work,
		"LIST=/nonexistent:" + work, "HOME=" + work, "GOFLAGS=-mod=mod", "GOCACHEPROG=x", "GIT_SSH_COMMAND=ssh", "LD_PRELOAD=/x.so",
	}
	require.Equal(t, append(kept, "PATH="+strings.Join(append([]string{w.path("safe")}, system...), ":")),
		f.Clean(append(append(dropped, kept...), "PATH="+work)))
}

// beginning makes the test a program that begins as ours do, and starts another one as a library might.
const beginning = "HOSTPATH_TEST_BEGINNING"

// TestBeginning: what a program of ours starts, or a library that it links, has none of its caller's descriptors, and
// finds programs where no agent may write.
func TestBeginning(t *testing.T) {
	t.Parallel()
	if os.Getenv(beginning) != "" {
		KeepDescriptors()
		CleanEnvironment()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "tool; echo CONFIG=$AWS_CONFIG_FILE=$KEPT=$HOME=$POSTERN_HOME; ls -l /proc/self/fd")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
		require.NoError(t, cmd.Run())
		return
	}
	w := newWorld(t)
	for _, name := range []string{"sh", "tool", "ls"} {
		w.program("work/bin/" + name)
	}
	w.program("good/tool")
	require.NoError(t, w.registry.Record(w.path("work")))
	left, err := os.Open(w.path("safe/keys"))
	require.NoError(t, err)
	defer left.Close()
	self, err := os.Executable()
	require.NoError(t, err)
	for _, damaged := range []bool{false, true} {
		want := "good/tool\nCONFIG==/etc/hosts=" + w.path("safe") + "=" + w.path("state") + "\n"
		if damaged {
			require.NoError(t, os.WriteFile(filepath.Join(w.path("state"), "workdirs"), []byte("x\n"), 0o600))
			own, err := user.Current()
			require.NoError(t, err)
			// Nothing of PATH is used, and HOME may be an agent's. The state folder stays where it is.
			want = "not found\nCONFIG==/etc/hosts=" + own.HomeDir + "=" + w.path("state") + "\n"
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestBeginning$")
		cmd.ExtraFiles = []*os.File{left, left}
		cmd.Env = []string{
			beginning + "=1", "PATH=" + w.path("work/bin") + ":" + w.path("good"), "POSTERN_HOME=" + w.path("state"),
			"AWS_CONFIG_FILE=" + w.path("work/config"), "HOME=" + w.path("safe"), "KEPT=/etc/hosts",
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), want)
		require.NotContains(t, string(out), "work/bin")
		require.NotContains(t, string(out), w.path("safe/keys"))
	}
}
