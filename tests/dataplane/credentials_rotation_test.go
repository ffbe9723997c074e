package dataplane

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/tests/moto"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
	_ "github.com/postern/postern/xds/secret/aws"
)

// rotated is a secret in a source that is not a file of ours alone.
type rotated struct {
	url string
	put func(value string)
}

// rotationCanary has in it what encodings change.
const rotationCanary = "canary+/=~rotated"

// logbook is a log in memory.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *logbook) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *logbook) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// forms are a secret as it might turn up where it must not.
func forms(value string) []string {
	all := []string{value, url.QueryEscape(value), url.PathEscape(value), hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value)))}
	// Base64 of a text that the value is somewhere in: its middle, for each place it may begin at.
	for before := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			s := enc.EncodeToString([]byte(strings.Repeat("x", before) + value))
			all = append(all, s[4:len(s)-3])
		}
	}
	if quoted, err := json.Marshal(value); err == nil {
		all = append(all, strings.Trim(string(quoted), `"`))
	}
	return all
}

// rotatedSources are all kinds of sources that can change, but for GCP's, whose
// library has no way to be pointed elsewhere from outside: package secret's own
// tests have it. What is in the environment is for this whole process.
func rotatedSources(t *testing.T) map[string]rotated {
	t.Helper()
	awsURL, stop, err := moto.Start()
	t.Cleanup(stop)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": awsURL, "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "VAULT_TOKEN": "t0ken",
	} {
		t.Setenv(name, value)
	}
	cfg := aws.Config{Region: "eu-west-1", BaseEndpoint: &awsURL, Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "none", "")}
	manager, store := secretsmanager.NewFromConfig(cfg), ssm.NewFromConfig(cfg)
	var web, vault atomic.Pointer[string]
	var version atomic.Int32
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	webURL := serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, *web.Load()) })
	// A stand-in for Vault: one secret of KV version 2.
	t.Setenv("VAULT_ADDR", serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "t0ken" || r.URL.Path != "/v1/kv/data/rotated" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"data":{"data":{"token":%q},"metadata":{"version":%d}}}`, *vault.Load(), version.Load())
	}))
	dir := t.TempDir()
	script := filepath.Join(dir, "helper")
	program := []byte("#!/bin/sh\ncat \"$1\"\n")
	require.NoError(t, os.WriteFile(script, program, 0o700))
	put := func(path, v string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(v), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	created := false
	return map[string]rotated{
		"file": {"file://" + filepath.Join(dir, "file"), func(v string) { put(filepath.Join(dir, "file"), v) }},
		"exec": {fmt.Sprintf("exec://%s?every=1s&sha256=%x&arg=", script, sha256.Sum256(program)) + filepath.Join(dir, "exec") + "#outer.inner", func(v string) {
			put(filepath.Join(dir, "exec"), fmt.Sprintf(`{"outer": {"inner": %q}}`, v))
		}},
		"https": {webURL + "/secret?every=1s", func(v string) { web.Store(&v) }},
		"vault": {"vault://kv/rotated?every=1s#token", func(v string) { version.Add(1); vault.Store(&v) }},
		"awssecretsmanager": {"awssecretsmanager://rotated?every=1s&region=eu-west-1", func(v string) {
			var err error
			if !created {
				_, err = manager.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("rotated"), SecretString: &v})
			} else {
				_, err = manager.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: aws.String("rotated"), SecretString: &v})
			}
			require.NoError(t, err)
			created = true
		}},
		"awsparamstore": {"awsparamstore:///team/rotated?every=1s&region=eu-west-1", func(v string) {
			_, err := store.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/team/rotated"), Value: &v, Type: ssmtypes.ParameterTypeSecureString, Overwrite: aws.Bool(true)})
			require.NoError(t, err)
		}},
	}
}

// TestRotationUnderTraffic: every kind of source is rotated while requests are
// made on two nodes. None fails, each has the old value or the new one, one that
// is on its way keeps the old. And the values are nowhere but at the upstream.
//
//nolint:paralleltest // the clouds' libraries read the environment
func TestRotationUnderTraffic(t *testing.T) {
	f := fleet.New(t, 0)
	f.StopControl()
	sources, log := rotatedSources(t), new(logbook)
	f.Configure = func(c *xds.Config) {
		c.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	f.StartControl()
	f.StartNode("n1")
	f.StartNode("n2")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}}
	value := func(name string, n int) string { return fmt.Sprintf("%s-%s-%d", rotationCanary, name, n) }
	var hosts []string
	for name := range sources {
		hosts = append(hosts, name+".test")
	}
	up := f.NewUpstream(hosts...)
	for name, s := range sources {
		s.put(value(name, 1))
		p.Credentials = append(p.Credentials, plan.Credential{Name: name, Kind: plan.KindBearer, Header: "authorization", Secret: s.url})
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
			ID: "a/" + name, Host: name + ".test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/**"}, Credential: name, Upstream: up.Pin(),
		})
	}
	f.MustPublish(p)
	versions := func() map[string]api.Credential {
		s, err := f.API.Status(t.Context())
		require.NoError(t, err)
		all := map[string]api.Credential{}
		for _, c := range s.Credentials {
			all[c.Name] = c
		}
		return all
	}
	var before map[string]api.Credential
	require.Eventually(t, func() bool {
		before = versions()
		for name := range sources {
			if !before[name].OK || before[name].Version == "" || f.Get("n1", "a", "https://"+name+".test/") != 200 || f.Get("n2", "a", "https://"+name+".test/") != 200 {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond, "every source is read: %+v", before)
	up.Seen()

	// Requests that begin before the rotation and end after it.
	var ends []func()
	for name := range sources {
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+name+".test/long", r)
		require.NoError(t, err)
		client := f.Client("n1", "a")
		client.Timeout = 5 * time.Minute
		answer := make(chan int, 1)
		go func() {
			resp, err := client.Do(req)
			if err != nil {
				answer <- 0
				return
			}
			_ = resp.Body.Close()
			answer <- resp.StatusCode
		}()
		_, err = io.WriteString(w, "begin")
		require.NoError(t, err)
		ends = append(ends, func() {
			require.NoError(t, w.Close())
			require.Equal(t, 200, <-answer, "%s: a request that was on its way", name)
		})
	}
	require.Eventually(t, func() bool { return up.Open() >= len(sources) }, time.Minute, 5*time.Millisecond, "they are on their way")

	stop, wg := make(chan struct{}), sync.WaitGroup{}
	var failed, done atomic.Int64
	for _, node := range []string{"n1", "n2"} {
		client := f.Client(node, "a")
		wg.Go(func() {
			for {
				for name := range sources {
					select {
					case <-stop:
						return
					default:
					}
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+name+".test/"+node, nil)
					resp, err := client.Do(req)
					if err != nil || resp.StatusCode != 200 {
						failed.Add(1)
					}
					if err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
					done.Add(1)
				}
			}
		})
	}
	for name, s := range sources {
		s.put(value(name, 2))
	}
	seen := map[string]map[string]int{}
	count := func() {
		for _, r := range up.Seen() {
			name := strings.TrimSuffix(r.Host, ".test")
			got := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			require.Contains(t, []string{value(name, 1), value(name, 2)}, got)
			if r.URL.Path == "/long" {
				require.Equal(t, value(name, 1), got, "the old value serves what was on its way")
				continue
			}
			key := name + r.URL.Path
			if seen[key] == nil {
				seen[key] = map[string]int{}
			}
			seen[key][got]++
		}
	}
	require.Eventually(t, func() bool {
		count()
		for name := range sources {
			if seen[name+"/n1"][value(name, 2)] == 0 || seen[name+"/n2"][value(name, 2)] == 0 {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond, "every rotation reaches both nodes")
	for _, end := range ends {
		end()
	}
	close(stop)
	wg.Wait()
	require.Zero(t, failed.Load(), "of %d requests", done.Load())
	after := versions()
	for name := range sources {
		require.Equal(t, name, after[name].Source)
		require.NotEqual(t, before[name].Version, after[name].Version, name)
		require.True(t, after[name].Since.After(before[name].Since), name)
		require.Empty(t, after[name].Problem, name)
	}

	var canaries []string
	for name := range sources {
		canaries = append(canaries, forms(value(name, 1))...)
		canaries = append(canaries, forms(value(name, 2))...)
	}
	text := map[string]string{"control plane's log": log.String()}
	metrics := httptest.NewRecorder()
	f.Observability.ServeHTTP(metrics, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text["metrics"] = metrics.Body.String()
	for _, node := range []string{"n1", "n2"} {
		for _, page := range []string{"/config_dump?include_eds", "/stats", "/clusters", "/listeners", "/certs", "/init_dump", "/server_info", "/memory"} {
			text[node+page] = f.Admin(node, page)
		}
	}
	status, err := f.API.Status(t.Context())
	require.NoError(t, err)
	b, err := json.Marshal(status)
	require.NoError(t, err)
	text["status"] = string(b) + fmt.Sprintf("%#v %+v", status, status)
	require.NoError(t, filepath.WalkDir(f.Home.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		text[path] = string(b)
		return err
	}))
	require.Contains(t, text["n1/config_dump?include_eds"], "a/vault")
	require.Contains(t, text["control plane's log"], `"msg":`)
	require.Contains(t, text["metrics"], "postern")
	for where, s := range text {
		for _, c := range canaries {
			if strings.Contains(s, c) {
				t.Errorf("a secret is in %s, in one form or another", where)
			}
		}
	}
}
