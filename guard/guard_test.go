package guard

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/target"
)

func TestRule(t *testing.T) {
	t.Parallel()
	for _, r := range []Rule{
		{},
		{Own: true},
		{Check: target.Check{Open: true, AnyPath: true}},
		{Check: target.Check{Query: []string{"a,b=c d", "é"}, Headers: []string{"x-a"}}, Header: "x-b"},
		{Header: "x-api-key"},
		{Header: "authorization", Prefix: 7},
		{Parameter: "my key"},
		{Signs: true, Header: "authorization"},
		{Check: target.Check{Open: true}, Below: true},
		{Check: target.Check{Open: true}, Until: 1},
		{Header: "authorization", Prefix: 7, Until: 1 << 40},
	} {
		got, err := ParseRule(r.String())
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	for _, s := range []string{"x", " ", "own x", "parameter ", "signs", "header", "header x", "header x y", "header -1 x", "header 1", "header 1 ", "x 1 h", "check x 1 h", "until=", "until=0", "until=-1", "until=x", "until=1 x"} {
		_, err := ParseRule(s)
		require.Error(t, err, s)
	}
}

// requested is what the guard changes of a request that it does not refuse.
func requested(t *testing.T, hs []Header, r Rule) []Change {
	t.Helper()
	cs, err := Request(nil, hs, r)
	require.NoError(t, err)
	return cs
}

func TestRequest(t *testing.T) {
	t.Parallel()
	hs := []Header{
		{":method", "GET"},
		{":path", "/x?a=1&key=2"},
		{"accept", "*/*"},
		{"authorization", "mine"},
		{"x-api-key", "mine"},
		{"x-api-key", "mine too"},
		{"x-some-new-service-api-key", "mine"},
		{"idempotency-key", "1"},
		{"x-ratelimit-remaining-tokens", "1"},
		{"x-forwarded-for", "1"},
		{"x-postern-scope", "s"},
		{"x-envoy-x", "1"},
		{"proxy-authorization", "p"},
		{"sec-websocket-protocol", "a, bearer.x"},
		{"sec-websocket-protocol", "b"},
	}
	proxys := []Change{{"x-forwarded-for", ""}, {"x-postern-scope", ""}, {"x-envoy-x", ""}, {"proxy-authorization", ""}}
	require.ElementsMatch(t, append([]Change{
		{":path", "/x?a=1"}, {"authorization", ""}, {"x-api-key", ""}, {"x-some-new-service-api-key", ""}, {"sec-websocket-protocol", "a, b"},
	}, proxys...), requested(t, hs, Rule{Header: "x-api-key"}))
	require.ElementsMatch(t, proxys, requested(t, hs, Rule{Own: true}))
	require.Empty(t, requested(t, []Header{{":path", "/x?a=1"}, {"accept", "*/*"}, {"sec-websocket-protocol", "a"}, {"sec-websocket-protocol", "b"}}, Rule{}))
	require.Equal(t, []Change{{"x-team", ""}}, requested(t, []Header{{"x-team", "mine"}}, Rule{Header: "x-team"}))
	require.Equal(t, []Change{{":path", "/x"}}, requested(t, []Header{{":path", "/x?Mine=1"}}, Rule{Parameter: "mine"}))
}

// TestSlotsByName: a header that is named like a key is one, but for those that are not.
func TestSlotsByName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"token", "jwt", "access-token", "auth", "password", "secret", "key", "x-webauth", "authtoken", "x-portkey-api-key", "x-portkey-virtual-key", "x-portkey-config", "helicone-auth", "cf-aig-authorization",
		"x-litellm-api-key", "x-bf-vk", "x_api_token", "x.auth.token", "x-signature", "x-client-credentials", "x-apikey-v2", "x-user-password", "x-jwt-assertion", "x-token-1",
		"x_token_1", "x.token.1", "x--token", "x-passwd", "x-credential", "x-my-secret", "x-my-auth", "x-my-key", "x-my-jwt", "bearer", "x-passphrase", "ok-access-passphrase",
	} {
		require.Equal(t, []Change{{name, ""}}, requested(t, []Header{{name, "own"}}, Rule{}), name)
		require.Empty(t, requested(t, []Header{{name, "own"}}, Rule{Own: true}), name)
	}
	require.Empty(t, requested(t, []Header{{"x-upload-token", "own"}}, Rule{Check: target.Check{Headers: []string{"x-upload-token"}}}), "a rule names it")
	require.Equal(t, []Change{{"x-access-token", ""}}, requested(t, []Header{{"x-access-token", "own"}}, Rule{Check: target.Check{Headers: []string{"x-access-token"}}}), "known to be one")
	for _, name := range []string{
		"accept", "authority", "content-type", "idempotency-key", "sec-websocket-key", "x-csrf-token", "lock-token", "x-continuation-token", "x-ratelimit-remaining-tokens", "session_id", "x-session-id",
		"x-amz-server-side-encryption-customer-key", "x-goog-encryption-key", "x-amz-meta-token", "npm-auth-type", "x-keyword", "x-keys", "tokenizer", "surrogate-key", "x-ms-documentdb-partitionkey", "x-stainless-lang",
		"anthropic-version", "openai-organization", "git-protocol", "x-goog-api-client", "traceparent", "secretary", "x-author", "user-agent", "x--y", "-", "x-",
	} {
		require.Empty(t, requested(t, []Header{{name, "1"}}, Rule{}), name)
	}
	for _, name := range []string{"forwarded", "x-real-ip", "true-client-ip", "x-forwarded-anything"} {
		require.Equal(t, []Change{{name, ""}}, requested(t, []Header{{name, "1"}}, Rule{Own: true}), name)
	}
	// Of a response, only what is known to be one, and what a credential is found in.
	require.Empty(t, Response(nil, []Header{{"x-next-cursor-token", "1"}, {"github-authentication-token-expiration", "1"}}, Rule{Header: "authorization"}, nil))
}

// TestAmbiguous: what the rule does not let through is refused, whoever's keys are used.
func TestAmbiguous(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		for _, h := range []Header{
			{":path", "/v1/%252e%252e"},
			{":path", "/v1/x?_method=DELETE"},
			{"x-http-method-override", "DELETE"},
			{"x-original-url", "/x"},
			{"x-amz-copy-source", "/b/k"},
			{"x-amz-target", "A.B"},
			{"destination", "/x"},
			{"impersonate-user", "admin"},
			{"sudo", "root"},
			{"remote-user", "admin"},
			{":path", "/v1/x?Sudo=root"},
			{":path", "/v1/x?do%41s=hdfs"},
		} {
			_, err := Request(nil, []Header{{"accept", "*/*"}, h}, Rule{Own: own})
			require.ErrorIs(t, err, ErrAmbiguous, "%v", h)
			require.NotContains(t, requested(t, []Header{h}, Rule{Own: own, Check: target.Check{Open: true}}), Change{h.Name, ""}, "nothing is restricted")
		}
	}
	require.Empty(t, requested(t, []Header{{"x-note", "/v1/%252e%252e?_method=DELETE"}}, Rule{}), "only the target is one")
	_, err := Request(nil, []Header{{"x-amz-target", "A.B"}}, Rule{Check: target.Check{Headers: []string{"x-amz-target"}}})
	require.NoError(t, err)
	_, err = Request(nil, []Header{{":path", "/v1/%252e"}}, Rule{Check: target.Check{AnyPath: true}})
	require.NoError(t, err)
	_, err = Request(nil, []Header{{":path", "/v1/%252e?a=1"}}, Rule{Check: target.Check{AnyPath: true, Query: []string{"a"}}})
	require.ErrorIs(t, err, ErrAmbiguous)
}

func TestPut(t *testing.T) {
	t.Parallel()
	got, err := Put(nil, []Header{{":path", "/x?a"}, {SecretHeader, "s&"}}, Rule{Parameter: "key"})
	require.NoError(t, err)
	require.ElementsMatch(t, []Change{{":path", "/x?a&key=s%26"}, {SecretHeader, ""}}, got)
	_, err = Put(nil, []Header{{":path", "/x?a"}}, Rule{Parameter: "key"})
	require.ErrorIs(t, err, ErrNoCredential)
	_, err = Put(nil, []Header{{SecretHeader, "s"}}, Rule{Parameter: "key"})
	require.ErrorIs(t, err, ErrNoCredential, "no path")
	_, err = Put(nil, []Header{{"x-amz-content-sha256", "STREAMING-"}}, Rule{Signs: true})
	require.ErrorIs(t, err, ErrSignedBody)
	_, err = Put(nil, []Header{{"x-amz-content-sha256", "streaming-AWS4-HMAC-SHA256-PAYLOAD"}}, Rule{Signs: true})
	require.ErrorIs(t, err, ErrSignedBody)
	for _, c := range []struct {
		h Header
		r Rule
	}{
		{Header{"x-amz-content-sha256", "UNSIGNED-PAYLOAD"}, Rule{Signs: true}},
		{Header{"x-amz-content-sha256", "S"}, Rule{Signs: true}},
		{Header{"x-other", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, Rule{Signs: true}},
		{Header{"x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, Rule{}},
	} {
		got, err = Put(nil, []Header{c.h}, c.r)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

func TestResponse(t *testing.T) {
	t.Parallel()
	hs := []Header{
		{":status", "200"},
		{"content-type", "text/plain"},
		{"x-postern-rule", "forged"},
		{"x-echo", "sk-secret-1"},
		{"x-echo", "other"},
		{"location", "/next?k=sk-secret-1&z"},
		{"x-api-key", "whatever"},
		{"authorization", "x"},
		{"etag", "sk-secret-2"},
	}
	forged := Change{"x-postern-rule", ""}
	require.Equal(t, []Change{forged}, Response(nil, hs, Rule{}, nil))
	require.Equal(t, []Change{forged}, Response(nil, hs, Rule{Own: true}, nil))
	header := Rule{Header: "x-api-key"}
	slots := []Change{forged, {"x-api-key", ""}, {"authorization", ""}}
	require.ElementsMatch(t, slots, Response(nil, hs, header, nil), "nothing was injected")
	found := append([]Change{{"x-echo", ""}, {"location", "/next?k=&z"}}, slots...)
	require.ElementsMatch(t, found, Response(nil, hs, header, []string{"sk-secret-1"}))
	require.ElementsMatch(t, found, Response(nil, hs, Rule{Parameter: "k"}, []string{"/x?a&k=sk-secret-1"}))
	require.ElementsMatch(t, append([]Change{{"etag", ""}}, found...), Response(nil, hs, header, []string{"sk-secret-1", "sk-secret-2"}))
}

// TestResponseSlots: a response has no slot and no header of the credential, whatever is
// in it; and of a header with the secret in it, nothing is left.
func TestResponseSlots(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"x-team": true, "cookie": true, "x-some-client-secret": true, "-client-secret": false, "x-note": false, "": false, "x-some-token": false} {
		got := Response(nil, []Header{{name, "whatever"}}, Rule{Header: "x-team"}, nil)
		require.Equal(t, want, len(got) == 1 && got[0] == Change{name, ""}, name)
		require.Equal(t, want, len(got) > 0, name)
	}
	rule := Rule{Header: "x-team", Prefix: 4}
	require.Empty(t, Response(nil, []Header{{":status", "sk-secret-1"}}, rule, []string{"key=sk-secret-1"}))
	require.Equal(t, []Change{{"location", "/next"}}, Response(nil, []Header{{"location", "sk-secret-1/next"}}, rule, []string{"key=sk-secret-1"}))
	for _, value := range []string{"of sk-secret-1 or so", "sk-secret-1", "key=sk-secret-1"} {
		require.Equal(t, []Change{{"x-echo", ""}}, Response(nil, []Header{{"x-echo", value}}, rule, []string{"key=sk-secret-1"}), value)
	}
}

// TestResponseSigned: the session token, the keys' ID and the signature come back in no header.
func TestResponseSigned(t *testing.T) {
	t.Parallel()
	const id, token, signature = "AKIAEXAMPLE123456789", "canary-session-token", "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	injected := []string{
		"AWS4-HMAC-SHA256 Credential=" + id + "/20261130/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=" + signature, token,
	}
	rule := Rule{Signs: true, Header: "authorization"}
	for _, value := range append(slices.Clone(injected), id, "of "+signature, base64.StdEncoding.EncodeToString([]byte("x "+token)), "a="+hex.EncodeToString([]byte(id))) {
		hs := []Header{{"x-echo", value}, {"x-note", "Signature=, Credential=/ AWS4-HMAC-SHA256"}}
		require.Equal(t, []Change{{"x-echo", ""}}, Response(nil, hs, rule, injected), value)
		require.Equal(t, []Change{{"x-echo", ""}}, Trailers(nil, hs, rule, injected), value)
	}
	for _, value := range []string{"AWS4-", "AWS4-HMAC-SHA256 Credential=, Signature=", ""} {
		require.Empty(t, Response(nil, []Header{{"x-note", "AWS4-HMAC-SHA256"}}, rule, []string{value}), value)
	}
}

// TestInjected: where a credential is looked for after it was injected.
func TestInjected(t *testing.T) {
	t.Parallel()
	require.Empty(t, Rule{}.Injected())
	require.Equal(t, [2]string{"x-team"}, Rule{Header: "x-team"}.Injected())
	require.Equal(t, [2]string{":path"}, Rule{Parameter: "key"}.Injected())
	require.Equal(t, [2]string{"authorization", "x-amz-security-token"}, Rule{Signs: true, Header: "authorization"}.Injected())
}

// TestChangesShareNoMemory: Envoy's headers are gone when the changes are carried out.
func TestChangesShareNoMemory(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"x-forwarded-proto", "x-postern-scope", "authorization", ":path"} {
		memory := []byte(name + "/x?a=1&key=2")
		all := unsafe.String(&memory[0], len(memory))
		got := requested(t, []Header{{all[:len(name)], all[len(name):]}}, Rule{})
		clear(memory)
		want := Change{Name: name}
		if name == ":path" {
			want.Value = "/x?a=1"
		}
		require.Equal(t, []Change{want}, got)
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	asked := []Header{{"cookie", "mine"}, {"x-upload-token", "mine"}, {"x-note", "1"}}
	require.Equal(t, []Change{{"cookie", ""}, {"x-upload-token", ""}}, Trailers(nil, asked, Rule{}, nil), "a request's")
	require.Equal(t, []Change{{"cookie", ""}}, Trailers(nil, asked, Rule{}, []string{}), "a response's")
	hs := []Header{{"grpc-status", "0"}, {"x-api-key", "mine"}, {"x-echo", "sk-secret-1"}, {"x-forwarded-for", "1"}}
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{}, nil))
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-echo", ""}, {"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{Header: "x-api-key"}, []string{"sk-secret-1"}))
	require.Equal(t, []Change{{"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{Own: true}, nil))
	// Some server takes a trailer for a header.
	override := []Header{{"x-http-method-override", "DELETE"}, {"x-original-url", "/admin"}, {"x-amz-target", "A.B"}, {"x-note", "1"}}
	require.Equal(t, []Change{{"x-http-method-override", ""}, {"x-original-url", ""}, {"x-amz-target", ""}}, Trailers(nil, override, Rule{}, nil), "a request's")
	require.Empty(t, Trailers(nil, override, Rule{Check: target.Check{Open: true}}, nil), "nothing is restricted")
	require.Empty(t, Trailers(nil, override, Rule{}, []string{}), "a response's")
}

// TestUsual: what is so in nearly every request takes no memory from the heap.
func TestUsual(t *testing.T) {
	request := []Header{
		{":method", "GET"},
		{":path", "/v1/x?beta=true"},
		{":authority", "a.test"},
		{":scheme", "https"},
		{"accept", "*/*"},
		{"user-agent", "x/1"},
		{"content-type", "application/json"},
		{"x-forwarded-proto", "https"},
		{"x-postern-scope", "l7/a"},
	}
	response := []Header{{":status", "200"}, {"content-type", "application/json"}, {"date", "Thu, 26 Nov 2026 12:00:00 GMT"}, {"x-request-id", "0123456789abcdef"}}
	rule, injected := Rule{Header: "x-api-key"}, []string{"sk-secret-1"}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var changes [4]Change
		asked, err := Request(changes[:0], request, rule)
		if err != nil || len(asked) != 2 || len(Response(changes[:0], response, rule, injected)) != 0 {
			panic("other changes")
		}
	}))
}

// TestEnded: a wall clock that is set back makes no rule longer.
func TestEnded(t *testing.T) {
	t.Parallel()
	r := &Rule{Until: begun.Add(time.Hour).Unix()}
	require.False(t, r.endedAt(begun.Add(time.Minute), time.Minute))
	require.True(t, r.endedAt(begun.Add(time.Hour), time.Hour))
	require.True(t, r.endedAt(begun.Add(-24*time.Hour), time.Hour), "set back")
	require.True(t, r.endedAt(begun.Add(2*time.Hour), time.Minute), "set forward")
	require.False(t, r.Ended())
	require.True(t, (&Rule{Until: 1}).Ended())
	require.False(t, (&Rule{}).Ended())
}

// TestBody: what some server takes for the next request is refused.
func TestBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method  string
		headers []string
		refused bool
	}{
		{"GET", nil, true},
		{"HEAD", nil, true},
		{"GET", []string{"content-length"}, true},
		{"HEAD", []string{"transfer-encoding"}, true},
		{"GET", []string{"upgrade", "content-length"}, true},
		{"GET", []string{"transfer-encoding", "upgrade"}, true},
		{"GET", []string{"upgrade"}, false}, // what follows is not a body
		{"POST", nil, false},
		{"DELETE", []string{"content-length"}, false},
		{"CONNECT", nil, false},
	} {
		hs := []Header{{Name: ":method", Value: c.method}, {Name: "x"}}
		for _, name := range c.headers {
			hs = append(hs, Header{Name: name, Value: "1"})
		}
		require.Equal(t, c.refused, errors.Is(Body(hs), ErrAmbiguous), c)
	}
}
