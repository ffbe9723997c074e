package run

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/tests/docker"
)

// TestConfigureGVisorNull: null is as if there was nothing. What an agent may write by the time of
// the change is not written.
func TestConfigureGVisorNull(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	agent := filepath.Join(dir, "agent")
	require.NoError(t, os.Mkdir(agent, 0o700))
	require.NoError(t, hostpath.In(dir).Record(agent))
	folders, err := hostpath.In(dir).Folders()
	require.NoError(t, err)
	want, err := ConfigureGVisor(folders, filepath.Join(dir, "none.json"))
	require.NoError(t, err)
	for _, was := range []string{
		"null", `{"runtimes":null}`, `{"runtimes":{"runsc":null}}`,
		`{"runtimes":{"runsc":{"path":null,"runtimeArgs":null}}}`,
	} {
		file := filepath.Join(dir, "daemon.json")
		require.NoError(t, os.RemoveAll(file))
		require.NoError(t, os.WriteFile(file, []byte(was), 0o600))
		c, err := ConfigureGVisor(folders, file)
		require.NoError(t, err, was)
		require.Equal(t, string(want.Content), string(c.Content), was)
		theirs := filepath.Join(agent, "daemon.json")
		require.NoError(t, os.Rename(file, theirs))
		require.NoError(t, os.Symlink(theirs, file))
		require.ErrorContains(t, c.Write(), "where an agent may write")
	}
}

// TestConfigureGVisor: what is missing is added, and everything else stays.
func TestConfigureGVisor(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	folders, err := hostpath.In(dir).Folders()
	require.NoError(t, err)
	program, err := folders.Program(runsc, hostpath.Root)
	require.NoError(t, err)
	needed := `"runtimeArgs": [
        "--host-uds=open",
        "--network=none"
      ]`
	for was, want := range map[string]string{
		"": `{
  "runtimes": {
    "runsc": {
      "path": "` + program + `",
      ` + needed + `
    }
  }
}
`,
		`{"log-level":"<debug>","n":12345678901234567890,"runtimes":{"x":{"path":"/x"},"runsc":{"path":"` + program +
			`","runtimeArgs":["-network=host","--platform=ptrace"],"other":[1]}}}`: `{
  "log-level": "<debug>",
  "n": 12345678901234567890,
  "runtimes": {
    "runsc": {
      "other": [
        1
      ],
      "path": "` + program + `",
      "runtimeArgs": [
        "--platform=ptrace",
        "--host-uds=open",
        "--network=none"
      ]
    },
    "x": {
      "path": "/x"
    }
  }
}
`,
	} {
		file := filepath.Join(dir, "daemon.json")
		require.NoError(t, os.RemoveAll(file))
		if was != "" {
			require.NoError(t, os.WriteFile(file, []byte(was), 0o640))
		}
		link := filepath.Join(dir, "link.json")
		require.NoError(t, os.RemoveAll(link))
		require.NoError(t, os.Symlink(file, link))
		if was == "" {
			link = filepath.Join(dir, "new", "daemon.json")
			file = link
		}
		c, err := ConfigureGVisor(folders, link)
		require.NoError(t, err)
		require.Equal(t, want, string(c.Content))
		require.NoError(t, c.Write())
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, want, string(content))
		again, err := ConfigureGVisor(folders, link)
		require.NoError(t, err)
		require.Equal(t, again.Was, again.Content, "nothing is left to do")
		if was != "" {
			info, err := os.Lstat(link)
			require.NoError(t, err)
			require.Equal(t, os.ModeSymlink, info.Mode().Type())
			info, err = os.Stat(file)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o640), info.Mode())
		}
		require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
		require.ErrorContains(t, again.Write(), "it has changed meanwhile")
	}
	for was, want := range map[string]string{
		"{": "unexpected end", `{"runtimes":[]}`: "cannot unmarshal array", "[]": "cannot unmarshal array",
		`{"runtimes":{"runsc":{"runtimeType":"io.containerd.runsc.v1"}}}`: "has a runtimeType: remove that",
		`{"runtimes":{"runsc":{"path":"` + dir + `/runsc"}}}`:             "find gVisor",
	} {
		file := filepath.Join(dir, "bad.json")
		require.NoError(t, os.WriteFile(file, []byte(was), 0o600))
		_, err := ConfigureGVisor(folders, file)
		require.ErrorContains(t, err, want)
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, was, string(content))
	}
}

// TestFixedEngine: a real engine that does not know gVisor can be used with it after the change.
func TestFixedEngine(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	dir, err := os.MkdirTemp("", "dkr")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	folders, err := hostpath.In(dir).Folders()
	require.NoError(t, err)
	file := filepath.Join(dir, "own.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"log-level": "warn"}`), 0o600))
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(dir, "docker.sock"))
	start := func() *docker.Daemon {
		d, err := docker.Start(context.WithoutCancel(t.Context()), dir, "--config-file", file)
		require.NoError(t, err)
		return d
	}
	d := start()
	_, err = examineGVisor(t.Context(), folders)
	require.ErrorContains(t, err, "does not know gVisor")
	require.NoError(t, d.Stop())
	c, err := ConfigureGVisor(folders, file)
	require.NoError(t, err)
	require.NoError(t, c.Write())
	d = start()
	t.Cleanup(func() { require.NoError(t, d.Stop()) })
	_, err = examineGVisor(t.Context(), folders)
	require.NoError(t, err)
}
