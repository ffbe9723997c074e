package guard

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/target"
)

func TestRule(t *testing.T) {
	t.Parallel()
	for _, r := range []Rule{
		{}, {Own: true}, {Check: target.Check{Open: true, AnyPath: true}}, {Check: target.Check{Query: []string{"a,b=c d", "é"}, Headers: []string{"x-a"}}, Header: "x-b"}, {Header: "x-api-key"}, {Header: "authorization", Prefix: 7}, {Parameter: "my key"}, {Signs: true, Header: "authorization"},
	} {
		got, err := ParseRule(r.String())
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	for _, s := range []string{"x", " ", "own x", "parameter ", "signs", "header", "header x", "header -1 x", "header 1", "header 1 "} {
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
	} {
		require.Equal(t, []Change{{name, ""}}, requested(t, []Header{{name, "own"}}, Rule{}), name)
		require.Empty(t, requested(t, []Header{{name, "own"}}, Rule{Own: true}), name)
	}
	require.Empty(t, requested(t, []Header{{"x-upload-token", "own"}}, Rule{Check: target.Check{Headers: []string{"x-upload-token"}}}), "a rule names it")
	require.Equal(t, []Change{{"x-access-token", ""}}, requested(t, []Header{{"x-access-token", "own"}}, Rule{Check: target.Check{Headers: []string{"x-access-token"}}}), "known to be one")
	for _, name := range []string{
		"accept", "authority", "content-type", "idempotency-key", "sec-websocket-key", "x-csrf-token", "lock-token", "x-continuation-token", "x-ratelimit-remaining-tokens", "session_id", "x-session-id",
		"x-amz-server-side-encryption-customer-key", "x-goog-encryption-key", "x-amz-meta-token", "npm-auth-type", "x-keyword", "x-keys", "tokenizer", "surrogate-key", "x-ms-documentdb-partitionkey", "x-stainless-lang",
		"anthropic-version", "openai-organization", "git-protocol", "x-goog-api-client", "traceparent", "secretary", "x-author", "user-agent",
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
			{":path", "/v1/%252e%252e"}, {":path", "/v1/x?_method=DELETE"}, {"x-http-method-override", "DELETE"}, {"x-original-url", "/x"}, {"x-amz-copy-source", "/b/k"}, {"x-amz-target", "A.B"}, {"destination", "/x"},
		} {
			_, err := Request(nil, []Header{{"accept", "*/*"}, h}, Rule{Own: own})
			require.ErrorIs(t, err, ErrAmbiguous, "%v", h)
			require.NotContains(t, requested(t, []Header{h}, Rule{Own: own, Check: target.Check{Open: true}}), Change{h.Name, ""}, "nothing is restricted")
		}
	}
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
	_, err = Put(nil, []Header{{"x-amz-content-sha256", "streaming-AWS4-HMAC-SHA256-PAYLOAD"}}, Rule{Signs: true})
	require.ErrorIs(t, err, ErrSignedBody)
	got, err = Put(nil, []Header{{"x-amz-content-sha256", "UNSIGNED-PAYLOAD"}}, Rule{Signs: true})
	require.NoError(t, err)
	require.Empty(t, got)
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

func TestTrailers(t *testing.T) {
	t.Parallel()
	hs := []Header{{"grpc-status", "0"}, {"x-api-key", "mine"}, {"x-echo", "sk-secret-1"}, {"x-forwarded-for", "1"}}
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{}, nil))
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-echo", ""}, {"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{Header: "x-api-key"}, []string{"sk-secret-1"}))
	require.Equal(t, []Change{{"x-forwarded-for", ""}}, Trailers(nil, hs, Rule{Own: true}, nil))
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
