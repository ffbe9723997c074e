package guard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRule(t *testing.T) {
	t.Parallel()
	for _, r := range []Rule{
		{}, {Own: true}, {Header: "x-api-key"}, {Header: "authorization", Prefix: 7}, {Parameter: "my key"}, {Signs: true, Header: "authorization"},
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
		{"-api-key", "nobody's"},
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
	}, proxys...), Request(nil, hs, Rule{Header: "x-api-key"}))
	require.ElementsMatch(t, proxys, Request(nil, hs, Rule{Own: true}))
	require.Empty(t, Request(nil, []Header{{":path", "/x?a=1"}, {"accept", "*/*"}, {"sec-websocket-protocol", "a"}, {"sec-websocket-protocol", "b"}}, Rule{}))
	require.Equal(t, []Change{{"x-team", ""}}, Request(nil, []Header{{"x-team", "mine"}}, Rule{Header: "x-team"}))
	require.Equal(t, []Change{{":path", "/x"}}, Request(nil, []Header{{":path", "/x?Mine=1"}}, Rule{Parameter: "mine"}))
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
		if len(Request(changes[:0], request, rule)) != 2 || len(Response(changes[:0], response, rule, injected)) != 0 {
			panic("other changes")
		}
	}))
}
