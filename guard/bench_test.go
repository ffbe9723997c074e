package guard

import "testing"

// BenchmarkRequest is what the guard costs a usual request.
func BenchmarkRequest(b *testing.B) {
	hs := []Header{
		{":method", "POST"},
		{":path", "/v1/messages?beta=true"},
		{":authority", "a.test"},
		{":scheme", "https"},
		{"accept", "application/json"},
		{"user-agent", "x/1"},
		{"content-type", "application/json"},
		{"anthropic-version", "2023-06-01"},
		{"x-stainless-lang", "js"},
		{"x-stainless-runtime", "node"},
		{"x-api-key", "own"},
		{"accept-encoding", "gzip"},
		{"x-forwarded-proto", "https"},
		{"x-postern-scope", "l7/a"},
	}
	for b.Loop() {
		var changes [8]Change
		_, _ = Request(changes[:0], hs, Rule{Header: "x-api-key"})
	}
}
