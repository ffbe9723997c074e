package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/home"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/tests/moto"
	"github.com/postern/postern/xds/api"
)

var programs fleet.Programs

func TestMain(m *testing.M) {
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

const (
	region = "eu-west-1"
	// patience bounds what is waited for, on a busy machine.
	patience = 40 * time.Second
)

// stack is one on "AWS".
type stack struct {
	t    testing.TB
	root string
	// environment is where AWS is, for every program.
	environment []string
	secrets     *secretsmanager.Client
	store       string
	operator    home.Folder
	file        string
	up          *fleet.Upstream
	port        uint16
	// kmsAway makes KMS break off every connection.
	kmsAway atomic.Bool

	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes what the programs say.
func (s *stack) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *stack) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *stack) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

func (s *stack) write(name, content string) string {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(content), 0o600))
	return s.path(name)
}

// must runs a program and returns what it prints.
func (s *stack) must(path string, args ...string) string {
	s.t.Helper()
	out, err := s.try(path, args...)
	require.NoError(s.t, err, "%s\n%s", out, s.said())
	return out
}

func (s *stack) try(path string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), path, args...)
	cmd.Env = append(os.Environ(), s.environment...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %q: %w: %s", filepath.Base(path), args, err, errs.String())
	}
	return out.String(), err
}

func (s *stack) program(name, as, tags string) string {
	s.t.Helper()
	path, err := programs.Build(name, as, tags)
	require.NoError(s.t, err)
	return path
}

// postern is the operator's command, which becomes postern-cloud by itself.
func (s *stack) postern(args ...string) string {
	s.t.Helper()
	s.program("postern", "postern-cloud", "cloud")
	return s.must(s.program("postern", "postern", ""), append(args, "--file", s.file)...)
}

func (s *stack) posternd() string { return s.program("posternd", "posternd", "cloud") }

// newStack makes what there is before a control plane starts, in the way of
// docs/aws.md.
func newStack(t testing.TB) (s *stack, control document.Controller, proxy document.Proxy) {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	root, err := os.MkdirTemp("", "remote")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	server, stop, err := moto.StartWithKMS()
	t.Cleanup(stop)
	require.NoError(t, err)
	s = &stack{t: t, root: root}
	s.environment = []string{
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL=" + server, "AWS_ENDPOINT_URL_KMS=" + s.kms(server), "POSTERN_HOME=" + filepath.Join(root, "operators"),
	}
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region), config.WithBaseEndpoint(server), config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("test", "test", "")))
	require.NoError(t, err)
	s.secrets = secretsmanager.NewFromConfig(cfg)
	_, err = s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }).CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket: aws.String("bundles"), CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region},
	})
	require.NoError(t, err)
	s.store = "s3://bundles?region=" + region + "&use_path_style=true"
	_, err = s.secrets.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("prod/key"), SecretString: aws.String("canary-one")})
	require.NoError(t, err)
	key, err := kms.NewFromConfig(cfg).CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	require.NoError(t, err)
	caKey := "awskms://" + *key.KeyMetadata.KeyId + "?region=" + region

	upstreams := fleet.NewCA(t, "upstream")
	s.up = fleet.NewUpstream(t, home.Folder{Root: root}, upstreams, "api.test")
	s.write("upstream.pem", string(upstreams.PEM))
	s.port = fleet.FreePort(t)
	s.must(s.posternd(), "authority", "--stack", "prod", "--agents-key", caKey, root)
	s.must(s.posternd(), "authority", "--stack", "prod", s.path("fleet"))
	token := s.must(s.posternd(), "token", s.path("fleet"))

	s.file = s.write("prod.yaml", "version: 1\n") // it does not load yet
	s.write("operators.pem", s.postern("operator", "--store", s.store))
	s.writeStack("first")
	s.postern("operator")
	s.operator, err = operatorHome(s.environment, s.file)
	require.NoError(t, err)

	read := func(parts ...string) string {
		b, err := os.ReadFile(s.path(parts...))
		require.NoError(t, err)
		return string(b)
	}
	place := document.Place{Partition: "aws", Region: region, Account: "123456789012"}
	control = document.Controller{
		Place: place, Stack: "prod", Image: "image", Group: "group", Store: s.store, CA: read("agents-ca.pem"), FleetCA: read("fleet", "ca.pem"), Operators: read("operators.pem"),
		CAKey: document.ARN(caKey), FleetCAKey: document.ARN(read("fleet", "ca.key")), Tokens: document.ARN(read("fleet", "tokens")),
	}
	proxy = document.Proxy{Place: place, Stack: "prod", Image: "image", Group: "group", Ports: []uint16{s.port}, FleetCA: control.FleetCA, Token: document.ARN(strings.TrimSpace(token))}
	return s, control, proxy
}

// kms is where KMS is: moto's, unless it is away.
func (s *stack) kms(server string) string {
	to, err := url.Parse(server)
	require.NoError(s.t, err)
	next := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.kmsAway.Load() {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	}))
	s.t.Cleanup(front.Close)
	return front.URL
}

// operatorHome is the operator's folder, where the commands have it.
func operatorHome(environment []string, file string) (home.Folder, error) {
	for _, e := range environment {
		if dir, ok := strings.CutPrefix(e, "POSTERN_HOME="); ok {
			found, err := filepath.Glob(filepath.Join(dir, strings.TrimSuffix(filepath.Base(file), ".yaml")+"-*"))
			if err != nil || len(found) != 1 {
				return home.Folder{}, fmt.Errorf("%q: %w", found, err)
			}
			return home.Folder{Root: found[0]}, nil
		}
	}
	return home.Folder{}, os.ErrNotExist
}

// writeStack writes the stack file: agents may have the path, and the hosts.
func (s *stack) writeStack(path string, hosts ...string) {
	s.t.Helper()
	other, allow := "", ""
	for i, h := range hosts {
		other += fmt.Sprintf("  other-%d: {host: %s}\n", i, h)
		allow += fmt.Sprintf(", other-%d", i)
	}
	zeros := strings.Repeat("0", 64)
	s.write("prod.yaml", fmt.Sprintf(`version: 1
target: aws
aws:
  account: "123456789012"
  region: eu-west-1
  image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/postern@sha256:%[1]s
  ca: agents-ca.pem
  fleet_ca: fleet/ca.pem
  operators: operators.pem
  agents:
    coder: {compute: fargate, port: %[2]d, image: "123456789012.dkr.ecr.eu-west-1.amazonaws.com/coder@sha256:%[1]s"}
credentials:
  key: {kind: header, header: x-api-key, secret: "awssecretsmanager://prod/key?region=eu-west-1&every=2s"}
destinations:
  api: {host: api.test, methods: [GET], paths: [/always, /%[3]s], credential: key, upstream: {address: "unix:upstream-api.test.sock", ca: upstream.pem}}
%[4]sagents:
  coder: {allow: [api%[5]s]}
`, zeros, s.port, path, other, allow))
}

// start runs a task's container as a process: its command, its variables and
// the values of its secrets, with folders and addresses of this machine.
func (s *stack) start(dir string, c document.Container, replaced map[string]string, more ...string) *fleet.Program {
	s.t.Helper()
	args := make([]string, 0, len(c.Command)+len(more))
	for _, a := range c.Command {
		if r, ok := replaced[a]; ok {
			a = r
		}
		args = append(args, strings.Replace(a, document.StateDir, dir, 1))
	}
	environment := append([]string{"SSL_CERT_FILE=" + s.path("upstream.pem")}, s.environment...)
	for _, v := range c.Environment {
		environment = append(environment, v.Name+"="+v.Value)
	}
	for _, v := range c.Secrets {
		environment = append(environment, v.Name+"="+string(v.ValueFrom))
	}
	return fleet.Start(s.t, s, environment, s.posternd(), append(args, more...)...)
}

// healthy requires that a task that was started there passes its health check.
func (s *stack) healthy(name string, c document.Container) {
	s.t.Helper()
	check := c.HealthCheck.Command
	require.Equal(s.t, []string{"CMD", "/usr/local/bin/posternd"}, check[:2])
	args := make([]string, 0, len(check))
	for _, a := range check[2:] {
		args = append(args, strings.Replace(a, document.StateDir, s.path(name), 1))
	}
	s.must(s.posternd(), args...)
}

func address(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// agent is a client behind a load balancer: each request a connection of its own.
func (s *stack) agent() *http.Client {
	b, err := os.ReadFile(s.path("agents-ca.pem"))
	require.NoError(s.t, err)
	c := fleet.AgentClient(&fleet.CA{PEM: b}, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address(s.port))
		if err != nil {
			return nil, err
		}
		_, err = conn.Write(fleet.Header())
		return conn, err
	})
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return c
}

// get returns the status of a request; 0 and why if there was no answer.
func get(c *http.Client, path string) (int, error) {
	resp, err := c.Get("https://api.test" + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// ready asks what a load balancer asks, with the header that it writes.
func ready(port uint16) bool {
	conn, err := net.Dial("tcp", address(port))
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append(fleet.Header(), "GET /readyz HTTP/1.0\r\n\r\n"...)); err != nil {
		return false
	}
	b, _ := io.ReadAll(conn)
	return bytes.HasPrefix(b, []byte("HTTP/1.0 200"))
}

// status is what `postern status` shows, by the store alone.
func (s *stack) status() *api.Status {
	s.t.Helper()
	var st api.Status
	require.NoError(s.t, json.Unmarshal([]byte(s.postern("status", "--json")), &st))
	return &st
}

// await waits for something that nothing else tells of: the store is looked
// into every second.
func (s *stack) await(what string, reached func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if reached() {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	require.FailNow(s.t, what+": it never came", s.said())
}

// reports are the nodes of each replica that reports now.
func (s *stack) reports() map[string]int {
	nodes := map[string]int{}
	for _, r := range s.status().Replicas {
		if !r.Stale {
			nodes[r.ID] = r.Connected
		}
	}
	return nodes
}
