package tests

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/fleet"
)

// pulumiVersion is what tools/go.mod requires, and what tools/pulumi.sh has digests of.
const pulumiVersion = "v3.250.0"

const usableCLI = "#!/bin/sh\necho " + pulumiVersion + "\n"

// TestPulumiCLI runs tools/pulumi.sh: the CLI on PATH, or the published one if its digest is right, or one that is built.
func TestPulumiCLI(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("..", "tools", "pulumi.sh"))
	require.NoError(t, err)
	module, err := os.ReadFile(filepath.Join("..", "tools", "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(script), "\npublished="+pulumiVersion+"\n")
	require.Contains(t, string(module), "github.com/pulumi/pulumi/pkg/v3 "+pulumiVersion+" ")
	archive := pulumiArchive(t)
	sum := sha256.Sum256(archive)
	// The real archive is not here: another one, by its digest.
	digests := regexp.MustCompile(`digest=[0-9a-f]{64} `)
	require.Len(t, digests.FindAll(script, -1), 2)
	script = digests.ReplaceAll(script, []byte("digest="+hex.EncodeToString(sum[:])+" "))
	platform := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	ca := fleet.NewCA(t, "github")

	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		onPath string // what the CLI on PATH says of its version
		want   string // in the output
		built  bool
	}{
		{"published", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) }, "", "downloading it", false},
		{"another archive", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append([]byte{}, "another"...)) }, "", "it is not used", true},
		{"not there", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "", "that did not work: curl:", true},
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "", "that did not work: curl:", true},
		{"no network", nil, "", "that did not work: curl:", true},
		{"on PATH", nil, "v3.200.0", "/path/pulumi", false},
		{"too old on PATH", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) }, "v3.199.0", "is not version 3 from v3.200.0 on", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			file := func(name, content string, mode os.FileMode) {
				path := filepath.Join(dir, name)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(content), mode))
			}
			for _, name := range []string{"lib.sh", "path.sh"} {
				content, err := os.ReadFile(filepath.Join("..", "tools", name))
				require.NoError(t, err)
				file("tools/"+name, string(content), 0o600)
			}
			file("tools/pulumi.sh", string(script), 0o700)
			// Go itself would build for minutes.
			file("path/go", "#!/bin/sh\ncase $1 in list) echo "+pulumiVersion+"; exit ;; esac\n"+
				"while [ \"$1\" != -o ]; do shift; done\nprintf '#!/bin/sh\\necho "+pulumiVersion+"\\n' >\"$2\" && chmod +x \"$2\" && touch \"$2.built\"\n", 0o700)
			if c.onPath != "" {
				file("path/pulumi", "#!/bin/sh\necho "+c.onPath+"\n", 0o700)
			}
			file("ca.pem", string(ca.PEM), 0o600)
			asked := make(chan string, 10)
			proxy := "http://127.0.0.1:1"
			if c.answer != nil {
				cert := ca.Issue(t, "github.com")
				proxy = tlsProxy(t, cert, func(w http.ResponseWriter, r *http.Request) {
					asked <- r.Host + r.URL.Path
					c.answer(w, r)
				})
			}
			run := func() string {
				cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "tools", "pulumi.sh"))
				cmd.Env = []string{
					"PATH=" + filepath.Join(dir, "path") + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + dir,
					"https_proxy=" + proxy, "CURL_CA_BUNDLE=" + filepath.Join(dir, "ca.pem"),
				}
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				return string(out)
			}
			began := time.Now()
			out := run()
			require.Contains(t, out, c.want)
			require.Less(t, time.Since(began), time.Minute)
			if c.answer != nil {
				require.Equal(t, "github.com/pulumi/pulumi/releases/download/"+pulumiVersion+"/pulumi-"+pulumiVersion+"-linux-"+platform+".tar.gz", <-asked)
			}
			settled, err := os.ReadFile(filepath.Join(dir, ".cache", "pulumi.path"))
			require.NoError(t, err)
			left, err := filepath.Glob(filepath.Join(dir, ".cache", "pulumi.??????"))
			require.NoError(t, err)
			require.Empty(t, left)
			built, err := filepath.Glob(filepath.Join(dir, ".cache", "bin", "*.built"))
			require.NoError(t, err)
			require.Equal(t, c.built, len(built) == 1, out)
			if c.onPath == "v3.200.0" {
				require.Equal(t, filepath.Join(dir, "path", "pulumi"), strings.TrimSpace(string(settled)))
				return
			}
			require.Equal(t, filepath.Join(dir, ".cache", "bin", "pulumi"), strings.TrimSpace(string(settled)))
			require.NotContains(t, run(), "ing it (once", "it is there")
		})
	}
}

// pulumiArchive is like what Pulumi publishes: the CLI is one of its programs.
func pulumiArchive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range map[string]string{"pulumi/pulumi": usableCLI, "pulumi/pulumi-language-go": "#!/bin/sh\nexit 1\n"} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}))
		_, err := w.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return b.Bytes()
}

// tlsProxy is a proxy for HTTPS, and every server behind it. It returns its URL.
func tlsProxy(t *testing.T, cert tls.Certificate, serve http.HandlerFunc) string {
	t.Helper()
	inner := httptest.NewUnstartedServer(serve)
	inner.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	inner.StartTLS()
	outer, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() {
		outer.Close()
		inner.CloseClientConnections()
	})
	go func() {
		for {
			from, err := outer.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				r := bufio.NewReader(from)
				req, err := http.ReadRequest(r)
				if err != nil || req.Method != http.MethodConnect || req.Host != "github.com:443" {
					return
				}
				to, err := net.Dial("tcp", inner.Listener.Addr().String())
				if err != nil {
					return
				}
				defer to.Close()
				_, _ = from.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
				go func() { _, _ = r.WriteTo(to) }()
				_, _ = bufio.NewReader(to).WriteTo(from)
			}()
		}
	}()
	return "http://" + outer.Addr().String()
}
