package inside

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

func TestCanonicalName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Example.TEST": "example.test", "example.test.": "example.test", "a_b-c.test": "a_b-c.test", "xn--bcher-kva.test": "xn--bcher-kva.test",
		"": "", ".": "", "a..b": "", ".a": "", "a b.test": "", "a\r\nHost: b": "", "a/b": "", "a:443": "", "ü.test": "", "a\x00b": "", "*.test": "",
		"127.0.0.1": "", "::1": "", strings.Repeat("a", 64) + ".test": "", strings.Repeat("a.", 127) + "test": "",
		`a\.b.test`: "", "a@b": "", "AP\u0130.test": "", "\u212a.test": "",
	} {
		got, ok := canonicalName(in)
		require.Equal(t, want, got, "%q", in)
		require.Equal(t, want != "", ok, "%q", in)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	g := &gate{gateways: []int{8080, 443}, captured: []int{80, 443, 8080}}
	for _, c := range []struct {
		ip   string
		port int
		want role
	}{
		{"127.0.0.1", 3128, roleProxy},
		{"::1", 3128, roleProxy},
		{"203.0.113.1", 3128, roleNone},
		{"127.0.0.1", 8080, roleProxy},
		{"203.0.113.1", 8080, roleCapture},
		{"127.0.0.1", 443, roleProxy},
		{"127.0.0.1", 80, roleNone},
		{"127.9.9.9", 80, roleNone},
		{"203.0.113.1", 80, roleCapture},
		{"2001:db8::1", 443, roleCapture},
		{"203.0.113.1", 22, roleNone},
	} {
		require.Equal(t, c.want, g.role(net.ParseIP(c.ip), c.port), "%s %d", c.ip, c.port)
	}
	require.Equal(t, roleNone, g.role(net.IPv4(127, 0, 0, 1), wire.ToolsPort))
	g.tools = true
	require.Equal(t, roleTools, g.role(net.IPv4(127, 0, 0, 1), wire.ToolsPort))
	require.Equal(t, roleNone, g.role(net.IPv4(203, 0, 113, 1), wire.ToolsPort))
}

func TestTarget(t *testing.T) {
	t.Parallel()
	g := &gate{names: newNames()}
	known := g.names.addressOf("known.test")
	other := net.ParseIP("203.0.113.5")
	for _, c := range []struct {
		sni  string
		ip   net.IP
		want string
	}{
		{"Example.test", other, "example.test:443"},
		{"", known, "known.test:443"},
		{"example.test", known, "example.test:443"},
		{"", other, "203.0.113.5:443"},
		{"bad name", other, "203.0.113.5:443"},
		{"x\r\nEvil: y", other, "203.0.113.5:443"},
		{"", net.ParseIP("2001:db8::1"), "[2001:db8::1]:443"},
	} {
		require.Equal(t, c.want, g.target(c.sni, &net.TCPAddr{IP: c.ip, Port: 443}))
	}
}

// Endless names cost a bounded amount of memory, and an address has one name.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	n := newNames()
	first := n.addressOf("first.test")
	require.Equal(t, first, n.addressOf("first.test"))
	name, ok := n.nameOf(first)
	require.True(t, ok)
	require.Equal(t, "first.test", name)
	seen := map[string]bool{}
	for i := range 3 * addresses {
		name := fmt.Sprintf("n%d.test", i)
		ip := n.addressOf(name)
		require.True(t, ip.To4()[0] == 198 && (ip.To4()[1]|1) == 19, ip)
		seen[ip.String()] = true
		got, ok := n.nameOf(ip)
		require.True(t, ok)
		require.Equal(t, name, got)
	}
	require.Len(t, seen, addresses)
	require.Len(t, n.byName, addresses)
	require.Len(t, n.byIndex, addresses)
	for _, ip := range []string{"198.18.0.0", "198.17.255.255", "198.19.0.1", "0.0.0.0", "255.255.255.255", "2001:db8::1"} {
		_, ok := n.nameOf(net.ParseIP(ip))
		require.False(t, ok, ip)
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	n := newNames()
	ask := func(name string, kind uint16) *dns.Msg { return n.answer(new(dns.Msg).SetQuestion(name, kind)) }
	require.Equal(t, "198.18.0.1", ask("a.test.", dns.TypeA).Answer[0].(*dns.A).A.String())
	require.Equal(t, "198.18.0.1", ask("A.Test.", dns.TypeA).Answer[0].(*dns.A).A.String())
	require.Equal(t, "A.Test.", ask("A.Test.", dns.TypeA).Answer[0].Header().Name)
	require.Equal(t, "127.0.0.1", ask("localhost.", dns.TypeA).Answer[0].(*dns.A).A.String())
	require.Equal(t, "::1", ask("x.localhost.", dns.TypeAAAA).Answer[0].(*dns.AAAA).AAAA.String())
	for _, kind := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeHTTPS, dns.TypeANY, dns.TypeMX, dns.TypePTR} {
		m := ask("a.test.", kind)
		require.Equal(t, dns.RcodeSuccess, m.Rcode)
		require.Empty(t, m.Answer)
	}
	require.Equal(t, dns.RcodeNameError, ask("bad name.test.", dns.TypeA).Rcode)
	require.Equal(t, dns.RcodeNameError, ask(".", dns.TypeNS).Rcode)
	require.Equal(t, dns.RcodeFormatError, n.answer(new(dns.Msg)).Rcode)
	chaos := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	require.Equal(t, dns.RcodeRefused, n.answer(chaos).Rcode)
}

// hello is what a client sends first.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() //nolint:gosec // there is no server
	}()
	require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Minute)))
	head := make([]byte, 5)
	_, err := io.ReadFull(server, head)
	require.NoError(t, err)
	body := make([]byte, int(head[3])<<8|int(head[4]))
	_, err = io.ReadFull(server, body)
	require.NoError(t, err)
	server.Close()
	return append(head, body...)
}

// once is a connection that has nothing but these bytes, a few at a time.
type once struct {
	net.Conn
	left  []byte
	chunk int
}

func (o *once) Read(p []byte) (int, error) {
	if len(o.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), o.chunk)], o.left)
	o.left = o.left[n:]
	return n, nil
}

func (o *once) Write([]byte) (int, error)          { return 0, errors.New("nothing may be written") }
func (o *once) Close() error                       { return nil }
func (o *once) SetDeadline(time.Time) error        { return nil }
func (o *once) SetReadDeadline(time.Time) error    { return nil }
func (o *once) SetWriteDeadline(t time.Time) error { return nil }

func TestReadHello(t *testing.T) {
	t.Parallel()
	want := hello(t, "example.test")
	for _, chunk := range []int{1, 7, 1 << 20} {
		read, name, err := readHello(&once{left: want[1:], chunk: chunk}, want[:1])
		require.NoError(t, err)
		require.Equal(t, "example.test", name)
		require.Equal(t, want, read, "the proxy gets exactly what the client sent")
	}
	_, _, err := readHello(&once{left: want[1 : len(want)-1], chunk: 100}, want[:1])
	require.Error(t, err)
}

// Whatever a client sends, what is asked of the proxy is one name or address.
func FuzzReadHello(f *testing.F) {
	f.Add(hello(f, "example.test"))
	f.Add(hello(f, ""))
	f.Add([]byte{0x16, 3, 1, 0, 0})
	g := &gate{names: newNames()}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		read, name, err := readHello(&once{left: data[1:], chunk: 16}, data[:1])
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(string(data), string(read)))
		require.Regexp(t, `^(([a-z0-9_-]+\.)*[a-z0-9_-]+|203\.0\.113\.1):443$`, g.target(name, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 443}))
	})
}

// serving is a node that answers, until it is told to hang: then the kernel goes on to take
// connections for it.
type serving struct {
	folder string
	hangs  atomic.Bool
	taken  atomic.Int32
}

func newServing(t *testing.T) *serving {
	t.Helper()
	s := &serving{folder: t.TempDir()}
	l, err := net.Listen("unix", filepath.Join(s.folder, "proxy.sock"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if s.hangs.Load() {
				t.Cleanup(func() { conn.Close() })
				continue
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 1)
				for {
					if _, err := conn.Read(b); err != nil {
						return
					}
					s.taken.Add(1)
					if _, err := conn.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return s
}

// TestHungNode: whoever connects comes to a node that answers, and who waits for one that
// does not any more is let go.
func TestHungNode(t *testing.T) {
	t.Parallel()
	hung, other := newServing(t), newServing(t)
	f := new(fleet)
	f.reach([]string{hung.folder, other.folder})
	ask := func(l *link) error {
		_, err := l.Write([]byte("x"))
		if err == nil {
			_, err = l.Read(make([]byte, 1))
		}
		return err
	}
	first, err := f.dial()
	require.NoError(t, err)
	require.NoError(t, ask(first))
	require.EqualValues(t, 1, hung.taken.Load(), "nodes take turns, and this is the first")
	hung.hangs.Store(true)
	n := f.nodes[0]
	n.mu.Lock()
	n.probed = time.Time{}
	n.mu.Unlock()
	for range 50 {
		l, err := f.dial()
		require.NoError(t, err)
		require.NoError(t, ask(l))
		l.end()
	}
	require.EqualValues(t, 50, other.taken.Load())
	_, err = first.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed, "cut off")
	first.end()

	// It is used again once it answers.
	hung.hangs.Store(false)
	require.Eventually(t, func() bool {
		l, err := f.dial()
		require.NoError(t, err)
		defer l.end()
		return ask(l) == nil && hung.taken.Load() > 1
	}, time.Minute, 10*time.Millisecond)

	// If none answers they may be slow: who asks is not told that there is none.
	hung.hangs.Store(true)
	other.hangs.Store(true)
	l, err := f.dial()
	require.NoError(t, err)
	l.end()
}
