package run

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestFindEngine: the engine is the one that docker's own commands use, and no agent chooses it.
func TestFindEngine(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	state, docker := filepath.Join(dir, "state"), filepath.Join(dir, "docker")
	require.NoError(t, os.Mkdir(state, 0o700))
	folders, err := hostpath.In(state).Folders()
	require.NoError(t, err)
	for name, value := range map[string]string{
		"DOCKER_HOST": "", "DOCKER_CONTEXT": "", "DOCKER_CONFIG": docker, "XDG_RUNTIME_DIR": filepath.Join(dir, "run"),
	} {
		t.Setenv(name, value)
	}
	found := func(folders *hostpath.Folders) string {
		t.Helper()
		socket, err := findEngine(folders)
		if err != nil {
			return err.Error()
		}
		return socket
	}
	write := func(path, content string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	podman := filepath.Join(dir, "run", "podman", "podman.sock")
	require.NoError(t, os.MkdirAll(filepath.Dir(podman), 0o700))
	l, err := net.Listen("unix", podman)
	require.NoError(t, err)
	defer l.Close()
	if _, err := os.Stat("/var/run/docker.sock"); err != nil {
		require.Equal(t, podman, found(folders))
	}
	t.Setenv("DOCKER_HOST", "unix:///host.sock")
	require.Equal(t, "/host.sock", found(folders))
	t.Setenv("DOCKER_HOST", "")

	write(filepath.Join(docker, "config.json"), `{"auths": {}, "currentContext": "mine"}`)
	require.Contains(t, found(folders), `docker's context "mine": `)
	// The folder's name is the SHA-256 of the context's.
	const folder = "3fd30542fe3f61b14bd4a4b2dc0b6fb30fa6f63ebce52dd1778aaa8c4dc02cff"
	meta := filepath.Join(docker, "contexts", "meta", folder, "meta.json")
	write(meta, `{"Name": "mine", "Endpoints": {"docker": {"Host": "unix:///mine.sock", "SkipTLSVerify": false}}}`)
	require.Equal(t, "/mine.sock", found(folders))
	t.Setenv("DOCKER_HOST", "unix:///host.sock")
	require.Equal(t, "/host.sock", found(folders), "it wins over the chosen context")
	t.Setenv("DOCKER_CONTEXT", "mine")
	require.Equal(t, "/mine.sock", found(folders), "it wins over $DOCKER_HOST")
	t.Setenv("DOCKER_CONTEXT", "default")
	require.Equal(t, "/host.sock", found(folders))
	t.Setenv("DOCKER_CONTEXT", "mine")
	write(meta, `{"Name": "mine", "Endpoints": {"docker": {"Host": "ssh://elsewhere"}}}`)
	require.Contains(t, found(folders), "docker's context is not a socket of this machine")

	agents, err := hostpath.In(state).Folders(docker)
	require.NoError(t, err)
	require.Contains(t, found(agents), "where an agent may write")
}
