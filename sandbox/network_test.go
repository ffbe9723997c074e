package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/guard"
)

// eachCaller runs a test for every user that a sandbox must work for.
func eachCaller(t *testing.T, test func(t *testing.T, b *box)) {
	t.Helper()
	for name, uid := range callers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newBox(t, uid))
		})
	}
}

func TestOnlyTheProxyIsReached(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		out := b.sh(t, `
			curl -sS https://allowed.test/a
			curl -sS --noproxy '*' https://allowed.test/b
			curl -sS --noproxy '*' https://allowed.test:8443/c
			curl -sS --noproxy '*' --resolve allowed.test:443:203.0.113.7 https://allowed.test/d
			curl -sS --noproxy '*' --resolve 'allowed.test:443:[2001:db8::1]' https://allowed.test/e
			curl -sS --noproxy '*' http://other.test/f
			curl -sS --noproxy '*' http://169.254.169.254/latest
			curl -sS http://localhost:8080/v1
			curl -sS http://127.0.0.1:8080/v1`)
		require.Equal(t, strings.Repeat("node decrypted allowed.test\n", 2)+"node decrypted allowed.test:8443\n"+strings.Repeat("node decrypted allowed.test\n", 2)+
			"node saw other.test\nnode saw 169.254.169.254\nnode saw localhost:8080\nnode saw 127.0.0.1:8080\n", out)
		require.Equal(t, []string{
			"CONNECT allowed.test:443", "CONNECT allowed.test:443", "CONNECT allowed.test:8443", "CONNECT allowed.test:443", "CONNECT allowed.test:443",
			"GET other.test/f", "GET 169.254.169.254/latest", "GET localhost:8080/v1", "GET 127.0.0.1:8080/v1",
		}, p.requests())
	})
}

func TestDenialIsSeenByTheClient(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		out := b.sh(t, `
			curl -sS https://denied.test/ 2>&1
			curl -sS --noproxy '*' https://denied.test/ 2>&1
			curl -sSk --noproxy '*' https://203.0.113.9/ 2>&1
			true`)
		require.Contains(t, out, "403")
		require.Equal(t, 2, strings.Count(out, "alert access denied"), out)
		require.Equal(t, []string{"CONNECT denied.test:443", "CONNECT denied.test:443", "CONNECT 203.0.113.9:443"}, p.requests())
	})
}

// A name asked for by DNS is remembered for a TLS client that does not send it.
func TestNameOfAddress(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		b.sh(t, `ip=$(./try dns udp 127.0.0.53:53 denied.test. A | sed -n 's/.*A\t198/198/p' | head -1)
			curl -sSk --noproxy '*' https://$ip/ 2>&1; true`)
		require.Equal(t, []string{"CONNECT denied.test:443"}, p.requests())
	})
}

func TestEverythingElseIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		for _, try := range [][]string{
			{"dial", "tcp", "203.0.113.1:22"},
			{"dial", "tcp", "[2001:db8::1]:22"},
			{"dial", "tcp", "127.0.0.1:80"},
			{"dial", "tcp", "127.0.0.1:443"},
			{"dial", "tcp", "203.0.113.1:3128"},
			{"dial", "tcp", "203.0.113.1:8080"},
			{"dial", "tcp", "169.254.169.254:8775"},
			{"dial", "tcp", "10.0.0.1:18000"},
			{"dial", "udp", "203.0.113.1:443"},
			{"dial", "udp", "203.0.113.1:123"},
			{"dial", "udp", "[2001:db8::1]:123"},
			{"socket", "2", "3"},    // AF_INET, SOCK_RAW
			{"socket", "2", "2053"}, // nonsense
			{"socket", "17", "3"},   // AF_PACKET
			{"socket", "40", "1"},   // AF_VSOCK, which no network namespace isolates
			{"socket", "38", "5"},   // AF_ALG
		} {
			out, _ := b.try(t, try...)
			require.Contains(t, out, "error:", "%v", try)
			require.NotContains(t, out, "timeout", "%v", try)
		}
		out, _ := b.run(t, "ping", "-c", "1", "-W", "1", "203.0.113.1")
		require.NotContains(t, out, "1 received")
		for _, r := range p.requests() { // told, so that the audit log has them: see package inside
			require.Regexp(t, `^CONNECT [0-9a-f.:\[\]]+:(22|3128|8080|8775|18000)$`, r)
		}
	})
}

func TestDNSStaysInside(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		for _, network := range []string{"udp", "tcp"} {
			out, _ := b.try(t, "dns", network, "127.0.0.53:53", "example.test.", "A")
			require.Contains(t, out, "NOERROR 1\nexample.test.\t60\tIN\tA\t198.18.0.")
			out, _ = b.try(t, "dns", network, "127.0.0.53:53", "example.test.", "AAAA")
			require.Contains(t, out, "NOERROR 0")
			out, _ = b.try(t, "dns", network, "127.0.0.53:53", "bad!name.test.", "A")
			require.Contains(t, out, "NXDOMAIN 0")
			for _, server := range []string{"8.8.8.8:53", "127.0.0.1:53", "[2001:db8::53]:53", "169.254.169.254:53"} {
				out, took := b.try(t, "dns", network, server, "example.test.", "A")
				require.Contains(t, out, "REFUSED 0", "%s %s", network, server)
				require.Contains(t, out, "Blocked", "%s %s", network, server)
				require.Less(t, took, time.Minute, "it hangs")
			}
		}
		require.Contains(t, b.sh(t, "getent hosts localhost"), "localhost")
		require.Contains(t, b.sh(t, "getent ahostsv4 one.test"), "198.18.0.")
	})
}

func TestNoInterfaceButLoopback(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		out, _ := b.try(t, "interfaces")
		require.Equal(t, "lo", out)
	})
}

func TestNodesTakeTurnsAndFailOver(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		second := filepath.Join(b.root, "state", "other", "agent")
		require.NoError(t, mkdir(second))
		b.spec.Sockets = append(b.spec.Sockets, second)
		b.own(t)
		first := b.serve(t, "first", b.spec.Sockets[0])
		b.serve(t, "second", second)
		const twice = `curl -sS http://localhost:8080/; curl -sS http://localhost:8080/`
		require.Equal(t, "first saw localhost:8080\nsecond saw localhost:8080\n", b.sh(t, twice))
		require.NoError(t, first.l.Close())
		require.Equal(t, strings.Repeat("second saw localhost:8080\n", 2), b.sh(t, twice))
	})
}

// Envoy answers for a supervisor that hangs, and refuses every request: the lease of the node
// tells.
func TestNodeWhoseLeaseHasEnded(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.spec.Sockets = nil
		for _, node := range []string{"n1", "n2"} {
			folder := filepath.Join(b.root, "state", node, "agents", "demo")
			require.NoError(t, mkdir(folder))
			b.spec.Sockets = append(b.spec.Sockets, folder)
		}
		lease := filepath.Join(b.root, "state", "n1", guard.LeasePath)
		require.NoError(t, os.WriteFile(lease, make([]byte, guard.LeaseSize), 0o600))
		b.own(t)
		b.serve(t, "first", b.spec.Sockets[0])
		b.serve(t, "second", b.spec.Sockets[1])
		const twice = `curl -sS http://localhost:8080/; curl -sS http://localhost:8080/`
		require.Equal(t, strings.Repeat("second saw localhost:8080\n", 2), b.sh(t, twice))
		require.NoError(t, os.WriteFile(lease, bytes.Repeat([]byte{0x7f}, guard.LeaseSize), 0o600))
		require.Equal(t, "first saw localhost:8080\nsecond saw localhost:8080\n", b.sh(t, twice))
		// It is not the agent's.
		_, status := b.run(t, "sh", "-c", "echo x > /run/postern/nodes/0.lease")
		require.NotZero(t, status)
	})
}

func TestNoNodeIsUp(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		out := b.sh(t, `curl -sS -i http://localhost:8080/; curl -sS -i --noproxy '*' http://x.test/; curl -sS https://x.test 2>&1; curl -sS --noproxy '*' https://x.test/ 2>&1; true`)
		require.Equal(t, 2, strings.Count(out, "fleet_unavailable"), out)
		require.Contains(t, out, "response 502")
		require.Contains(t, out, "alert internal error")
	})
}

// A node that comes back makes a new socket.
func TestNodeComesBack(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		cmd := b.command(t, "sh", "-c", `read x; curl -sS http://localhost:8080/; read x; curl -sS http://localhost:8080/`)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		next := lineReader(out)
		p := b.serve(t, "old", b.spec.Sockets[0])
		_, err = in.Write([]byte("\n"))
		require.NoError(t, err)
		require.Equal(t, "old saw localhost:8080", next(t))
		require.NoError(t, p.l.Close())
		b.serve(t, "new", b.spec.Sockets[0])
		_, err = in.Write([]byte("\n"))
		require.NoError(t, err)
		require.Equal(t, "new saw localhost:8080", next(t))
		require.NoError(t, cmd.Wait())
	})
}
