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
	for _, s := range []string{"x", "header", "header x", "header -1 x", "header 1", "header 1 "} {
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
	}, proxys...), Request(hs, Rule{Header: "x-api-key"}))
	require.ElementsMatch(t, proxys, Request(hs, Rule{Own: true}))
	require.Empty(t, Request([]Header{{":path", "/x?a=1"}, {"accept", "*/*"}}, Rule{}))
	require.Equal(t, []Change{{"x-team", ""}}, Request([]Header{{"x-team", "mine"}}, Rule{Header: "x-team"}))
	require.Equal(t, []Change{{":path", "/x"}}, Request([]Header{{":path", "/x?Mine=1"}}, Rule{Parameter: "mine"}))
}

func TestPut(t *testing.T) {
	t.Parallel()
	got, err := Put([]Header{{":path", "/x?a"}, {SecretHeader, "s&"}}, Rule{Parameter: "key"})
	require.NoError(t, err)
	require.ElementsMatch(t, []Change{{":path", "/x?a&key=s%26"}, {SecretHeader, ""}}, got)
	_, err = Put([]Header{{":path", "/x?a"}}, Rule{Parameter: "key"})
	require.ErrorIs(t, err, ErrNoCredential)
	_, err = Put([]Header{{"x-amz-content-sha256", "streaming-AWS4-HMAC-SHA256-PAYLOAD"}}, Rule{Signs: true})
	require.ErrorIs(t, err, ErrSignedBody)
	got, err = Put([]Header{{"x-amz-content-sha256", "UNSIGNED-PAYLOAD"}}, Rule{Signs: true})
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
	require.Equal(t, []Change{forged}, Response(hs, Rule{}, nil))
	require.Equal(t, []Change{forged}, Response(hs, Rule{Own: true}, nil))
	header := Rule{Header: "x-api-key"}
	slots := []Change{forged, {"x-api-key", ""}, {"authorization", ""}}
	require.ElementsMatch(t, slots, Response(hs, header, nil), "nothing was injected")
	found := append([]Change{{"x-echo", ""}, {"location", "/next?k=&z"}}, slots...)
	require.ElementsMatch(t, found, Response(hs, header, []string{"sk-secret-1"}))
	require.ElementsMatch(t, found, Response(hs, Rule{Parameter: "k"}, []string{"/x?a&k=sk-secret-1"}))
	require.ElementsMatch(t, append([]Change{{"etag", ""}}, found...), Response(hs, header, []string{"sk-secret-1", "sk-secret-2"}))
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	hs := []Header{{"grpc-status", "0"}, {"x-api-key", "mine"}, {"x-echo", "sk-secret-1"}, {"x-forwarded-for", "1"}}
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-forwarded-for", ""}}, Trailers(hs, Rule{}, nil))
	require.ElementsMatch(t, []Change{{"x-api-key", ""}, {"x-echo", ""}, {"x-forwarded-for", ""}}, Trailers(hs, Rule{Header: "x-api-key"}, []string{"sk-secret-1"}))
	require.Empty(t, Trailers(hs, Rule{Own: true}, nil))
}
