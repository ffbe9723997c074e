package secret

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/moto"
	awssecret "github.com/postern/postern/xds/secret/aws"
	gcpsecret "github.com/postern/postern/xds/secret/gcp"
)

// place is a source of a test's: where a secret is put, changed and taken away.
type place struct {
	// url is without a field.
	url string
	put func(value string)
	// remove takes the secret away, so that the source says it is gone.
	remove func()
	// down makes the source answer nothing of use until up.
	down, up func()
	// version is set if the source has its own.
	version bool
}

func filePlace(t *testing.T) place {
	path := filepath.Join(t.TempDir(), "secret")
	return place{url: "file://" + path, put: func(v string) { file(t, path, v) }, remove: func() { require.NoError(t, os.Remove(path)) }}
}

// outage is a service that can be made to answer 503 instead.
type outage struct{ on atomic.Bool }

func (o *outage) wrap(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if o.on.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, canary)
			return
		}
		h(w, r)
	}
}

// box holds the value that a stand-in serves, nil for none.
type box struct {
	value   atomic.Pointer[string]
	version atomic.Int32
}

func (b *box) put(v string) {
	b.version.Add(1)
	b.value.Store(&v)
}

func (b *box) remove() { b.value.Store(nil) }

func webPlace(t *testing.T, _ *Store) place {
	var b box
	var o outage
	srv := serve(t, o.wrap(func(w http.ResponseWriter, _ *http.Request) {
		v := b.value.Load()
		if v == nil {
			http.NotFound(w, nil)
			return
		}
		_, _ = io.WriteString(w, *v)
	}))
	return place{url: srv.URL + "/secret?every=1s", put: b.put, remove: b.remove, down: func() { o.on.Store(true) }, up: func() { o.on.Store(false) }}
}

// vaultPlace is a stand-in for Vault, of which only the reading of KV version 2
// is there, as https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2 has it.
func vaultPlace(t *testing.T, s *Store) place {
	var b box
	var o outage
	srv := serve(t, o.wrap(func(w http.ResponseWriter, r *http.Request) {
		v := b.value.Load()
		switch {
		case r.Header.Get("X-Vault-Token") != "t0ken" || r.Header.Get("X-Vault-Request") != "true":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":["permission denied"]}`)
		case v == nil || r.URL.Path != "/v1/kv/data/team/key":
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[]}`)
		default:
			fmt.Fprintf(w, `{"request_id":"r","data":{"data":{"token":%s},"metadata":{"version":%d,"destroyed":false}}}`, strconv.Quote(*v), b.version.Load())
		}
	}))
	s.env = func(name string) string {
		return map[string]string{"VAULT_ADDR": srv.URL, "VAULT_TOKEN": "t0ken"}[name]
	}
	return place{
		url: "vault://kv/team/key?every=1s#token", put: b.put, remove: b.remove,
		down: func() { o.on.Store(true) }, up: func() { o.on.Store(false) }, version: true,
	}
}

func helperPlace(t *testing.T) place {
	dir := t.TempDir()
	script := filepath.Join(dir, "helper")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n[ -e \"$1/down\" ] && { cat \"$1/value\" >&2; exit 1; }\n[ -e \"$1/value\" ] && cat \"$1/value\"\nexit 0\n"), 0o700))
	value, down := filepath.Join(dir, "value"), filepath.Join(dir, "down")
	return place{
		url: "exec://" + script + "?every=1s&sha256=" + digestOf(t, script) + "&arg=" + dir,
		put: func(v string) { file(t, value, v) }, remove: func() { require.NoError(t, os.Remove(value)) },
		down: func() { file(t, down, "") }, up: func() { require.NoError(t, os.Remove(down)) },
	}
}

// startMoto starts the one moto_server of all tests here; TestMain ends it.
var startMoto = sync.OnceValues(func() (url string, err error) {
	url, stopMoto, err = moto.Start()
	return url, err
})

var stopMoto = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	stopMoto()
	os.Exit(code)
}

const region = "eu-west-1"

func motoConfig(t *testing.T) aws.Config {
	t.Helper()
	url, err := startMoto()
	require.NoError(t, err)
	return aws.Config{Region: region, BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "none", "")}
}

// askAWS makes the store ask AWS as who load says.
func askAWS(s *Store, load func(context.Context, string) (aws.Config, error)) {
	s.clouds[plan.SourceAWSSecretsManager] = awssecret.NewSecretsManager(newServiceClient(), load)
	s.clouds[plan.SourceAWSParamStore] = awssecret.NewParamStore(newServiceClient(), load)
}

// useAWS makes the store ask moto; down makes it ask where nobody listens.
func useAWS(t *testing.T, s *Store) (down, up func()) {
	cfg := motoConfig(t)
	var o outage
	target, err := url.Parse(*cfg.BaseEndpoint)
	require.NoError(t, err)
	proxy := serve(t, o.wrap(httputil.NewSingleHostReverseProxy(target).ServeHTTP))
	askAWS(s, func(_ context.Context, r string) (aws.Config, error) {
		c := cfg.Copy()
		c.Region, c.BaseEndpoint = r, &proxy.URL
		return c, nil
	})
	return func() { o.on.Store(true) }, func() { o.on.Store(false) }
}

func secretsManagerPlace(t *testing.T, s *Store) place {
	down, up := useAWS(t, s)
	client := secretsmanager.NewFromConfig(motoConfig(t))
	name := "team/" + strings.ReplaceAll(t.Name(), "/", "-")
	created := false
	return place{
		url: "awssecretsmanager://" + name + "?every=1s&region=" + region, down: down, up: up, version: true,
		put: func(v string) {
			var err error
			if !created {
				_, err = client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: &v})
			} else {
				_, err = client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: &v})
			}
			require.NoError(t, err)
			created = true
		},
		remove: func() {
			_, err := client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: aws.Bool(true)})
			require.NoError(t, err)
			created = false
		},
	}
}

func paramStorePlace(t *testing.T, s *Store) place {
	down, up := useAWS(t, s)
	client := ssm.NewFromConfig(motoConfig(t))
	name := "/team/" + strings.ReplaceAll(t.Name(), "/", "-")
	return place{
		url: "awsparamstore://" + name + "?every=1s&region=" + region, down: down, up: up, version: true,
		put: func(v string) {
			_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: &name, Value: &v, Type: ssmtypes.ParameterTypeSecureString, Overwrite: aws.Bool(true)})
			require.NoError(t, err)
		},
		remove: func() {
			_, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: &name})
			require.NoError(t, err)
		},
	}
}

// secretManager is a stand-in for GCP's: the two calls that reading takes, over
// real gRPC.
type secretManager struct {
	secretmanagerpb.UnimplementedSecretManagerServiceServer
	box
	off    atomic.Bool
	denied atomic.Bool
}

func (m *secretManager) AccessSecretVersion(_ context.Context, r *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	v := m.value.Load()
	name, latest := strings.CutSuffix(r.GetName(), "/versions/latest")
	switch {
	case m.off.Load():
		return nil, grpcstatus.Error(grpccodes.Unavailable, canary)
	case m.denied.Load():
		return nil, grpcstatus.Error(grpccodes.PermissionDenied, canary)
	case v == nil || !latest:
		return nil, grpcstatus.Error(grpccodes.NotFound, canary)
	}
	return &secretmanagerpb.AccessSecretVersionResponse{
		Name: fmt.Sprintf("%s/versions/%d", name, m.version.Load()), Payload: &secretmanagerpb.SecretPayload{Data: []byte(*v)},
	}, nil
}

func (m *secretManager) GetSecretVersion(_ context.Context, r *secretmanagerpb.GetSecretVersionRequest) (*secretmanagerpb.SecretVersion, error) {
	return &secretmanagerpb.SecretVersion{Name: r.GetName(), CreateTime: timestamppb.Now()}, nil
}

func serveSecretManager(t *testing.T, s *Store) *secretManager {
	m := &secretManager{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	secretmanagerpb.RegisterSecretManagerServiceServer(g, m)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	s.clouds[plan.SourceGCPSecretManager] = gcpsecret.New(func(ctx context.Context) (*secretmanager.Client, error) {
		return secretmanager.NewClient(ctx, option.WithEndpoint(l.Addr().String()), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	})
	return m
}

func secretManagerPlace(t *testing.T, s *Store) place {
	m := serveSecretManager(t, s)
	return place{
		url: "gcpsecretmanager://projects/my-project/secrets/key?every=1s", put: m.put, remove: m.remove,
		down: func() { m.off.Store(true) }, up: func() { m.off.Store(false) }, version: true,
	}
}

// state is what is known of the one credential of a test.
func (s *Store) state(t *testing.T, ok func(State, string) bool, why string) State {
	t.Helper()
	var st State
	require.Eventually(t, func() bool {
		st = s.States()[0]
		return ok(st, s.value(st.Credential))
	}, time.Minute, 5*time.Millisecond, "%s; now %+v", why, &st)
	require.NotContains(t, fmt.Sprintf("%+v", st), canary)
	return st
}

// TestSourcesLive walks each source through what happens to it: a first value,
// a rotation, an outage, another value meanwhile, the secret's removal, its
// return.
func TestSourcesLive(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"awssecretsmanager", "awsparamstore", "gcpsecretmanager", "https", "vault", "exec", "file"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
			t.Cleanup(s.Close)
			p := map[string]func(*testing.T, *Store) place{
				"awssecretsmanager": secretsManagerPlace, "awsparamstore": paramStorePlace, "gcpsecretmanager": secretManagerPlace,
				"https": webPlace, "vault": vaultPlace,
				"exec": func(t *testing.T, _ *Store) place { return helperPlace(t) }, "file": func(t *testing.T, _ *Store) place { return filePlace(t) },
			}[source](t, s)
			p.put(canary + "-1")
			require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: p.url}}))
			first := s.state(t, func(st State, v string) bool { return v == canary+"-1" && st.Problem == "" }, "it has a first value")
			require.Equal(t, source, first.Source)
			require.NotEmpty(t, first.Version)
			require.NotEqual(t, p.version, first.Version == s.fingerprint("c", []byte(canary+"-1")), "the source's own version: %s", first.Version)

			p.put(canary + "-2")
			second := s.state(t, func(st State, v string) bool { return v == canary+"-2" && st.Problem == "" }, "it is rotated")
			require.NotEqual(t, first.Version, second.Version)
			require.True(t, second.Since.After(first.Since))

			if p.down != nil {
				p.down()
				down := s.state(t, func(st State, _ string) bool { return st.Problem != "" }, "it is down")
				require.Equal(t, canary+"-2", s.value("c"), "the last value serves on")
				require.True(t, down.Working)
				require.Equal(t, second.Version, down.Version)
				require.Equal(t, second.Since, down.Since)
				require.False(t, down.Troubled.IsZero())
				require.Contains(t, down.Problem, "the value that was read before stays in use")
				p.put(canary + "-3")
				p.up()
				s.state(t, func(st State, v string) bool { return v == canary+"-3" && st.Problem == "" && st.Troubled.IsZero() }, "it is up again")
			}

			p.remove()
			gone := s.state(t, func(st State, v string) bool { return v == "" && st.Problem != "" && !st.Working }, "it is gone, and closes")
			require.Empty(t, gone.Version)
			require.True(t, gone.Since.IsZero())
			p.put(canary + "-4")
			s.state(t, func(st State, v string) bool { return v == canary+"-4" && st.Problem == "" }, "it is back")
		})
	}
}

// TestRefusals: a source that says no closes the credential at once, in words of ours.
func TestRefusals(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	elsewhere := serve(t, answer(200, canary))
	for name, c := range map[string]struct {
		refuse http.HandlerFunc
		want   string
		// working is set if the last value serves on.
		working bool
	}{
		"denied":    {answer(403, canary), "refuses the control plane this secret", false},
		"gone":      {answer(410, canary), "has no such secret", false},
		"empty":     {answer(200, "\n"), "the secret is empty", false},
		"long":      {answer(200, strings.Repeat(canary, 6000)), "more than 65536 bytes", false},
		"line":      {answer(200, canary+"\r\nx: y"), "a line break", false},
		"500":       {answer(500, canary), "answered 500", true},
		"401":       {answer(401, canary), "answered 401", true},
		"204":       {answer(204, ""), "answered 204", true},
		"too long":  {answer(200, strings.Repeat(canary, 90000)), "answered more than 1048576 bytes", true},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "redirects to another place", true},
		"half": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, canary)
		}, "broke off its answer", true},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "did not answer within", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refuse atomic.Bool
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if refuse.Load() {
					c.refuse(w, r)
					return
				}
				_, _ = io.WriteString(w, canary)
			})
			s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
			t.Cleanup(s.Close)
			s.http.Timeout = time.Second
			require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: srv.URL + "/s?every=1s"}}))
			require.Equal(t, canary, s.value("c"))
			refuse.Store(true)
			requireProblem(t, s, "c", c.want)
			require.Equal(t, c.working, s.States()[0].Working)
			require.Equal(t, c.working, s.value("c") == canary)
			refuse.Store(false)
			s.state(t, func(st State, v string) bool { return st.Problem == "" && v == canary }, "it is well again")
		})
	}
}

// TestCloudRefusals are answers of the clouds that are about the secret.
func TestCloudRefusals(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	m := serveSecretManager(t, s)
	m.put(canary)
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: "gcpsecretmanager://projects/my-project/secrets/key?every=1s"}}))
	require.Equal(t, canary, s.value("c"))
	m.denied.Store(true)
	requireProblem(t, s, "c", "refuses the control plane this secret")
	require.Empty(t, s.value("c"))

	// moto knows no policies: what AWS says is answered by hand here.
	for code, c := range map[string]struct {
		want string
		down bool
	}{
		"AccessDeniedException":   {"refuses the control plane this secret", false},
		"DecryptionFailure":       {"cannot decrypt", false},
		"InvalidRequestException": {"about to be deleted", false},
		"ExpiredTokenException":   {"answered ExpiredTokenException", true},
		"ThrottlingException":     {"answered ThrottlingException", true},
		canary:                    {"answered with an error", true},
	} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": canary})
		})
		askAWS(s, func(_ context.Context, r string) (aws.Config, error) {
			return aws.Config{Region: r, BaseEndpoint: &srv.URL, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}, nil
		})
		for _, source := range []string{"awssecretsmanager://x?region=" + region, "awsparamstore://x?region=" + region} {
			ref, err := plan.ParseReference(source)
			require.NoError(t, err)
			_, _, got := s.fetchCloud(ref)(t.Context())
			require.Contains(t, got.text, c.want)
			require.NotContains(t, got.text, canary)
			require.Equal(t, c.down, got.down, code)
		}
	}
}

// TestWithoutDriver: a program without the driver of a cloud has no secret of it, and says what to do.
func TestWithoutDriver(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	clear(s.clouds)
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: "awssecretsmanager://x?region=eu-west-1"}}))
	requireProblem(t, s, "c", "built without the drivers of clouds: run `postern up` again")
	require.Empty(t, s.value("c"))
}

// TestServicesInClear: no key is asked for, and no token of Vault's sent, where it
// could be read on its way.
func TestServicesInClear(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	askAWS(s, func(_ context.Context, r string) (aws.Config, error) {
		return aws.Config{Region: r, BaseEndpoint: aws.String("http://aws.test"), Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}, nil
	})
	s.env = func(name string) string {
		return map[string]string{"VAULT_ADDR": "http://vault.test", "VAULT_TOKEN": canary}[name]
	}
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{
		{Name: "a", Kind: plan.KindBearer, Secret: "awssecretsmanager://x?region=eu-west-1"},
		{Name: "b", Kind: plan.KindBearer, Secret: "awsparamstore://x?region=eu-west-1"},
		{Name: "c", Kind: plan.KindBearer, Secret: "vault://kv/x"},
	}))
	for _, c := range []string{"a", "b", "c"} {
		requireProblem(t, s, c, "is not https")
	}
}

// TestVaultToken: it is read each time, as Vault Agent renews it.
func TestVaultToken(t *testing.T) {
	t.Parallel()
	agents := hostpath.In(t.TempDir())
	s := NewStore(salt, agents, func() {})
	t.Cleanup(s.Close)
	p := vaultPlace(t, s)
	p.put(canary)
	path := filepath.Join(t.TempDir(), "token")
	vault := s.env("VAULT_ADDR")
	s.env = func(name string) string {
		return map[string]string{"VAULT_ADDR": vault, "VAULT_TOKEN_FILE": path}[name]
	}
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: p.url}}))
	requireProblem(t, s, "c", "there is no token for Vault in "+path)
	file(t, path, "t0ken\n")
	s.state(t, func(st State, v string) bool { return st.Problem == "" && v == canary }, "it has a token")
	require.NoError(t, os.Remove(path))
	st := s.state(t, func(st State, _ string) bool { return st.Problem != "" }, "the token is being replaced")
	require.True(t, st.Working)
	// Vault says the same of a token that has expired as of one that may not.
	file(t, path, "another")
	st = s.state(t, func(st State, v string) bool { return v == "" }, "it is refused")
	require.Contains(t, st.Problem, "refuses the control plane this secret")
	// An agent would choose whose secrets are used.
	file(t, path, "t0ken\n")
	s.state(t, func(st State, v string) bool { return st.Problem == "" && v == canary }, "it has a token again")
	require.NoError(t, agents.Record(filepath.Dir(path)))
	st = s.state(t, func(st State, v string) bool { return v == "" }, "an agent works there")
	require.Contains(t, st.Problem, "where an agent may write")
}

// TestFields: what is selected, and what is said if it cannot be.
func TestFields(t *testing.T) {
	t.Parallel()
	const document = `{"token": "s3cr3t-canary", "outer": {"inner": 12345678901234567890, "null": null, "list": ["s3cr3t-canary"]}, "Token": "upper", "empty": ""}`
	for path, want := range map[string]struct{ value, problem string }{
		"token":        {canary, ""},
		"Token":        {"upper", ""},
		"outer.inner":  {"12345678901234567890", ""},
		"TOKEN":        {"", "the secret has no field TOKEN"},
		"token.x":      {"", "the secret has no field token.x: the value that should contain token.x is not an object"},
		"outer":        {"", "field outer of the secret is not text or a number"},
		"outer.null":   {"", "field outer.null of the secret is not text or a number"},
		"outer.list":   {"", "field outer.list of the secret is not text or a number"},
		"outer.list.0": {"", "the secret has no field outer.list.0: the value that should contain outer.list.0 is not an object"},
	} {
		value, problem := pick([]byte(document), strings.Split(path, "."))
		require.Equal(t, want.value, string(value), path)
		require.Equal(t, want.problem, problem, path)
	}
	for _, malformed := range []string{"", canary, `{"token": "s3cr3t-canary"`, `{"token": "s3cr3t-canary"} x`, `"s3cr3t-canary"`, `[{"token": 1}]`} {
		value, problem := pick([]byte(malformed), []string{"token"})
		require.Nil(t, value)
		require.NotEmpty(t, problem)
		require.NotContains(t, problem, canary)
	}
}
