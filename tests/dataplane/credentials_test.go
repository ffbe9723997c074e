package dataplane

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// echo is an upstream that remembers requests whole and may answer with more
// than a greeting.
type echo struct {
	pin *plan.Upstream

	mu    sync.Mutex
	last  *received
	reply func(w http.ResponseWriter, r *http.Request)
}

type received struct {
	*http.Request
	body []byte
	at   time.Time
}

func newEcho(t *testing.T, f *fleet.Fleet, hosts ...string) *echo {
	t.Helper()
	path := filepath.Join(f.Home.Root, "echo.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	e := &echo{pin: &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)}}
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, hosts...)}},
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			e.mu.Lock()
			e.last = &received{r, body, time.Now()}
			reply := e.reply
			e.mu.Unlock()
			if reply != nil {
				reply(w, r)
			}
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return e
}

func (e *echo) answer(reply func(http.ResponseWriter, *http.Request)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reply = reply
}

// take returns what arrived last, once.
func (e *echo) take() *received {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.last
	e.last = nil
	return r
}

const own = "agents-own"

// ownHeaders are an agent's keys in every place it may think of, some twice.
var ownHeaders = []string{
	"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "Apikey", "X-Goog-Api-Key", "X-Amz-Security-Token", "X-Amz-Date",
	"Private-Token", "Job-Token", "Deploy-Token", "X-Auth-Token", "X-Access-Token", "Ocp-Apim-Subscription-Key", "X-Functions-Key",
	"X-Vault-Token", "X-Consul-Token", "Dd-Api-Key", "Dd-Application-Key", "X-Shopify-Access-Token", "X-Figma-Token", "Xi-Api-Key",
	"X-Subscription-Token", "Cookie", "X-Sentry-Auth", "Cf-Access-Client-Secret", "X-Some-New-Service-Api-Key", "Dpop", "Signature",
	"X-Serverless-Authorization", "X-Postern-Secret", "X-Postern-Scope", "X-Forwarded-Access-Token", "X-Envoy-Original-Path",
}

// ownQuery is the same in a query, between what must arrive as it was sent.
const (
	ownQuery = "b=2&KEY=agents-own&a=%26key%3Dx+y&k%65y=agents-own&key=agents-own&api_key=agents-own&access_token=agents-own&Token=agents-own&" +
		"X-Amz-Signature=agents-own&X-Amz-Credential=agents-own&sig=agents-own&c=1;apikey=agents-own&api.key=agents-own&access%20token[]=agents-own&auth+token=agents-own&flag&%41pi-Key=agents-own&d=%2F"
	leftQuery = "b=2&a=%26key%3Dx+y&c=1;&flag&d=%2F"
)

func newOwn(t *testing.T, method, u string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, u, body)
	require.NoError(t, err)
	for _, h := range ownHeaders {
		req.Header.Add(h, own)
		req.Header.Add(h, own+"-too")
	}
	req.Header.Set("Sec-Websocket-Protocol", "chat, openai-insecure-api-key."+own+", Bearer."+own+", v2")
	return req
}

func requireNothingOwn(t *testing.T, r *received) {
	t.Helper()
	for name, values := range r.Header {
		require.NotContains(t, strings.Join(values, " "), own, name)
	}
	for name, values := range r.Trailer {
		require.NotContains(t, strings.Join(values, " "), own, name)
	}
	require.NotContains(t, r.RequestURI, own)
	require.Equal(t, "chat, v2", r.Header.Get("Sec-Websocket-Protocol"))
	for name := range r.Header {
		require.NotContains(t, strings.ToLower(name), "postern")
	}
}

// endpoint stands for all token endpoints. What it gives out says what it was
// asked with, and it asks for exactly what each kind has to say.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	key    *rsa.PrivateKey
	count  int
	broken bool
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	e := &endpoint{key: key}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(e.key)}))
}

func (e *endpoint) serviceAccount(t *testing.T, email string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": email, "private_key_id": "k1", "private_key": e.pem(), "token_uri": e.URL + "/gcp",
	})
	require.NoError(t, err)
	return string(b)
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken {
		http.Error(w, "<html>endpoint-says-no</html>", http.StatusInternalServerError)
		return
	}
	e.count++
	claims := jwt.MapClaims{}
	verify := func(token string) bool {
		_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return &e.key.PublicKey, nil }, jwt.WithValidMethods([]string{"RS256"}))
		return err == nil
	}
	w.Header().Set("Content-Type", "application/json")
	reply := func(v map[string]any) { _ = json.NewEncoder(w).Encode(v) }
	refused := func() {
		w.WriteHeader(http.StatusBadRequest)
		reply(map[string]any{"error": "invalid_grant", "error_description": "endpoint-says-no"})
	}
	user, password, _ := r.BasicAuth()
	switch r.URL.Path {
	case "/token":
		if user != "client" {
			refused()
			return
		}
		minted := fmt.Sprintf("minted-%s-%s-%s-%s", r.FormValue("grant_type"), password, r.FormValue("refresh_token"), strings.ReplaceAll(r.FormValue("scope"), " ", "+"))
		reply(map[string]any{"access_token": minted, "token_type": "Bearer", "expires_in": 3600})
	case "/app/installations/42/access_tokens":
		if !verify(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) || claims["iss"] != "app-7" {
			refused()
			return
		}
		w.WriteHeader(http.StatusCreated)
		reply(map[string]any{"token": fmt.Sprintf("ghs_minted_%d", e.count), "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	case "/gcp":
		if !verify(r.FormValue("assertion")) {
			refused()
			return
		}
		if audience, ok := claims["target_audience"]; ok {
			id, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"aud": audience, "email": claims["iss"], "exp": time.Now().Add(time.Hour).Unix()}).SignedString(e.key)
			if err != nil {
				panic(err)
			}
			reply(map[string]any{"id_token": id})
			return
		}
		reply(map[string]any{"access_token": fmt.Sprintf("ya29.%s.%s", claims["iss"], claims["scope"]), "token_type": "Bearer", "expires_in": 3600})
	default:
		http.NotFound(w, r)
	}
}

// kindCase is one credential, what it makes of a first and a second secret, and
// where that is found in a request.
type kindCase struct {
	credential    plan.Credential
	first, second string
	// want says what is wrong with what arrived, or "".
	want func(r *received, secret string) string
	// canaries must be in no file, dump or event.
	canaries func(secret string) []string
}

func header(name string, value func(secret string) string) func(*received, string) string {
	return func(r *received, secret string) string {
		if got := r.Header.Values(name); !slices.Equal(got, []string{value(secret)}) {
			return fmt.Sprintf("%s is %q and not %q", name, got, value(secret))
		}
		if r.URL.RawQuery != leftQuery {
			return fmt.Sprintf("the query is %q", r.URL.RawQuery)
		}
		return ""
	}
}

func kindCases(t *testing.T, e *endpoint) map[string]kindCase {
	t.Helper()
	other := newEndpoint(t)
	refresh := func(token string) string {
		return fmt.Sprintf(`{"refresh_token": %q, "client_secret": "s"}`, token)
	}
	keys := func(id, key, session string) string {
		return fmt.Sprintf(`{"access_key_id": %q, "secret_access_key": %q, "session_token": %q}`, id, key, session)
	}
	value := func(secret string) []string { return []string{secret} }
	return map[string]kindCase{
		"header": {
			credential: plan.Credential{Kind: plan.KindHeader, Header: "x-api-key"},
			first:      "canary-header-1", second: "canary-header-2", canaries: value,
			want: header("X-Api-Key", func(s string) string { return s }),
		},
		"bearer": {
			credential: plan.Credential{Kind: plan.KindBearer}, first: "canary-bearer-1", second: "canary-bearer-2", canaries: value,
			want: header("Authorization", func(s string) string { return "Bearer " + s }),
		},
		"basic": {
			credential: plan.Credential{Kind: plan.KindBasic, Username: "x-access-token"}, first: "canary-basic-1", second: "canary:basic-2",
			want: header("Authorization", func(s string) string {
				return "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+s))
			}),
			canaries: func(s string) []string {
				return []string{s, base64.StdEncoding.EncodeToString([]byte("x-access-token:" + s))}
			},
		},
		"query": {
			credential: plan.Credential{Kind: plan.KindQuery, Parameter: "key"}, first: "canary-query-1", second: "canary&query=2 %2F+é",
			want: func(r *received, s string) string {
				if want := leftQuery + "&key=" + strings.ReplaceAll(url.QueryEscape(s), "+", "%20"); r.URL.RawQuery != want {
					return fmt.Sprintf("the query is %q and not %q", r.URL.RawQuery, want)
				}
				return ""
			},
			canaries: func(s string) []string { return []string{s, url.QueryEscape(s), url.PathEscape(s)} },
		},
		"oauth2-client-credentials": {
			credential: plan.Credential{Kind: plan.KindOAuth2ClientCredentials, Username: "client", TokenURL: e.URL + "/token", Scopes: []string{"a", "b"}},
			first:      "canary-cc-1", second: "canary-cc-2",
			want:     header("Authorization", func(s string) string { return "Bearer minted-client_credentials-" + s + "--a+b" }),
			canaries: value,
		},
		"oauth2-refresh-token": {
			credential: plan.Credential{Kind: plan.KindOAuth2RefreshToken, Username: "client", TokenURL: e.URL + "/token"},
			first:      refresh("canary-refresh-1"), second: refresh("canary-refresh-2"),
			want: header("Authorization", func(s string) string {
				return "Bearer minted-refresh_token-s-" + strings.Split(s, `"`)[3] + "-"
			}),
			canaries: func(s string) []string { return []string{strings.Split(s, `"`)[3]} },
		},
		"github-app": {
			credential: plan.Credential{Kind: plan.KindGitHubApp, App: "app-7", Installation: "42", TokenURL: e.URL},
			first:      e.pem(), second: e.pem() + "\n\n",
			want: func(r *received, _ string) string {
				if got := r.Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ghs_minted_") {
					return "authorization is " + got
				}
				return ""
			},
			canaries: func(s string) []string { return []string{strings.Split(s, "\n")[2], "ghs_minted_"} },
		},
		"gcp-access-token": {
			credential: plan.Credential{Kind: plan.KindGCPAccessToken, Scopes: []string{"s1", "s2"}},
			first:      e.serviceAccount(t, "one@gcp.test"), second: other.serviceAccount(t, "two@gcp.test"),
			want: header("Authorization", func(s string) string {
				if strings.Contains(s, "one@") {
					return "Bearer ya29.one@gcp.test.s1 s2"
				}
				return "Bearer ya29.two@gcp.test.s1 s2"
			}),
			canaries: func(string) []string { return []string{"ya29."} },
		},
		"gcp-id-token": {
			credential: plan.Credential{Kind: plan.KindGCPIDToken, Audience: "https://run.test"},
			first:      e.serviceAccount(t, "one@gcp.test"), second: other.serviceAccount(t, "two@gcp.test"),
			want: func(r *received, s string) string {
				claims := jwt.MapClaims{}
				_, _, err := jwt.NewParser().ParseUnverified(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), claims)
				if err != nil || claims["aud"] != "https://run.test" || !strings.Contains(s, fmt.Sprint(claims["email"])) {
					return fmt.Sprintf("claims are %v %v", claims, err)
				}
				return ""
			},
			canaries: func(string) []string { return nil },
		},
		"aws-s3": {
			credential: plan.Credential{Kind: plan.KindAWSSigV4, Service: "s3", Region: "eu-west-1"},
			first:      keys("AKIACANARY1", "canary-aws-1", ""), second: keys("AKIACANARY2", "canary-aws-2", "canary-session-2"),
			want:     signature("s3", "eu-west-1"),
			canaries: func(s string) []string { return strings.Split(s, `"`)[7:8] },
		},
		"aws-bedrock": {
			credential: plan.Credential{Kind: plan.KindAWSSigV4, Service: "bedrock", Region: "us-east-1"},
			first:      keys("AKIACANARY3", "canary-aws-3", "canary-session-3"), second: keys("AKIACANARY4", "canary-aws-4", ""),
			want:     signature("bedrock", "us-east-1"),
			canaries: func(s string) []string { return strings.Split(s, `"`)[7:8] },
		},
	}
}

// signature computes the signature again, with AWS's own signer.
func signature(service, region string) func(*received, string) string {
	return func(r *received, source string) string {
		var k struct {
			ID      string `json:"access_key_id"`
			Key     string `json:"secret_access_key"`
			Session string `json:"session_token"`
		}
		if err := json.Unmarshal([]byte(source), &k); err != nil {
			return err.Error()
		}
		got := r.Header.Values("Authorization")
		if len(got) != 1 {
			return fmt.Sprintf("authorization is %q", got)
		}
		_, rest, _ := strings.Cut(got[0], "SignedHeaders=")
		signed, _, _ := strings.Cut(rest, ",")
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			return err.Error()
		}
		again, err := http.NewRequestWithContext(context.Background(), r.Method, "https://"+r.Host+r.RequestURI, nil)
		if err != nil {
			return err.Error()
		}
		for _, h := range strings.Split(signed, ";") {
			if h != "host" {
				again.Header[http.CanonicalHeaderKey(h)] = r.Header.Values(h)
			}
		}
		sum := sha256.Sum256(r.body)
		digest := hex.EncodeToString(sum[:])
		if service == "s3" {
			digest = "UNSIGNED-PAYLOAD"
			if !strings.Contains(signed, "x-amz-content-sha256") {
				return "the digest is not signed"
			}
		}
		err = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" }).SignHTTP(context.Background(),
			aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Key, SessionToken: k.Session}, again, digest, service, region, at)
		if err != nil {
			return err.Error()
		}
		if want := again.Header.Get("Authorization"); got[0] != want {
			return fmt.Sprintf("authorization is\n%q and not\n%q", got[0], want)
		}
		if k.Session != "" && !strings.Contains(signed, "x-amz-security-token") {
			return "the session token is not signed"
		}
		return ""
	}
}

// TestCredentialKinds: of every kind, the credential arrives; it overwrites the
// agent's own, whatever slot that is in; a new source is used; a lost or
// malformed one fails its own routes closed; and no secret is in any file,
// dump or event.
func TestCredentialKinds(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	e := newEndpoint(t)
	cases := kindCases(t, e)
	hosts := []string{"plain.test"}
	for name := range cases {
		hosts = append(hosts, name+".test")
	}
	slices.Sort(hosts)
	up := newEcho(t, f, hosts...)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}}
	secrets := t.TempDir()
	put := func(name, value string) {
		t.Helper()
		path := filepath.Join(secrets, name)
		require.NoError(t, os.WriteFile(path+".new", []byte(value), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	for _, h := range hosts {
		name := strings.TrimSuffix(h, ".test")
		r := plan.Rule{ID: "a/" + name, Host: h, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.pin}
		if c, ok := cases[name]; ok {
			r.Credential = name
			c.credential.Name, c.credential.Secret = name, "file://"+filepath.Join(secrets, name)
			put(name, c.first)
			p.Credentials = append(p.Credentials, c.credential)
		}
		p.Agents[0].Rules = append(p.Agents[0].Rules, r)
	}
	f.MustPublish(p)
	client := f.Client("n1", "a")
	do := func(method, host, body string, more map[string]string) (int, string, *received) {
		t.Helper()
		query := ownQuery
		if strings.HasPrefix(host, "aws-") {
			// Go's parser, which AWS's signer uses, takes no semicolons.
			query = strings.Replace(query, ";apikey="+own, "", 1)
		}
		req := newOwn(t, method, "https://"+host+"/v1/a%20b//c?"+query, strings.NewReader(body))
		for name, value := range more {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(answer), up.take()
	}
	send := func(host string) (int, string, *received) {
		t.Helper()
		return do(http.MethodPost, host, "the body", map[string]string{"Content-Type": "text/plain"})
	}
	arrives := func(name, secret string) {
		t.Helper()
		last := ""
		require.Eventually(t, func() bool {
			status, body, r := send(name + ".test")
			if last = fmt.Sprint(status, body); r != nil {
				requireNothingOwn(t, r)
				last = cases[name].want(r, secret)
			}
			return last == ""
		}, time.Minute, 20*time.Millisecond, "%s arrives", name)
		require.Empty(t, last)
	}
	problem := func(name string) string {
		s, err := f.API.Status(t.Context())
		require.NoError(t, err)
		for _, c := range s.Credentials {
			if c.Name == name {
				require.Equal(t, c.Problem == "", c.OK)
				return c.Problem
			}
		}
		return "not there"
	}
	closed := func(name, why string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, body, r := send(name + ".test")
			return status == 502 && r == nil && strings.Contains(body, string(plan.ReasonCredential)) && strings.Contains(problem(name), why)
		}, time.Minute, 20*time.Millisecond, "%s fails closed: %s", name, why)
	}
	var canaries []string
	for name, c := range cases {
		for _, s := range []string{c.first, c.second} {
			canaries = append(canaries, c.canaries(s)...)
		}
		require.Empty(t, problem(name))
		status, body, r := send(name + ".test")
		require.Equal(t, 200, status, "%s: %s", name, body)
		requireNothingOwn(t, r)
		require.Empty(t, c.want(r, c.first), name)
		if c.credential.Kind != plan.KindAWSSigV4 { // what is wanted of it is a signature with a body
			status, body, r = do(http.MethodGet, name+".test", "", map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"})
			require.Equal(t, 200, status, "%s: %s", name, body)
			require.Equal(t, "websocket", r.Header.Get("Upgrade"))
			requireNothingOwn(t, r)
			require.Empty(t, c.want(r, c.first), name)
		}
		put(name, c.second)
	}
	for name, c := range cases {
		arrives(name, c.second)
	}
	clean := func() {
		t.Helper()
		text := f.Admin("n1", "/config_dump?include_eds") + f.Admin("n1", "/stats") + f.Admin("n1", "/clusters")
		require.NoError(t, filepath.WalkDir(f.Home.Root, func(p string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			text += string(b)
			return err
		}))
		require.Contains(t, text, "a/bearer")
		for _, c := range canaries {
			require.NotContains(t, text, c)
		}
	}
	clean()
	for name := range cases {
		require.NoError(t, os.Remove(filepath.Join(secrets, name)))
	}
	for name := range cases {
		closed(name, "there is no file")
		put(name, "")
	}
	for name := range cases {
		closed(name, "the secret is empty")
	}
	status, body, r := send("plain.test")
	require.Equal(t, 200, status, body)
	requireNothingOwn(t, r)
	require.Equal(t, leftQuery, r.URL.RawQuery)
	require.Equal(t, "/v1/a%20b/c", r.URL.EscapedPath())
	require.Empty(t, r.Header.Get("Authorization"))
	for name, why := range map[string]string{
		"bearer": "line break", "basic": "line break", "query": "line break", "oauth2-refresh-token": "not JSON", "github-app": "PEM",
		"gcp-access-token": "service account", "gcp-id-token": "service account", "aws-s3": "not JSON",
	} {
		put(name, "canary-malformed\nsecret")
		closed(name, why)
		require.NotContains(t, problem(name), "canary")
	}
	for name, c := range cases {
		put(name, c.first)
	}
	for name, c := range cases {
		arrives(name, c.first)
	}
	clean()
}
