package attack

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// ownKey is what an agent has brought with it.
const ownKey = "agents-own-key-93ab"

// ownHeaders are headers in which some service takes a key.
var ownHeaders = []string{
	"Authorization: Bearer ", "Authorization: Basic ", "Authorization: token ", "Authorization: ", "authorization: AWS4-HMAC-SHA256 Credential=", "Proxy-Authorization: Basic ", "X-Api-Key: ", "Api-Key: ", "ApiKey: ", "X-Goog-Api-Key: ", "X-Auth-Token: ",
	"X-Access-Token: ", "X-Amz-Security-Token: ", "Private-Token: ", "Job-Token: ", "Deploy-Token: ", "X-Vault-Token: ", "X-Functions-Key: ", "Ocp-Apim-Subscription-Key: ", "Cookie: session=", "Cookie2: ", "X-Custom-Api-Key: ", "X-My-Access-Token: ",
	"X-Some-Auth-Token: ", "DPoP: ", "Signature: ", "X-Authorization: ", "DD-Api-Key: ", "X-Honeycomb-Team: ", "Cf-Access-Client-Secret: ", "X-Shopify-Access-Token: ",
	// Named like one (red team W18).
	"Token: ", "Jwt: ", "Access-Token: ", "X-Portkey-Api-Key: ", "X-Portkey-Virtual-Key: ", "X-Portkey-Config: ", "Helicone-Auth: Bearer ", "Cf-Aig-Authorization: Bearer ", "X-Litellm-Api-Key: ", "X-Bf-Vk: ",
	"X-Ms-Token: ", "X-Jwt-Assertion: ", "X-Client-Secret-Value: ", "X-Authentication-Key: ", "X-Webauth: ", "Authtoken: ", "X-License-Key: ", "X-User-Password: ", "X-Hub-Signature: ",
	"Sec-WebSocket-Protocol: openai-insecure-api-key.",
}

// ownQueries are parameters in which some service takes a key.
var ownQueries = []string{
	"key=", "api_key=", "apikey=", "access_token=", "token=", "KEY=", "k%65y=", "x=y&key=", "x=y;key=", "key=1&key=", "X-Amz-Signature=", "X-Goog-Signature=", "sig=", "auth=", "private_token=", "client_secret=", "oauth_token=", "%6Bey=", "k%2565y=", "[key]=", "my_api_key=", "refresh_token=", "x-goog-api-key=", "subscription_key=", "jwt_assertion=",
}

// rotating is a policy with a credential of the case's own.
func rotating(s string) []plan.Rule {
	r := rulesOf(s)
	r[0].Credential = s
	return r
}

// credentials is section F: keys of ours that get out, and keys of the agent that get in.
var credentials = []Case{
	{ID: "F1", What: "the agent's own key in every header slot (W18)", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Run: func(s *seat) {
		for _, h := range ownHeaders {
			a := s.ask("GET", "/v1/x", h+ownKey)
			require.Equal(s, 200, a.Status, "%q: %s", h, a)
			s.allow("api")
		}
		if s.way == Explicit { // also where nothing is injected
			for _, h := range ownHeaders {
				a := s.askHost(s.host(open), "GET", "/v1/x", h+ownKey)
				require.Equal(s, 200, a.Status, "%q: %s", h, a)
				s.allow("open")
			}
		}
		s.ownKeyIsGone()
	}},
	{ID: "F1", What: "the agent's own key in the query", Ways: []Way{Explicit, Gateway}, Run: func(s *seat) {
		for _, q := range ownQueries {
			a := s.ask("GET", "/v1/x?a=b&"+q+ownKey+"&z=%26key%3D1")
			require.Equal(s, 200, a.Status, "%q: %s", q, a)
			s.allow("api")
		}
		s.ownKeyIsGone()
		for _, a := range s.arrivals() {
			require.True(s, strings.HasSuffix(a.URI, "z=%26key%3D1"), "what is not a slot stays as it was: %s", a.URI)
		}
	}},
	{ID: "F1", What: "the agent's own key in parameters that only some servers read so (W18)", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, q := range []string{"+key=", "%20key=", "key%20=", "key%00=", "key[]=", "key.=", "%09key="} {
			a := s.ask("GET", "/v1/x?"+q+ownKey)
			if a.Status == 200 {
				s.allow("api")
			} else {
				s.denyAs(a, plan.ReasonPath)
			}
		}
		s.ownKeyIsGone()
	}},
	{ID: "F1", What: "the agent's own key by HTTP/2, in pieces and in trailers", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, host := range []string{s.host(api), s.host(h2)} {
			c := s.h2(s.secure(host, "h2"))
			require.Equal(s, "200", c.ask(":method", "GET", ":scheme", "https", ":path", "/v1/x?key="+ownKey, ":authority", host,
				"authorization", "Bearer "+ownKey, "cookie", "a=1", "cookie", "b="+ownKey, "x-api-key", ownKey, "te", "trailers"))
		}
		s.allow("api")
		s.allow("h2")
		s.ownKeyIsGone()
	}},
	{ID: "F1", What: "user and password in the URL", Ways: []Way{Explicit}, Run: func(s *seat) {
		h := s.host(api)
		a := s.ask("GET", "https://u:"+ownKey+"@"+h+"/v1/x")
		require.Equal(s, 200, a.Status, "Envoy drops it: %s", a)
		s.allow("api")
		s.ownKeyIsGone()
		_, a = s.connect("u:" + ownKey + "@" + h + ":443")
		require.True(s, a.refused(), "%s", a)
		s.denyAs(a, plan.ReasonHost)
	}},
	{ID: "F2", What: "one host's placeholder, or key, at another host", Ways: []Way{Explicit}, Run: func(s *seat) {
		a := s.askHost(s.host(other), "GET", "/v1/x", "X-Api-Key: postern", "Authorization: Bearer postern")
		require.Equal(s, 200, a.Status)
		s.allow("other")
		a = s.askHost(s.host(open), "GET", "/v1/x", "X-Api-Key: postern", "Authorization: Bearer postern")
		require.Equal(s, 200, a.Status)
		s.allow("open")
		a = s.ask("GET", "/v1/x", "Authorization: Bearer postern")
		require.Equal(s, 200, a.Status)
		s.allow("api")
		for _, got := range s.arrivals() {
			want := map[string]string{s.host(api): canary + "|", s.host(other): "|Bearer " + second, s.host(open): "|"}[got.Host]
			require.Equal(s, want, got.Header.Get("X-Api-Key")+"|"+got.Header.Get("Authorization"), got.Host)
		}
	}},
	{ID: "F3", What: "injection over plain HTTP or by another port", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, port := range []string{"", ":80", ":443", ":8443"} {
			h := s.host(api) + port
			a := s.raw(request("GET", "http://"+h+"/v1/x", h))
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonScheme)
		}
		// The rule for port 8443 has no credential.
		c, a := s.connect(s.host(api) + ":8443")
		require.Equal(s, 200, a.Status)
		t, err := s.handshake(c, s.host(api))
		require.NoError(s, err)
		a = exchange(t, "GET", request("GET", "/v1/x", s.host(api)+":8443"))
		require.Equal(s, 200, a.Status, "%s", a)
		s.allow("port")
		require.Empty(s, s.arrivals()[0].Header.Get("X-Api-Key"))
	}},
	{ID: "F4", What: "an upstream that echoes the credential in response headers", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		a := s.ask("GET", "/v1/echo", "X-Harmless: kept")
		require.Equal(s, 200, a.Status, "%s", a)
		s.allow("api")
		require.Equal(s, "kept", a.Header.Get("X-Echo-X-Harmless"))
		if s.way == Explicit {
			a = s.askHost(s.host(other), "GET", "/v1/echo")
			require.Equal(s, 200, a.Status)
			s.allow("other")
		}
		// That the agent did not get to see it is checked for every seat.
	}},
	{ID: "F4", What: "an upstream that echoes it in response headers as base64 or hex", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Run: func(s *seat) {
		for _, path := range []string{"/v1/leak/base64", "/v1/leak/hex"} {
			a := s.ask("GET", path)
			require.Equal(s, 200, a.Status, "%s", a)
			s.allow("api")
			require.Equal(s, "kept", a.Header.Get("X-Harmless"))
		}
	}},
	{ID: "F4", What: "an upstream that echoes it in a body", Ways: []Way{Explicit, Gateway}, Known: "bodies are not inspected; an upstream that shows its clients their keys shows them to the agent (docs/attack.md)", Run: func(s *seat) {
		require.Equal(s, 200, s.ask("GET", "/v1/leak/body").Status)
		s.allow("api")
	}},
	{ID: "F5", What: "the secret in error pages of the proxy", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		for _, raw := range []string{"/v2", "/v1/x%00", "/v1/" + strings.Repeat("x", 70000)} {
			a := s.ask("GET", raw)
			require.True(s, a.refused() && !a.hung(), "%s", a)
			s.denyAs(a, plan.ReasonPath)
		}
		a := s.ask("GET", "/v1/switch", "Connection: Upgrade", "Upgrade: unknown")
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonMalformed)
		// Logs, dumps, status and core files are looked at after all cases, with every secret: arena.nowhere.
	}},
	{ID: "F6", What: "a secret that is missing, empty or malformed fails its route closed, and no other", Ways: []Way{Explicit, Gateway, Captured}, Rules: rotating, Run: func(s *seat) {
		path := s.files[s.name]
		wait := func(ok bool) {
			require.Eventually(s, func() bool {
				status, err := s.fleet.API.Status(s.context())
				if err != nil {
					return false
				}
				for _, c := range status.Credentials {
					if c.Name == s.name {
						return c.OK == ok
					}
				}
				return false
			}, patience, pause)
		}
		for _, broken := range []string{"", "\n\n", "line\nbreak", "nul\x00nul", strings.Repeat("x", 1<<17)} {
			s.fleet.Secret(s.name, "fine-"+canary)
			wait(true)
			if broken == "" {
				require.NoError(s, os.Remove(path))
			} else {
				s.fleet.Secret(s.name, broken)
			}
			wait(false)
			// The nodes learn of it a moment after the status does.
			require.Eventually(s, func() bool {
				a := s.ask("GET", "/v1/x", "X-Api-Key: "+ownKey)
				return a.Status == 502 && strings.Contains(a.Body, string(plan.ReasonCredential))
			}, patience, pause)
			require.Equal(s, 200, s.askHostByProxy(s.host(open)).Status)
		}
		s.quiet = true // how many requests it took is nobody's business
		arrived := s.arrivals()
		s.reached = len(arrived)
		s.ownKeyIsGone()
		for _, a := range arrived {
			require.True(s, a.Host == s.host(open) || a.Header.Get("X-Api-Key") != "", "%s was forwarded bare", a.URI)
		}
		require.Eventually(s, func() bool {
			return strings.Contains(fmt.Sprint(s.events(s.name)), string(plan.ReasonCredential))
		}, patience, pause)
	}},
	{ID: "F7", What: "a key of the agent's in the very slot of ours", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Run: func(s *seat) {
		a := s.ask("GET", "/v1/x", "X-Api-Key: "+ownKey)
		require.Equal(s, 200, a.Status)
		s.allow("api")
		require.Equal(s, []string{canary}, s.arrivals()[0].Header.Values("X-Api-Key"))
	}},
	{ID: "F8", What: "rotation: the old secret is not used any more, nothing fails meanwhile", Ways: []Way{Explicit, Captured, Gateway}, Rules: rotating, Run: func(s *seat) {
		c, host := s.line() // in use the whole time
		values := []string{canary, "rotated-1-" + canary, "rotated-2-" + canary}
		for _, value := range values {
			s.fleet.Secret(s.name, value)
			require.Eventually(s, func() bool {
				require.Equal(s, 200, exchange(c, "GET", request("GET", "/v1/x", host)).Status)
				s.allow("api")
				got := s.arrivals()
				return got[len(got)-1].Header.Get("X-Api-Key") == value
			}, patience, pause)
		}
		order := ""
		for _, a := range s.arrivals() {
			if v := a.Header.Get("X-Api-Key"); !strings.HasSuffix(order, v) {
				order += " " + v
			}
		}
		require.Equal(s, " "+strings.Join(values, " "), order, "once rotated, never the old one")
	}},
	{ID: "F9", What: "code and sockets of the gate, writable from the sandbox", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, script := range []string{
			"echo x > /run/postern/postern-sandbox", "rm -f /run/postern/postern-sandbox && ! test -e /run/postern/postern-sandbox", "mv /run/postern /run/p", "touch /run/postern/nodes/0/x", "rm -f /run/postern/nodes/0/proxy.sock", "ln -sf /dev/null /run/postern/nodes/0/proxy.sock",
			"mount --bind /tmp /run/postern/nodes/0", "unshare -Urm sh -c 'mount -o remount,rw /run/postern && echo x > /run/postern/postern-sandbox'", "echo x > /run/postern/ca.pem", "kill -9 1 && ! kill -0 1", "echo x > /proc/1/mem", "cp /bin/true /proc/1/exe",
			"echo '127.0.0.1 x' >> /etc/hosts", "echo x > /usr/bin/env",
		} {
			s.fails(script)
		}
		s.fails("curl -sSf -m 8 https://" + s.host(evil) + "/")
		s.deny(plan.ReasonHost)
	}},
	{ID: "F10", What: "certificates only for names of the policy, and no keys to make more", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, name := range []string{"bank.test", "*.test", "test", s.host("x."), "localhost", "127.0.0.1"} {
			c := s.tunnel(s.host(api))
			_, err := c.Write(helloFor(name))
			require.NoError(s, err)
			b, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung())
			require.False(s, bytes.HasPrefix(b, []byte{0x16}), "a certificate for %s", name)
			s.deny(plan.ReasonName)
		}
		t, err := s.handshake(s.tunnel(s.host(api)), s.host(api))
		require.NoError(s, err)
		leaf := t.ConnectionState().PeerCertificates[0]
		require.Equal(s, []string{s.host(api)}, leaf.DNSNames)
		require.False(s, leaf.IsCA)
		require.Zero(s, leaf.KeyUsage&x509.KeyUsageCertSign)
		require.Equal(s, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, leaf.ExtKeyUsage)
		require.Equal(s, 200, exchange(t, "GET", request("GET", "/v1/x", s.host(api))).Status)
		s.allow("api")
		// Old protocols are none.
		_, a := s.connect(s.host(api) + ":443")
		require.Equal(s, 200, a.Status)
		old := tls.Client(s.tunnel(s.host(api)), &tls.Config{ServerName: s.host(api), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, InsecureSkipVerify: true}) //nolint:gosec // that is the attack
		require.Error(s, old.Handshake())
		s.deny(plan.ReasonTLS)
	}},
	{ID: "F10", What: "the authority's key from the sandbox", Ways: []Way{Inside}, Run: func(s *seat) {
		s.fails("cat " + s.fleet.Home.CAKey())
		out, _ := s.sh("grep -rIl 'BEGIN.*PRIVATE KEY' /run /etc /tmp . 2>/dev/null; find / -name '*.key' -not -path '/usr/*' -not -path '/proc/*' 2>/dev/null; true")
		require.Empty(s, out)
	}},
}

// askHostByProxy asks a host that has no gateway, whatever the way in is.
func (s *seat) askHostByProxy(host string) answer {
	s.Helper()
	c, a := s.connect(host + ":443")
	require.Equal(s, 200, a.Status)
	t, err := s.handshake(c, host)
	require.NoError(s, err)
	return exchange(t, "GET", request("GET", "/v1/x", host))
}

// ownKeyIsGone requires that nothing that arrived holds the agent's own key.
func (s *seat) ownKeyIsGone() {
	s.Helper()
	for _, a := range s.arrivals() {
		for _, part := range []string{fmt.Sprint(a.Header), a.URI, fmt.Sprint(a.Trailer), a.Host} {
			if strings.Contains(part, ownKey) {
				s.Errorf("the agent's own key arrives: %s", part)
			}
		}
	}
}

// leak shows a client its key: in a body, or in headers that only their reader understands.
func leak(out http.ResponseWriter, r *http.Request) {
	key, h := r.Header.Get("X-Api-Key"), out.Header()
	h.Set("X-Harmless", "kept")
	switch {
	case strings.HasSuffix(r.URL.Path, "body"):
		_, _ = io.WriteString(out, `{"you sent":"`+key+`"}`)
	case strings.HasSuffix(r.URL.Path, "base64"):
		for i, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			h.Set(fmt.Sprint("X-You-Sent-", i), e.EncodeToString([]byte(key)))
			h.Set(fmt.Sprint("X-Basic-", i), "Basic "+e.EncodeToString([]byte("user:"+key)))
			h.Set(fmt.Sprint("X-Json-", i), e.EncodeToString([]byte(`{"key":"`+key+`"}`)))
		}
	default:
		h.Set("X-You-Sent", hex.EncodeToString([]byte(key)))
		h.Set("X-Dump", "x-api-key: "+strings.ToUpper(hex.EncodeToString([]byte(key))))
	}
}
