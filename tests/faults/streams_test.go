package faults

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// lasting is an upstream that sends a byte and no more until its client is gone.
func lasting(t *testing.T, s *stack) *plan.Upstream {
	path := filepath.Join(s.home.Root, "lasting.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := &http.Server{ //nolint:gosec // its clients are ours
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.ca.Issue(t, "stream.test", "tunnel.test")}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/short" {
				return
			}
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}),
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return &plan.Upstream{Address: "unix:" + path, CA: string(s.ca.PEM)}
}

// open asks for what lasts, and returns once it has begun, with what ends it.
func (s *stack) open(host string) (end func()) {
	s.t.Helper()
	var conn net.Conn
	client := s.agent("n1", "a")
	client.Timeout = 0
	dial := client.Transport.(*http.Transport).DialContext
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (c net.Conn, err error) {
		c, err = dial(ctx, network, address)
		conn = c
		return c, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.PEM)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+host+"/", nil)
	require.NoError(s.t, err)
	resp, err := client.Do(req)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { resp.Body.Close() })
	_, err = bufio.NewReader(resp.Body).ReadByte()
	require.NoError(s.t, err)
	return func() { conn.Close() }
}

// TestStreamsAreInTheLog: W15. What lasts is in the log while it does, and in the end, with one
// ID; the end of what a crash cut off is written as soon as somebody can.
func TestStreamsAreInTheLog(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	up := lasting(t, s)
	s.publish(&plan.Plan{Stack: "faults", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/stream", Host: "stream.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"}, Upstream: up},
		{ID: "a/tunnel", Host: "tunnel.test", Port: 443, Mode: plan.ModeTunnel, Upstream: up},
	}}}})
	// states are those of all streams, by what they are of.
	var events []audit.Event
	states := func() map[string][]string {
		all, ids := map[string][]string{}, map[string][]string{}
		var err error
		events, err = audit.Read(s.home.AuditDir(), audit.Filter{Agent: "a"})
		require.NoError(t, err)
		slices.SortFunc(events, func(a, b audit.Event) int { return int(a.Seq) - int(b.Seq) })
		for _, e := range events {
			if e.Stream != "" {
				if !slices.Contains(ids[e.Rule], e.Stream) {
					ids[e.Rule] = append(ids[e.Rule], e.Stream)
				}
				key := fmt.Sprint(e.Rule, " ", slices.Index(ids[e.Rule], e.Stream))
				all[key] = append(all[key], e.State)
			}
		}
		return all
	}
	reach := func(want map[string][]string) {
		t.Helper()
		var got map[string][]string
		require.Eventually(t, func() bool {
			got = states()
			return fmt.Sprint(got) == fmt.Sprint(want)
		}, patience, 20e6, "%v", &got)
	}
	opened, ended, lost := []string{audit.Opened}, []string{audit.Opened, audit.Ended}, []string{audit.Opened, audit.Lost}

	endStream, endTunnel := s.open("stream.test"), s.open("tunnel.test")
	reach(map[string][]string{"a/stream 0": opened, "a/tunnel 0": opened})
	endStream()
	endTunnel()
	reach(map[string][]string{"a/stream 0": ended, "a/tunnel 0": ended})

	s.open("stream.test")
	s.open("tunnel.test")
	reach(map[string][]string{"a/stream 0": ended, "a/tunnel 0": ended, "a/stream 1": opened, "a/tunnel 1": opened})
	envoys := children(s.programs["n1"].PID())
	require.Len(t, envoys, 1)
	require.NoError(t, syscall.Kill(envoys[0], syscall.SIGKILL))
	reach(map[string][]string{"a/stream 0": ended, "a/tunnel 0": ended, "a/stream 1": lost, "a/tunnel 1": lost})
	s.await("the node is back", func(st *api.Status) bool { return connected(st) == 1 })
	require.Eventually(t, func() bool { return node(s, "a") == nil }, patience, 20e6)

	s.open("stream.test")
	s.open("tunnel.test")
	reach(map[string][]string{
		"a/stream 0": ended, "a/tunnel 0": ended, "a/stream 1": lost, "a/tunnel 1": lost, "a/stream 2": opened, "a/tunnel 2": opened,
	})
	s.kill("n1") // the supervisor, and Envoy with it
	reach(map[string][]string{
		"a/stream 0": ended, "a/tunnel 0": ended, "a/stream 1": lost, "a/tunnel 1": lost, "a/stream 2": lost, "a/tunnel 2": lost,
	})
	for _, e := range events {
		require.Equal(t, audit.Allow, e.Verdict)
		require.NotEmpty(t, e.State, "what lasts is not also an ordinary event")
	}
}

// node connects to the agent's socket on n1.
func node(s *stack, agent string) error {
	conn, err := net.Dial("unix", filepath.Join(s.home.NodeDir("n1"), envoy.AgentSocket(agent)))
	if err == nil {
		conn.Close()
	}
	return err
}
