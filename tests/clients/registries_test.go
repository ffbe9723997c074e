package clients

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cgi" //nolint:gosec // git's own server is a CGI program, and this Go is not of 2016
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// newGit serves a repository with one commit, by git's own server. It accepts
// pushes: that one is refused is the policy's doing.
func newGit(t *testing.T) http.Handler {
	t.Helper()
	root := t.TempDir()
	script := `
		set -e
		git init -q --bare acme/app.git
		git -C acme/app.git config http.receivepack true
		git -C acme/app.git symbolic-ref HEAD refs/heads/main
		git init -q -b main work && cd work
		echo "hello from git" > README
		git add README
		git -c user.name=Test -c user.email=test@example.test commit -q -m first
		git push -q ../acme/app.git main`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	libexec, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	require.NoError(t, err)
	return &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=test", "GIT_CONFIG_GLOBAL=/dev/null"},
	}
}

// newWheels is a simple index with one wheel.
func newWheels(t *testing.T) http.Handler {
	t.Helper()
	const name = "postern_demo-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for path, content := range map[string]string{
		"postern_demo.py":                     "GREETING = 'hello from a wheel'\n",
		"postern_demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: postern-demo\nVersion: 1.0\n",
		"postern_demo-1.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"postern_demo-1.0.dist-info/RECORD":   "postern_demo.py,,\n",
	} {
		w, err := z.Create(path)
		require.NoError(t, err)
		_, err = w.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	mux := http.NewServeMux()
	mux.HandleFunc("/simple/postern-demo/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><a href="/files/%s#sha256=%x">%s</a>`, name, sha256.Sum256(wheel.Bytes()), name)
	})
	mux.HandleFunc("/files/"+name, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wheel.Bytes()) })
	return mux
}

// newPackages is an npm registry with one package.
func newPackages(t *testing.T) http.Handler {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	a := tar.NewWriter(z)
	for path, content := range map[string]string{
		"package/package.json": `{"name":"postern-demo","version":"1.0.0","main":"index.js"}`,
		"package/index.js":     "module.exports = 'hello from a package'\n",
	} {
		require.NoError(t, a.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content))}))
		_, err := a.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, a.Close())
	require.NoError(t, z.Close())
	sum := sha512.Sum512(packed.Bytes())
	mux := http.NewServeMux()
	mux.HandleFunc("/postern-demo", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": "postern-demo", "dist-tags": map[string]string{"latest": "1.0.0"},
			"versions": map[string]any{"1.0.0": map[string]any{
				"name": "postern-demo", "version": "1.0.0", "main": "index.js",
				"dist": map[string]string{
					"tarball":   "https://packages.test/postern-demo/-/postern-demo-1.0.0.tgz",
					"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
				},
			}},
		})
	})
	mux.HandleFunc("/postern-demo/-/postern-demo-1.0.0.tgz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(packed.Bytes()) })
	return mux
}
