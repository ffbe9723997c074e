package attack

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestNeighbour is what one agent does to the others of its node (class H). After each
// attack the same Envoy runs, and the other agent is served. Package xds looks at each
// bound closely, and tests/neighbour measures.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("api.test", "theirs.test")
	rule := func(id, host string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}, Upstream: up.Pin()}
	}
	denies := rule("hostile/no", "api.test")
	denies.Deny, denies.Upstream, denies.Methods, denies.Paths = true, nil, []string{plan.AnyMethod}, []string{"/v1/admin/**", "/v1/*/secret"}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "hostile", Rules: []plan.Rule{rule("hostile/api", "api.test"), denies}},
		{Name: "victim", Rules: []plan.Rule{rule("victim/api", "api.test"), rule("victim/theirs", "theirs.test")}},
	}})
	pid := f.EnvoyPID("n1")
	dial := func() net.Conn {
		conn, err := f.Dial("n1", "hostile")(t.Context(), "", "")
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	tunnel := func() net.Conn {
		conn := dial()
		_, _ = io.WriteString(conn, request("CONNECT", "api.test:443", "api.test:443"))
		head := make([]byte, len("HTTP/1.1 200 OK\r\n"))
		_, _ = io.ReadFull(conn, head)
		for last := ""; !strings.HasSuffix(last, "\r\n\r\n"); {
			one := make([]byte, 1)
			if _, err := conn.Read(one); err != nil {
				break
			}
			last += string(one)
		}
		return conn
	}
	flood := func(n int, one func()) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range n / 20 {
					one()
				}
			})
		}
		wg.Wait()
	}
	for _, c := range []struct {
		what string
		try  func(t *testing.T)
	}{
		{"H-neighbour-1 a certificate for the other's host (W19)", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := tls.Client(tunnel(), &tls.Config{ServerName: "theirs.test", InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // that there is one tells
			require.Error(t, err)
			require.NoError(t, ctx.Err(), "it hangs")
		}},
		{"H-neighbour-2 requests that are broken (W16)", func(*testing.T) {
			flood(1000, func() {
				conn := dial()
				defer conn.Close()
				_, _ = io.WriteString(conn, "GET\x00 / HTTP/1.1\r\n\r\n")
				_, _ = conn.Read(make([]byte, 100)) // not to the end: Envoy leaves it open for a second
			})
		}},
		{"H-neighbour-3 requests that are refused (W16)", func(*testing.T) {
			flood(1000, func() {
				conn := dial()
				defer conn.Close()
				_, _ = io.WriteString(conn, request("CONNECT", "evil.test:443", "evil.test:443", "Connection: close"))
				_, _ = conn.Read(make([]byte, 100))
			})
		}},
		{"H-neighbour-4 long paths (W16)", func(*testing.T) {
			path := "/v1/" + strings.Repeat("%61/users/secre", 1000)
			flood(400, func() {
				conn := dial()
				defer conn.Close()
				_, _ = fmt.Fprintf(conn, "GET http://api.test%s HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n", path)
				_, _ = conn.Read(make([]byte, 100)) // not to the end: Envoy leaves it open for a second
			})
		}},
		{"H-neighbour-5 every connection that it can have (W16)", func(*testing.T) {
			for range 1100 {
				_, _ = io.WriteString(dial(), request("CONNECT", "api.test:443", "api.test:443"))
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			inHostTable(t, c.what)
			c.try(t)
			require.Equal(t, 200, f.Get("n1", "victim", "https://api.test/v1/x"))
			require.Equal(t, 200, f.Get("n1", "victim", "https://theirs.test/v1/x"))
			require.Equal(t, pid, f.EnvoyPID("n1"), "Envoy was restarted")
		})
	}
}
