package run

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/postern/postern/hostpath"
)

// findEngine returns the socket of the container engine: that of the context $DOCKER_CONTEXT, else
// $DOCKER_HOST, else that of the context that `docker context use` chose, else the first of the
// usual ones that exists. Whoever could replace the socket could be the engine.
func findEngine(folders *hostpath.Folders) (string, error) {
	host, from := os.Getenv("DOCKER_HOST"), "$DOCKER_HOST"
	name := os.Getenv("DOCKER_CONTEXT")
	if name != "" || host == "" {
		found, err := contextHost(folders, name)
		if err != nil {
			return "", err
		}
		if found != "" {
			host, from = found, "docker's context"
		}
	}
	socket := "/var/run/docker.sock"
	if host != "" {
		u, err := url.Parse(host)
		if err != nil || u.Scheme != "unix" || !filepath.IsAbs(u.Path) {
			return "", fmt.Errorf("%s is not a socket of this machine, and a proxy's socket cannot be mounted "+
				"elsewhere: export DOCKER_HOST=unix:///PATH", from)
		}
		socket = filepath.Clean(u.Path)
	} else {
		runtime := os.Getenv("XDG_RUNTIME_DIR")
		for _, usual := range []string{
			socket, filepath.Join(runtime, "docker.sock"), "/run/podman/podman.sock",
			filepath.Join(runtime, "podman/podman.sock"),
		} {
			if _, err := os.Stat(usual); err == nil && filepath.IsAbs(usual) {
				socket = usual
				break
			}
		}
	}
	if err := folders.Check(socket); err != nil {
		return "", fmt.Errorf("the container engine's socket: %w", err)
	}
	return socket, nil
}

// contextHost returns the address of docker's context of that name, or of the one that is in use;
// "" if that is docker's default.
func contextHost(folders *hostpath.Folders, name string) (string, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil //nolint:nilerr // then there is no context
		}
		dir = filepath.Join(home, ".docker")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find docker's context: %w", err)
	}
	if name == "" {
		var config struct{ CurrentContext string }
		err := readContext(folders, filepath.Join(dir, "config.json"), &config)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return "", nil
	}
	sum := sha256.Sum256([]byte(name))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	err = readContext(folders, filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json"), &meta)
	if err != nil {
		return "", fmt.Errorf("docker's context %q: %w: `docker context ls` lists them", name, err)
	}
	return meta.Endpoints["docker"].Host, nil
}

// readContext reads a file of docker's, in which no agent may name an engine.
func readContext(folders *hostpath.Folders, path string, into any) error {
	content, err := folders.ReadFile(path, 1<<20)
	if err != nil {
		return fmt.Errorf("find docker's context: %w", err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("find docker's context: %s: %w", path, err)
	}
	return nil
}
