package tests

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/tests/moto"
)

// The operator's program as `make build` and `make cloud` make it, next to each
// other; and alone.
var (
	buildPosternPair   = fleet.Built("pair/postern", "./cmd/postern")
	buildPosternCloud  = fleet.Built("pair/postern-cloud", "./cmd/postern", "cloud")
	buildPosterndCloud = fleet.Built("posternd-cloud", "./cmd/posternd", "cloud")
	buildPosternAlone  = fleet.Built("alone/postern", "./cmd/postern")
)

const cloudStackFile = `version: 1
target: local
destinations:
  one: {host: one.test, methods: [GET]}
agents:
  demo: {allow: [one]}
`

// TestCloudStore: an operator and a control plane that have nothing in common
// but a bucket. bin/postern becomes bin/postern-cloud for it, by itself.
func TestCloudStore(t *testing.T) {
	t.Parallel()
	server, stop, err := moto.Start()
	t.Cleanup(stop)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server+"/fleet", nil)
	require.NoError(t, err)
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	store := "s3://fleet?" + url.Values{"prefix": {"local/"}, "region": {"eu-west-1"}, "endpoint": {server}, "use_path_style": {"true"}}.Encode()

	// Not t.TempDir: sockets are below it.
	root, err := os.MkdirTemp("", "store")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	file := filepath.Join(root, "stacks", "local.yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(cloudStackFile), 0o600))
	opened, err := stacks.Open(file)
	require.NoError(t, err)
	real, err := opened.Home()
	require.NoError(t, err)
	operators := home.Folder{Root: filepath.Join(root, "o", filepath.Base(real.Root))}
	controls := home.Folder{Root: filepath.Join(root, "c", filepath.Base(real.Root))}
	ca := fleet.NewCA(t, "postern test")
	for _, home := range []home.Folder{operators, controls} {
		require.NoError(t, home.Claim(opened.Owner()))
		fleet.WriteHome(t, home, ca)
		require.NoError(t, os.WriteFile(home.StoreFile(), []byte(store+"\n"), 0o600))
	}
	trusted, err := os.ReadFile(operators.Trusted())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(controls.Trusted(), trusted, 0o600))
	environ := append(os.Environ(), "POSTERN_HOME="+filepath.Join(root, "o"), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "SSL_CERT_FILE="+operators.CACert())
	run := func(build func() (string, error), args ...string) (stdout, stderr string, err error) {
		t.Helper()
		path, err := build()
		require.NoError(t, err)
		var out, said bytes.Buffer
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = root, environ, &out, &said
		err = cmd.Run()
		return out.String(), said.String(), err
	}
	does := func(args ...string) string {
		t.Helper()
		out, said, err := run(buildPosternPair, args...)
		require.NoError(t, err, "%s%s", out, said)
		return out
	}

	// Where the other program is missing: what to do, and nothing else.
	out, said, err := run(buildPosternAlone, "history")
	require.Error(t, err)
	require.Empty(t, out)
	require.Contains(t, said, "the bundle store is s3://fleet?")
	require.Regexp(t, "another program is needed: postern-cloud is not installed: .*`make cloud install`.*no such file or directory", said)
	out, _, err = run(buildPosternAlone, "push", "--help")
	require.NoError(t, err, "help needs no store")
	help, _, err := run(buildPosternCloud, "push", "--help")
	require.NoError(t, err)
	require.Equal(t, out, help)

	// Nobody is there yet who would serve it.
	_, err = buildPosternCloud()
	require.NoError(t, err)
	_, said, err = run(buildPosternPair, "history")
	require.Error(t, err)
	require.Contains(t, said, "nothing was published yet")
	_, said, err = run(buildPosternPair, "push")
	require.Error(t, err)
	require.Contains(t, said, "no control plane has reported to the bundle store")

	daemon, err := buildPosterndCloud()
	require.NoError(t, err)
	control := exec.CommandContext(t.Context(), daemon, "control", "--home", controls.Root, "--replica", "r1")
	var log bytes.Buffer
	control.Env, control.Stderr = environ, &log
	require.NoError(t, control.Start())
	t.Cleanup(func() {
		_ = control.Process.Signal(syscall.SIGTERM)
		_ = control.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	require.Eventually(t, func() bool {
		_, _, err := run(buildPosternPair, "push")
		return err == nil
	}, time.Minute, 200*time.Millisecond)
	require.Regexp(t, `(?m)^1 .* rules? added|^1 `, does("history"))
	out, said, err = run(buildPosternPair, "kill", "--agent", "demo")
	require.Error(t, err, "it is recorded, and there is no node that could confirm it")
	require.Contains(t, out, "demo killed on 0 nodes")
	require.Regexp(t, `no node has confirmed it; it is recorded as publication \d+`, said)
	_, said, err = run(buildPosternPair, "kill", "--agent", "dmeo")
	require.Error(t, err)
	require.Contains(t, said, `the publication has no agent "dmeo", so nobody was stopped`)
	require.Contains(t, does("history"), "kill switch")

	// Without the authority's certificate no report is believed.
	require.NoError(t, os.Remove(operators.CACert()))
	_, said, err = run(buildPosternPair, "push")
	require.Error(t, err)
	require.Contains(t, said, "read the certificate of the stack's authority")
	// An address that is written as browsers show it.
	require.NoError(t, os.WriteFile(operators.StoreFile(), []byte("s3://fleet/local"), 0o600))
	_, said, err = run(buildPosternPair, "history")
	require.Error(t, err)
	require.Contains(t, said, "say where in the bucket with ?prefix=, such as s3://fleet?prefix=local/")
}
