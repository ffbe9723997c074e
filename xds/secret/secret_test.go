package secret

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

const canary = "s3cr3t-canary"

// salt is as good as another one here.
var salt = []byte("salt")

// problems are the states of those that have one.
func (s *Store) problems() []State {
	return slices.DeleteFunc(s.States(), func(st State) bool { return st.Problem == "" })
}

// file writes a secret, whole, and returns its URL.
func file(t *testing.T, path, value string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(value), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	return "file://" + path
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func rsaPEM(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// value is what Envoy would be sent.
func (s *Store) value(credential string) string {
	return string(s.Envoy(credential, "x").GetGenericSecret().GetSecret().GetInlineBytes())
}

// TestEndpointFailures: whatever a token endpoint does, the credential is
// closed, and the reason is ours: neither the secret nor the answer is in it.
func TestEndpointFailures(t *testing.T) {
	t.Parallel()
	const said = "endpoint-says"
	answer := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	elsewhere := serve(t, answer(200, "application/json", `{"access_token": "endpoint-says-token", "expires_in": 60}`))
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"500":          {answer(500, "text/plain", said+canary), "answered 500"},
		"error code":   {answer(400, "application/json", `{"error": "invalid_client", "error_description": "endpoint-says s3cr3t-canary"}`), "answered 400 and invalid_client"},
		"unknown code": {answer(400, "application/json", `{"error": "endpoint-says"}`), "answered 400"},
		"error in 200": {answer(200, "application/json", `{"error": "invalid_grant", "access_token": "endpoint-says"}`), "answered 200 and invalid_grant"},
		"HTML":         {answer(200, "text/html", "<html>endpoint-says</html>"), "not a token"},
		"no token":     {answer(200, "application/json", `{"expires_in": 60}`), "not a token"},
		"too long":     {answer(200, "application/json", `{"access_token": "`+strings.Repeat("endpoint-says", 1<<17)+`"}`), "not a token"},
		"line break":   {answer(200, "application/json", `{"access_token": "endpoint-says\nx: y", "expires_in": 60}`), "does not fit into a header"},
		"long token":   {answer(200, "application/json", `{"access_token": "`+strings.Repeat("endpoint-says", 2000)+`"}`), "does not fit into a header"},
		"expired":      {answer(200, "application/json", `{"access_token": "endpoint-says", "expires_in": -5}`), "expired already"},
		"MAC":          {answer(200, "application/json", `{"access_token": "endpoint-says", "token_type": "mac"}`), "not of type bearer"},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, "did not answer within"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "redirects to another place"},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token": "endpoint-says"}`)
		}, "not a token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
			t.Cleanup(s.Close)
			s.http.Timeout = time.Second
			srv := serve(t, c.handler)
			source := file(t, filepath.Join(t.TempDir(), "secret"), canary)
			require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindOAuth2ClientCredentials, Username: "u", TokenURL: srv.URL, Secret: source}}))
			requireProblem(t, s, "c", c.want)
			require.NotContains(t, fmt.Sprint(s.problems()), said)
			require.Empty(t, s.value("c"))
		})
	}
}

func requireProblem(t *testing.T, s *Store, credential, want string) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, p := range s.problems() {
			if p.Credential == credential {
				return strings.Contains(p.Problem, want)
			}
		}
		return false
	}, time.Minute, 5*time.Millisecond, "%s: %s, not %v", credential, want, s.problems())
	require.NotContains(t, fmt.Sprint(s.problems()), canary)
}

// TestEndpointPlaces: tokens are asked for over https only, or on loopback.
func TestEndpointPlaces(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	key, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": canary, "private_key": rsaPEM(t), "token_uri": "http://" + canary + ".test/",
	})
	require.NoError(t, err)
	dir := t.TempDir()
	refused := serve(t, nil)
	refused.Close()
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{
		{Name: "plain", Kind: plan.KindOAuth2ClientCredentials, TokenURL: "http://token.test/", Secret: file(t, filepath.Join(dir, "a"), canary)},
		{Name: "gcp", Kind: plan.KindGCPAccessToken, Secret: file(t, filepath.Join(dir, "b"), string(key))},
		{Name: "github", Kind: plan.KindGitHubApp, TokenURL: "http://api.test", Secret: file(t, filepath.Join(dir, "c"), rsaPEM(t))},
		{Name: "down", Kind: plan.KindOAuth2ClientCredentials, TokenURL: refused.URL, Secret: file(t, filepath.Join(dir, "a"), canary)},
	}))
	requireProblem(t, s, "plain", "token.test is not https")
	requireProblem(t, s, "gcp", "the token endpoint of the service account's key is not https")
	requireProblem(t, s, "github", "api.test is not https")
	requireProblem(t, s, "down", "cannot be reached")
}

// TestMalformedSources: no source makes a panic, a value or a leak.
func TestMalformedSources(t *testing.T) {
	t.Parallel()
	kinds := []plan.Kind{
		plan.KindHeader, plan.KindBearer, plan.KindBasic, plan.KindQuery, plan.KindOAuth2ClientCredentials, plan.KindOAuth2RefreshToken,
		plan.KindGitHubApp, plan.KindAWSSigV4, plan.KindGCPAccessToken, plan.KindGCPIDToken, "nonsense", "",
	}
	down := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, source := range []string{
		"", "\n", "\x00" + canary, canary + "\r\nx: y", `{"refresh_token": 1, "x": "s3cr3t-canary"}`, `{"access_key_id": "s3cr3t-canary"}`,
		`{"access_key_id": "a b", "secret_access_key": "s3cr3t-canary"}`, `{"type": "service_account", "client_email": "s3cr3t-canary"}`,
		"-----BEGIN RSA PRIVATE KEY-----\ns3cr3t-canary\n-----END RSA PRIVATE KEY-----\n", strings.Repeat(canary, 10000), "\xff\xfe" + canary + "\x7f",
	} {
		s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
		path := file(t, filepath.Join(t.TempDir(), "secret"), source)
		var cs []plan.Credential
		for _, k := range kinds {
			cs = append(cs, plan.Credential{Name: "of " + string(k), Kind: k, Header: "x-key", Parameter: "key", TokenURL: down.URL, Secret: path})
		}
		require.NoError(t, s.Watch(t.Context(), cs))
		open := 0
		for _, c := range cs {
			if _, static := map[plan.Kind]bool{plan.KindHeader: true, plan.KindBearer: true, plan.KindBasic: true, plan.KindQuery: true}[c.Kind]; static && check([]byte(source)) == "" {
				open++
				continue
			}
			require.Empty(t, s.value(c.Name), c.Name)
		}
		require.Len(t, s.problems(), len(kinds)-open, "%.40q: %v", source, s.problems())
		require.NotContains(t, fmt.Sprint(s.problems()), canary)
		s.Close()
	}
}

// TestSourcesOutsideReach are files that are none, and unknown places.
func TestSourcesOutsideReach(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{
		{Name: "folder", Kind: plan.KindBearer, Secret: "file://" + t.TempDir()},
		{Name: "scheme", Kind: plan.KindBearer, Secret: "gopher://x"},
		{Name: "url", Kind: plan.KindBearer, Secret: "file:///%zz"},
		{Name: "unset", Kind: plan.KindBearer, Secret: "env://POSTERN_TEST_UNSET"},
	}))
	requireProblem(t, s, "folder", "is a folder, not a regular file")
	requireProblem(t, s, "scheme", "not at a known kind of place")
	requireProblem(t, s, "url", "does not name an absolute file")
	requireProblem(t, s, "unset", "was not set")
}

// TestRefreshTokenRotates: a new refresh token is used from then on, also when
// the access token has expired meanwhile; a new source starts over.
func TestRefreshTokenRotates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 100)
		var fail atomic.Bool
		m := mint(func(_ context.Context, _ *http.Client, _ plan.Credential, source []byte, refresh sealed) (*token, *failure) {
			used := string(source)
			if refresh != nil {
				used = string(refresh())
			}
			asked <- used
			if fail.Load() {
				return nil, &failure{text: "down"}
			}
			return &token{value: seal([]byte("for-" + used)), expires: time.Now().Add(time.Minute), refresh: seal([]byte(used + "+"))}, nil
		})
		s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
		readings := make(chan reading)
		ctx, cancel := context.WithCancel(t.Context())
		e := &entry{ready: make(chan struct{})}
		s.entries["c"] = e
		go (&renewal{store: s, entry: e, mint: m, readings: readings}).run(ctx)
		readings <- reading{value: seal([]byte("one"))}
		synctest.Wait()
		require.Equal(t, "one", <-asked)
		require.Equal(t, "for-one", s.value("c"))

		// Renewed at about two thirds.
		time.Sleep(35 * time.Second) //nolint:forbidigo // the clock is not real
		synctest.Wait()
		require.Empty(t, asked)
		time.Sleep(8 * time.Second) //nolint:forbidigo // as above
		synctest.Wait()
		require.Equal(t, "one+", <-asked)
		require.Equal(t, "for-one+", s.value("c"))
		require.Empty(t, s.problems())

		// An endpoint that fails: the token is used until it expires, and no longer.
		fail.Store(true)
		time.Sleep(52 * time.Second) //nolint:forbidigo // as above
		synctest.Wait()
		require.Equal(t, "for-one+", s.value("c"))
		require.Len(t, s.problems(), 1)
		require.True(t, s.problems()[0].Working)
		require.Contains(t, s.problems()[0].Problem, "cannot be renewed: down")
		time.Sleep(8 * time.Second) //nolint:forbidigo // as above
		synctest.Wait()
		require.Empty(t, s.value("c"))
		require.Equal(t, []string{"c", "down"}, []string{s.problems()[0].Credential, s.problems()[0].Problem})
		require.Less(t, len(asked), 12, "it backs off")

		// It recovers by itself, with the newest refresh token.
		fail.Store(false)
		time.Sleep(maxBackoff) //nolint:forbidigo // as above
		synctest.Wait()
		require.Contains(t, s.value("c"), "for-one++")
		require.Empty(t, s.problems())

		// A source that is gone closes at once, and a new one starts over.
		readings <- reading{problem: "gone"}
		synctest.Wait()
		require.Empty(t, s.value("c"))
		readings <- reading{value: seal([]byte("two"))}
		synctest.Wait()
		require.Equal(t, "for-two", s.value("c"))
		cancel()
		synctest.Wait()
	})
}

// TestWatchDoesNotWait: an endpoint that hangs does not hold up the rest.
func TestWatchDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		never, start := []*entry{{ready: make(chan struct{})}}, time.Now()
		require.NoError(t, wait(t.Context(), never))
		require.Equal(t, firstAttempt, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, wait(ctx, never), context.DeadlineExceeded)
	})
}

// TestNothingIsPrinted walks everything that the package hands out through
// everything that prints.
func TestNothingIsPrinted(t *testing.T) {
	t.Setenv("POSTERN_TEST_CANARY", canary)
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token": "s3cr3t-canary-minted", "expires_in": 3600, "refresh_token": "s3cr3t-canary-refresh"}`)
	})
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	dir := t.TempDir()
	cs := []plan.Credential{
		{Name: "aws", Kind: plan.KindAWSSigV4, Secret: file(t, filepath.Join(dir, "aws"), `{"access_key_id": "AKIA", "secret_access_key": "s3cr3t-canary"}`)},
		{Name: "bad", Kind: plan.KindGitHubApp, Secret: "env://POSTERN_TEST_CANARY"},
		{Name: "bearer", Kind: plan.KindBearer, Secret: "env://POSTERN_TEST_CANARY"},
		{Name: "minted", Kind: plan.KindOAuth2ClientCredentials, TokenURL: srv.URL, Secret: "env://POSTERN_TEST_CANARY"},
	}
	require.NoError(t, s.Watch(t.Context(), cs))
	require.Equal(t, canary, s.value("bearer"))
	require.Equal(t, canary+"-minted", s.value("minted"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hangs := cs[3]
	hangs.Name = "hangs"
	interrupted := s.Watch(ctx, append(cs, hangs))
	_, unsigned := s.Sign(&clusterv3.Cluster{Name: "c"})
	handed := []any{
		s, s.material("bearer"), s.material("minted"), s.material("aws"), s.problems(), interrupted, unsigned, cs,
		Differing(map[string]string{"POSTERN_TEST_CANARY": "another"}), errKeys, errKey, errTooLong,
		reading{value: seal([]byte(canary))},
		&token{value: seal([]byte(canary))}, seal([]byte(canary)),
	}
	for i, v := range handed {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		} else {
			out.WriteString(err.Error())
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v, "p", &handed[i])
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		require.NotContains(t, out.String(), canary, "%T", v)
		require.NotContains(t, out.String(), fmt.Sprintf("%x", canary), "%T", v)
		require.NotContains(t, out.String(), strings.Trim(fmt.Sprint([]byte(canary)), "[]"), "%T", v)
	}
}
