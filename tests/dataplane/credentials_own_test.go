package dataplane

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestOwnCredentials: a rule may let the agent's own keys pass, but never what
// is the proxy's.
func TestOwnCredentials(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "own.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/own", Host: "own.test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath},
		Upstream: up.pin, OwnCredentials: true,
	}}}}})
	resp, err := f.Client("n1", "a").Do(newOwn(t, http.MethodGet, "https://own.test/x?"+ownQuery, nil))
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	r := up.take()
	require.Equal(t, []string{own, own + "-too"}, r.Header.Values("X-Api-Key"))
	require.Equal(t, ownQuery, r.URL.RawQuery)
	for _, h := range []string{
		"Proxy-Authorization", "X-Postern-Secret", "X-Postern-Scope", "X-Forwarded-Access-Token",
		"X-Envoy-Original-Path",
	} {
		require.Empty(t, r.Header.Values(h), h)
	}
}

// TestEchoedCredential: an upstream that sends the credential back, in whatever
// header, does not get it to the agent; everything else of its answer arrives.
func TestEchoedCredential(t *testing.T) {
	t.Parallel()
	const canary = "canary+echo/1"
	f := fleet.New(t, 1)
	up := newEcho(t, f, "header.test", "query.test", "basic.test")
	path := f.Secret("echo", canary)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}, Credentials: []plan.Credential{
		{Name: "basic", Kind: plan.KindBasic, Username: "u", Secret: "file://" + path},
		{Name: "header", Kind: plan.KindBearer, Secret: "file://" + path},
		{Name: "query", Kind: plan.KindQuery, Parameter: "key", Secret: "file://" + path},
	}}
	for _, c := range p.Credentials {
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
			ID: "a/" + c.Name, Host: c.Name + ".test", Port: 443, Methods: []string{"GET"},
			Paths: []string{plan.AnyPath}, Upstream: up.pin, Credential: c.Name,
		})
	}
	f.MustPublish(p)
	up.answer(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		credential := r.Header.Get("Authorization") + r.URL.Query().Get("key")
		h.Set("Authorization", credential)
		h.Set("X-Echo", "you sent "+credential)
		h.Set("X-Url", r.RequestURI)
		h.Add("Set-Cookie", "session=1")
		h.Add("Set-Cookie", "two=2")
		h.Set("Location", "https://"+r.Host+"/next?"+r.URL.RawQuery)
		h.Set("X-Api-Key", "some-other")
		h.Set("X-Request", "42")
		h.Set("Www-Authenticate", "Bearer realm=x")
		h.Set("Trailer", "Authorization")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "bodies are not looked at")
		h.Set(http.TrailerPrefix+"X-Auth-Token", credential)
		h.Set("Authorization", credential)
	})
	encoded := base64.StdEncoding.EncodeToString([]byte("u:" + canary))
	for _, c := range p.Credentials {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.Name+".test/x?a=1", nil)
		require.NoError(t, err)
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, "bodies are not looked at", string(body))
		require.Equal(t, http.StatusFound, resp.StatusCode)
		require.NotNil(t, up.take())
		for _, s := range []http.Header{resp.Header, resp.Trailer} {
			for name, values := range s {
				for _, secret := range []string{canary, url.QueryEscape(canary), encoded} {
					require.NotContains(t, strings.Join(values, " "), secret, "%s: %s", c.Name, name)
				}
			}
			require.Empty(t, s.Values("Authorization"))
			require.Empty(t, s.Values("X-Auth-Token"))
			require.Empty(t, s.Values("X-Api-Key"))
		}
		require.Equal(t, []string{"session=1", "two=2"}, resp.Header.Values("Set-Cookie"))
		require.Equal(t, "42", resp.Header.Get("X-Request"))
		require.Equal(t, "Bearer realm=x", resp.Header.Get("Www-Authenticate"))
		require.Contains(t, resp.Header.Get("Location"), "/next?a=1")
	}
}

// TestSpelledCredential: an upstream that sends the credential back without what
// the policy has put before it, or as base64 or hex, does not get it to the agent.
func TestSpelledCredential(t *testing.T) {
	t.Parallel()
	const canary = "canary?~spelled/\xff>1"
	f := fleet.New(t, 1)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}}
	for name, c := range map[string]plan.Credential{
		"dashed":  {Kind: plan.KindHeader, Header: "authorization", Prefix: "sso-key "},
		"equals":  {Kind: plan.KindHeader, Header: "x-team", Prefix: "Token token="},
		"digits":  {Kind: plan.KindHeader, Header: "x-team", Prefix: "AWS4 100%REQ(x)% "},
		"bare":    {Kind: plan.KindHeader, Header: "x-team"},
		"bearer":  {Kind: plan.KindBearer},
		"basic":   {Kind: plan.KindBasic, Username: "u"},
		"query":   {Kind: plan.KindQuery, Parameter: "q"},
		"written": {Kind: plan.KindHeader, Header: "authorization", Secret: "Bearer " + canary},
		"short":   {Kind: plan.KindBearer, Secret: "pin-1"},
	} {
		secret := canary
		if c.Secret != "" {
			secret = c.Secret
		}
		c.Name, c.Secret = name, "file://"+f.Secret(name, secret)
		p.Credentials = append(p.Credentials, c)
	}
	slices.SortFunc(p.Credentials, func(a, b plan.Credential) int { return strings.Compare(a.Name, b.Name) })
	hosts := make([]string, 0, len(p.Credentials))
	for _, c := range p.Credentials {
		hosts = append(hosts, c.Name+".test")
	}
	up := newEcho(t, f, hosts...)
	for _, c := range p.Credentials {
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
			ID: "a/" + c.Name, Host: c.Name + ".test", Port: 443, Methods: []string{"GET"},
			Paths: []string{plan.AnyPath}, Upstream: up.pin, Credential: c.Name,
		})
	}
	f.MustPublish(p)
	up.answer(func(w http.ResponseWriter, r *http.Request) {
		h, key := w.Header(), canary
		if r.Host == "short.test" {
			key = "pin-1"
		}
		n := 0
		add := func(s string) {
			n++
			h.Set("X-Echo-"+strconv.Itoa(n), s)
		}
		forms := []string{
			key, strings.ToLower(url.QueryEscape(key)), url.QueryEscape(key),
			hex.EncodeToString([]byte(key)), strings.ToUpper(hex.EncodeToString([]byte(key))),
		}
		for _, e := range []*base64.Encoding{
			base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
		} {
			forms = append(forms, e.EncodeToString([]byte(key)))
			for _, before := range []string{"u:", "abc", "Token ", "y"} {
				if len(key) >= 8 {
					forms = append(forms, e.EncodeToString([]byte(before+key)),
						e.EncodeToString([]byte(before+key+" and more")))
				}
			}
		}
		for _, s := range forms {
			add(s)
			if len(key) >= 8 {
				add("you sent '" + s + "'.")
			}
		}
		// All but one byte of it, and something of its length: neither is it.
		h.Set("X-Almost", key[1:])
		h.Set("X-Long", strings.Repeat("0123456789abcdef", 64))
		h.Set("X-Request", "42")
		h.Set("Location", "/next?a=1&key="+hex.EncodeToString([]byte(key)))
	})
	for range 2 { // what is looked for is made once
		for _, c := range p.Credentials {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.Name+".test/x", nil)
			require.NoError(t, err)
			resp, err := f.Client("n1", "a").Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, 200, resp.StatusCode)
			require.NotNil(t, up.take())
			for name, values := range resp.Header {
				require.False(t, strings.HasPrefix(name, "X-Echo"), "%s: %s: %q", c.Name, name, values)
			}
			require.NotEmpty(t, resp.Header.Get("X-Almost"), c.Name)
			require.Len(t, resp.Header.Get("X-Long"), 1024, c.Name)
			require.Equal(t, "42", resp.Header.Get("X-Request"))
			if c.Name != "short" {
				require.Equal(t, "/next?a=1&key=", resp.Header.Get("Location"), c.Name)
			}
		}
	}
}

// TestTrailers: an agent's own key does not pass in a trailer either.
func TestTrailers(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "plain.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/plain", Host: "plain.test", Port: 443, Methods: []string{"POST"}, Paths: []string{plan.AnyPath},
		Upstream: up.pin,
	}}}}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://plain.test/",
		io.NopCloser(strings.NewReader("body")))
	require.NoError(t, err)
	req.Trailer = http.Header{"Authorization": {own}, "X-Api-Key": {own}, "X-Checksum": {"1"}}
	resp, err := f.Client("n1", "a").Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	r := up.take()
	require.Equal(t, "body", string(r.body))
	for name, values := range r.Trailer {
		// What was announced is there, but empty.
		require.Equal(t, name == "X-Checksum", len(values) > 0, name)
	}
	require.Equal(t, "1", r.Trailer.Get("X-Checksum"))
}

// TestSignedBodies: what cannot be signed again is refused, and says so; a large
// body is signed.
func TestSignedBodies(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "s3.test", "bedrock.test")
	source := `{"access_key_id": "AKIA", "secret_access_key": "canary-aws"}`
	path := f.Secret("aws", source)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}}
	for _, s := range []string{"bedrock", "s3"} {
		p.Credentials = append(p.Credentials, plan.Credential{
			Name: s, Kind: plan.KindAWSSigV4, Service: s, Region: "eu-west-1", Secret: "file://" + path,
		})
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
			ID: "a/" + s, Host: s + ".test", Port: 443, Methods: []string{"PUT"}, Paths: []string{plan.AnyPath},
			Upstream: up.pin, Credential: s,
		})
	}
	f.MustPublish(p)
	send := func(host, digest string, body []byte) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut,
			"https://"+host+"/bucket/a%2Fb%20c?partNumber=1&x=%7E&uploadId=z", bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("X-Amz-Content-Sha256", digest)
		req.Header.Set("X-Amz-Meta-Name", "a  b")
		req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=postern/20260101/us-east-1/s3/aws4_request, "+
			"SignedHeaders=host, Signature=00")
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	for host, size := range map[string]int{"s3.test": 40 << 20, "bedrock.test": 12 << 20} {
		status, body := send(host, "UNSIGNED-PAYLOAD", bytes.Repeat([]byte("0123456789abcdef"), size/16))
		require.Equal(t, 200, status, body)
		r := up.take()
		require.Len(t, r.body, size)
		require.Empty(t, signature(strings.TrimSuffix(host, ".test"), "eu-west-1")(r, source))
	}
	status, body := send("s3.test", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", []byte("4\r\nbody\r\n0\r\n\r\n"))
	require.Equal(t, 422, status, body)
	require.Contains(t, body, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required")
	require.Nil(t, up.take())
	status, body = send("bedrock.test", "", make([]byte, 20<<20))
	require.Equal(t, 413, status, body)
	require.Nil(t, up.take())
}

// TestEndpointDown: a token endpoint that is down closes the routes of its own
// credentials, says why, and holds up nothing else; they open by themselves.
func TestEndpointDown(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	e := newEndpoint(t)
	e.broken = true
	up := newEcho(t, f, "minted.test", "static.test")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}, Credentials: []plan.Credential{
		{
			Name: "minted", Kind: plan.KindOAuth2ClientCredentials, Username: "client", TokenURL: e.URL + "/token",
			Secret: "file://" + f.Secret("client", "s3cr3t-canary"),
		},
		{Name: "static", Kind: plan.KindBearer, Secret: "file://" + f.Secret("static", "s3cr3t-static")},
	}}
	for _, c := range p.Credentials {
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
			ID: "a/" + c.Name, Host: c.Name + ".test", Port: 443, Methods: []string{"GET"},
			Paths: []string{plan.AnyPath}, Upstream: up.pin, Credential: c.Name,
		})
	}
	f.MustPublish(p)
	require.Equal(t, 502, f.Get("n1", "a", "https://minted.test/"))
	require.Nil(t, up.take())
	require.Equal(t, 200, f.Get("n1", "a", "https://static.test/"))
	require.Equal(t, "Bearer s3cr3t-static", up.take().Header.Get("Authorization"))
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.False(t, s.Credentials[0].OK)
	require.Contains(t, s.Credentials[0].Problem, "answered 500")
	require.NotContains(t, s.Credentials[0].Problem, "endpoint-says")
	require.True(t, s.Credentials[1].OK)
	e.mu.Lock()
	e.broken = false
	e.mu.Unlock()
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://minted.test/") == 200 }, time.Minute,
		20*time.Millisecond)
	require.Contains(t, up.take().Header.Get("Authorization"), "Bearer minted-client_credentials-s3cr3t-canary")
}

// TestQueryCredentialAlone: a request without a query gets one.
func TestQueryCredentialAlone(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "query.test")
	f.MustPublish(&plan.Plan{
		Stack: "test",
		Credentials: []plan.Credential{{Name: "q", Kind: plan.KindQuery, Parameter: "Key", Secret: "file://" +
			f.Secret("q", "s3cr3t")}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/q", Host: "query.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/*"},
			Upstream: up.pin, Credential: "q", Gateway: 8080,
		}}}},
	})
	for sent, want := range map[string]string{
		"https://query.test/v1/x":                "/v1/x?Key=s3cr3t",
		"https://query.test/v1/x?":               "/v1/x?Key=s3cr3t",
		"https://query.test/v1/x?key=own&KEY=2":  "/v1/x?Key=s3cr3t",
		"https://query.test/v1/x?a=%20&key=own":  "/v1/x?a=%20&Key=s3cr3t",
		"http://localhost:8080/v1/x":             "/v1/x?Key=s3cr3t",
		"http://localhost:8080/v1/x?key=own&b=c": "/v1/x?b=c&Key=s3cr3t",
	} {
		require.Equal(t, 200, f.Get("n1", "a", sent), sent)
		r := up.take()
		require.Equal(t, want, r.RequestURI, sent)
		require.Empty(t, r.Header.Get("X-Postern-Secret"))
	}
	for _, e := range f.Events(6) {
		require.Equal(t, "/v1/x", e.Path)
	}
}

// TestRefusedKeys: when a node refuses a cluster that signs, what it says does
// not quote the keys.
func TestRefusedKeys(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	path := f.Secret("aws",
		`{"access_key_id": "AKIACANARY", "secret_access_key": "canary-aws", "session_token": "canary-session"}`)
	_, err := f.Publish(&plan.Plan{
		Stack: "test",
		Credentials: []plan.Credential{{
			Name: "s3", Kind: plan.KindAWSSigV4, Service: "s3", Region: "eu-west-1", Secret: "file://" + path,
		}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/s3", Host: "s3.test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath},
			Credential: "s3",
			Upstream: &plan.Upstream{
				Address: "192.0.2.1:443", CA: "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n",
			},
		}}}},
	})
	require.ErrorContains(t, err, "rejected clusters")
	require.NotContains(t, err.Error(), "canary")
	require.NotContains(t, strings.ToUpper(f.Node("n1").Nack), "CANARY")
}

// TestQueryIsLeftAlone: whatever a query is like, no slot is left in it, and
// everything else arrives byte by byte.
func TestQueryIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "plain.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/plain", Host: "plain.test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath},
		Upstream: up.pin,
	}}}}})
	client := f.Client("n1", "a")
	rapid.Check(t, func(rt *rapid.T) {
		slots := []string{
			"key", "KEY", "k%65y", "%4bey", "api_key", "apikey", "api%5Fkey", "access_token", "token", "sig",
			"X-Amz-Signature", "auth", "password",
			// As some servers read them.
			"key%20", "%0d%0akey", "+key", "key[]", "[key]", "k%2565y", "key%00x", "key.",
		}
		others := []string{
			"k", "keys", "a", "", "%26key", "page_token", "a%3Dkey", "monkey", "x[key]", "%zz", "%", "é", "a%00", "a+",
		}
		values := []string{
			"", "=", "=1", "=%26key%3D1", "=a=b", "==", "=%", "=a+b%2B", "=?key=1", "=/x/../y", "='\"<>{}|",
		}
		var sent, want []string
		for range rapid.IntRange(0, 6).Draw(rt, "parts") {
			v := rapid.SampledFrom(values).Draw(rt, "value")
			if rapid.Bool().Draw(rt, "slot") {
				sent = append(sent, rapid.SampledFrom(slots).Draw(rt, "name")+v)
				continue
			}
			p := rapid.SampledFrom(others).Draw(rt, "name") + v
			sent, want = append(sent, p), append(want, p)
		}
		query := strings.Join(sent, "&")
		left := strings.Join(want, "&")
		if len(want) < len(sent) {
			// Empty parameters go along with those that are taken out.
			left = strings.Trim(strings.Join(slices.DeleteFunc(want, func(s string) bool { return s == "" }), "&"), "&")
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://plain.test/p", nil)
		require.NoError(rt, err)
		req.URL.RawQuery = query
		resp, err := client.Do(req)
		require.NoError(rt, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(rt, err)
		resp.Body.Close()
		r := up.take()
		if resp.StatusCode != 200 {
			require.Nil(rt, r)
			return
		}
		require.Equal(rt, left, r.URL.RawQuery, "sent %q", query)
		for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
			name, _, _ := strings.Cut(part, "=")
			if name, err = url.QueryUnescape(name); err == nil {
				require.NotContains(rt, []string{
					"key", "api_key", "apikey", "access_token", "token", "sig", "x-amz-signature",
				}, strings.ToLower(name))
			}
		}
	})
}
