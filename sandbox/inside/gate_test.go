package inside

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

// proxy stands for the agent's proxy on one node.
type proxy struct {
	folder string
	mu     sync.Mutex
	heads  []string
}

// asked returns the heads of the requests so far.
func (p *proxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.heads...)
}

// newProxy returns a proxy that reads the head of each request and then answers as told, after
// which it echoes what comes until its peer is done.
func newProxy(t *testing.T, answer string) *proxy {
	t.Helper()
	p := &proxy{folder: t.TempDir()}
	l, err := net.Listen("unix", filepath.Join(p.folder, "proxy.sock"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn, answer)
		}
	}()
	return p
}

func (p *proxy) serve(conn net.Conn, answer string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	head := ""
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if head += line; err != nil {
			break
		}
	}
	p.mu.Lock()
	p.heads = append(p.heads, head)
	p.mu.Unlock()
	if _, err := io.WriteString(conn, answer); err == nil && strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		_, _ = io.Copy(conn, r)
	}
}

// gateTo returns a gate whose only node has its socket in the folder.
func gateTo(folder string) *gate {
	f := new(fleet)
	f.reach([]string{folder})
	return &gate{fleet: f, names: newNames(), refusals: &refusals{fleet: f, told: map[string]bool{}}, patience: time.Minute}
}

// joined returns both ends of a TCP connection.
func joined(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	got, err := l.Accept()
	require.NoError(t, err)
	return conn.(*net.TCPConn), got.(*net.TCPConn)
}

const (
	accepted = "HTTP/1.1 200 OK\r\n\r\n"
	down     = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\ncontent-length: 112\r\n" +
		"connection: close\r\n\r\n" + `{"error":"proxy fleet is down",` +
		`"hint":"an operator can look with: postern status","reason":"fleet_unavailable"}` + "\n"
	accessDenied  = "\x15\x03\x03\x00\x02\x02\x31" // fatal alert 49
	internalError = "\x15\x03\x03\x00\x02\x02\x50" // fatal alert 80
)

// TestCapture: a client that knows of no proxy gets what it asked for, or an end that it
// understands; the proxy is asked for just the name in the client's hello.
func TestCapture(t *testing.T) {
	t.Parallel()
	tls := string(hello(t, "Example.test"))
	connect := "CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n"
	plain := "GET / HTTP/1.1\r\nHost: 203.0.113.1:443\r\nConnection: close\r\n\r\n"
	request := "GET /a HTTP/1.1\r\nHost: b.test\r\n\r\n"
	const forbidden = "HTTP/1.1 403 Forbidden\r\n\r\n"
	longest := "HTTP/1.1 200 OK\r\na: " + strings.Repeat("a", 64<<10-24) + "\r\n\r\n"
	require.Len(t, longest, 64<<10)
	long := strings.Replace(longest, "a: ", "aa: ", 1)
	for name, c := range map[string]struct {
		sends, answer string
		gone          bool // no proxy is there
		silent        bool // the client waits for the server
		gets          string
		asked         string
		reset         bool
	}{
		"a tunnel":             {sends: tls, answer: accepted, gets: tls, asked: connect},
		"denied":               {sends: tls, answer: forbidden, gets: accessDenied, asked: connect},
		"no upstream":          {sends: tls, answer: "HTTP/1.1 503 No\r\n\r\n", gets: internalError, asked: connect},
		"another success":      {sends: tls, answer: "HTTP/1.1 201 Yes\r\n\r\n", gets: internalError, asked: connect},
		"no answer":            {sends: tls, gets: internalError, asked: connect},
		"no HTTP":              {sends: tls, answer: "200 OK\r\n\r\n", gets: internalError, asked: connect},
		"the longest answer":   {sends: tls, answer: longest, gets: tls, asked: connect},
		"an answer too long":   {sends: tls, answer: long, gets: internalError, asked: connect},
		"TLS without a fleet":  {sends: tls, gone: true, gets: internalError},
		"a torn hello":         {sends: tls[:len(tls)-1], answer: accepted, reset: true},
		"HTTP":                 {sends: request + "rest", answer: accepted, gets: accepted + "rest", asked: request},
		"HTTP without a fleet": {sends: request, gone: true, gets: down},
		"another protocol":     {sends: "SSH-2.0-x\r\n", answer: forbidden, asked: plain, reset: true},
		"one byte":             {sends: "S", answer: forbidden, asked: plain, reset: true},
		"nothing":              {reset: true},
		"silence":              {silent: true, answer: forbidden, asked: plain, reset: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, c.answer)
			g := gateTo(p.folder)
			if c.gone {
				g = gateTo(t.TempDir())
			}
			client, server := joined(t)
			_, err := io.WriteString(client, c.sends)
			require.NoError(t, err)
			if g.patience = time.Minute; c.silent {
				g.patience = time.Millisecond
			} else {
				require.NoError(t, client.CloseWrite())
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				g.capture(server, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 443})
			}()
			got, err := io.ReadAll(client)
			if c.reset {
				require.Empty(t, got)
			} else {
				require.NoError(t, err)
				require.Equal(t, c.gets, string(got))
			}
			<-done
			require.Equal(t, c.asked, strings.Join(p.asked(), ""))
		})
	}
}

// TestServe: what comes to a port of the gate goes to the proxy as it is; nothing else is served.
func TestServe(t *testing.T) {
	t.Parallel()
	p := newProxy(t, accepted)
	for name, c := range map[string]struct {
		folder string
		open   bool
		gets   string
	}{
		"a gateway":       {p.folder, true, accepted + "rest"},
		"without a fleet": {t.TempDir(), true, down},
		"another port":    {p.folder, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gateTo(c.folder)
			client, server := joined(t)
			if c.open {
				g.gateways = []int{server.LocalAddr().(*net.TCPAddr).Port}
			}
			_, err := io.WriteString(client, "CONNECT x:1 HTTP/1.1\r\n\r\nrest")
			require.NoError(t, err)
			require.NoError(t, client.CloseWrite())
			go g.serve(server)
			got, _ := io.ReadAll(client)
			require.Equal(t, c.gets, string(got))
		})
	}
}

// TestRefusals: the proxy is told once of each connection in vain, and of no more than so many.
func TestRefusals(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "HTTP/1.1 403 Forbidden\r\n\r\n")
	r := gateTo(p.folder).refusals
	r.connection("a.test:22")
	r.connection("a.test:22")
	r.plain("a.test:22")
	want := []string{
		"CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.test:22\r\nConnection: close\r\n\r\n",
	}
	require.Equal(t, want, p.asked())
	for _, n := range r.fleet.nodes {
		require.Empty(t, n.links, "they are ended")
	}
	for port := range 100 {
		r.connection(fmt.Sprintf("b.test:%d", port))
	}
	require.Len(t, p.asked(), 64)
	// Nobody is told if there is no node; nothing hangs.
	gateTo(t.TempDir()).refusals.connection("a.test:22")
}

// TestRefused: what is on the sandbox's own addresses is told to nobody, and a name is told as a
// name.
func TestRefused(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "HTTP/1.1 403 Forbidden\r\n\r\n")
	g := gateTo(p.folder)
	for _, c := range []struct {
		ip   net.IP
		port int
	}{
		{net.IPv4(127, 0, 0, 1), 22},
		{net.IPv6loopback, 22},
		{net.IPv4zero, 22},
		{net.IPv6unspecified, 22},
		{net.IPv4(203, 0, 113, 1), 0},
	} {
		g.refused(c.ip, c.port)
	}
	g.refused(g.names.addressOf("c.test"), 22)
	g.refused(net.ParseIP("2001:db8::1"), 22)
	require.Eventually(t, func() bool { return len(p.asked()) >= 2 }, time.Minute, time.Millisecond)
	require.ElementsMatch(t, []string{
		"CONNECT c.test:22 HTTP/1.1\r\nHost: c.test:22\r\n\r\n",
		"CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n",
	}, p.asked())
}

func TestMayBeHTTP(t *testing.T) {
	t.Parallel()
	for first, want := range map[string]bool{
		"GET / HTTP/1.1": true, "A ": true, "AZ": true, "PROPFIND": true, "": true,
		" GET": false, "get /": false, "SSH-2.0": false, "GE@": false, "GE[": false, "\x00": false,
	} {
		require.Equal(t, want, mayBeHTTP([]byte(first)), "%q", first)
	}
}

// TestNameBounds: a name's labels have at most 63 characters, and the name 253.
func TestNameBounds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(strings.Repeat("a", 62)+".", 4) // 252
	for name, want := range map[string]bool{
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, long + "b": true, long + "bc": false,
		"az09-_.test": true, "`.test": false, "{.test": false, "/.test": false, ":.test": false, "@.test": false,
		"[.test": false, "AZ.test": true,
	} {
		_, ok := canonicalName(name)
		require.Equal(t, want, ok, name)
	}
}

// TestHelloIsBounded: no client makes the gate keep more than 64 KiB.
func TestHelloIsBounded(t *testing.T) {
	t.Parallel()
	r := &recorder{Conn: &once{left: make([]byte, 1<<20), chunk: 1 << 10}, pending: []byte{}}
	total := 0
	for {
		n, err := r.Read(make([]byte, 4<<10))
		if total += n; err != nil {
			require.EqualError(t, err, "ClientHello is too long")
			break
		}
		require.LessOrEqual(t, total, 64<<10)
	}
	require.Equal(t, 64<<10, total)
	require.Equal(t, 64<<10, r.read.Len())
}

// TestDNSAnswers: an answer is one that a resolver library takes.
func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	q := new(dns.Msg).SetQuestion("A.test.", dns.TypeA)
	q.Id = 4711
	m := newNames().answer(q)
	require.True(t, m.Response && m.RecursionAvailable)
	require.EqualValues(t, 4711, m.Id)
	require.Equal(t, dns.RR_Header{Name: "A.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		*m.Answer[0].Header())
	local := newNames().answer(new(dns.Msg).SetQuestion("localhost.", dns.TypeAAAA))
	require.Equal(t, dns.RR_Header{Name: "localhost.", Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 60},
		*local.Answer[0].Header())
	local = newNames().answer(new(dns.Msg).SetQuestion("a.localhost.", dns.TypeA))
	require.Equal(t, dns.RR_Header{Name: "a.localhost.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		*local.Answer[0].Header())
	require.Empty(t, newNames().answer(new(dns.Msg).SetQuestion("a.localhost.", dns.TypeMX)).Answer)
	update := new(dns.Msg).SetUpdate("a.test.")
	update.Id = 5
	m = newNames().answer(update)
	require.Equal(t, dns.RcodeNotImplemented, m.Rcode)
	require.EqualValues(t, 5, m.Id)

	m = refusal(q)
	require.Equal(t, dns.RcodeRefused, m.Rcode)
	require.EqualValues(t, 4711, m.Id)
	require.Empty(t, m.Extra, "who does not speak EDNS is not answered in it")
	m = refusal(q.SetEdns0(4096, false))
	opt := m.IsEdns0()
	require.NotNil(t, opt)
	require.Equal(t, ".", opt.Hdr.Name)
	require.EqualValues(t, 512, opt.UDPSize())
	require.Equal(t, []dns.EDNS0{&dns.EDNS0_EDE{
		InfoCode: 15, ExtraText: "postern: DNS does not leave the sandbox, ask 127.0.0.53",
	}}, opt.Option)
}

// inNetns, in the environment, makes TestEveryAddressIsOurs look at the network that it is in.
const inNetns = "POSTERN_TEST_NETNS"

// TestEveryAddressIsOurs: in a network namespace of its own, every address is the sandbox's; the
// gate takes connections to the captured ports of all of them, and to its own ports on loopback
// only. One DNS server answers, and all the others refuse.
func TestEveryAddressIsOurs(t *testing.T) {
	t.Parallel()
	if folder := os.Getenv(inNetns); folder != "" {
		lookAround(t, folder)
		return
	}
	p := newProxy(t, accepted)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestEveryAddressIsOurs$", "-test.v")
	cmd.Env = append(os.Environ(), inNetns+"="+p.folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestEveryAddressIsOurs")
}

func lookAround(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, routeEverythingHere())
	g := gateTo(folder)
	g.captured, g.gateways = []int{443, 8080, 1, 65535}, []int{8081, 443}
	taken, err := net.ListenPacket("udp4", "0.0.0.0:53")
	require.NoError(t, err)
	require.Error(t, serveDNS(g.names))
	require.NoError(t, taken.Close())
	require.NoError(t, serveDNS(g.names))
	require.Error(t, serveDNS(g.names), "the ports are taken")
	require.NoError(t, g.listen())
	for _, bad := range []int{0, -1, 65536, 53} {
		require.Error(t, (&gate{captured: []int{bad}}).listen(), bad)
		require.Error(t, (&gate{gateways: []int{bad}}).listen(), bad)
	}
	require.Error(t, g.listen(), "the ports are taken")

	// What an address and port answer: an answer of the proxy, or none. A connection that the gate
	// took and closed at once may be reset as early as in the dial.
	says := func(address, text string) string {
		conn, err := net.DialTimeout("tcp", address, time.Minute)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return "refused"
		}
		if errors.Is(err, syscall.ECONNRESET) {
			return ""
		}
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		return string(got)
	}
	const request = "GET / HTTP/1.1\r\n\r\n"
	for address, want := range map[string]string{
		"203.0.113.1:443": accepted, "[2001:db8::1]:443": accepted, "203.0.113.1:8080": accepted,
		"203.0.113.1:1": accepted, "203.0.113.1:65535": accepted,
		"127.0.0.1:443": accepted, "[::1]:443": accepted, "127.0.0.1:3128": accepted, "[::1]:3128": accepted,
		"127.0.0.1:8081": accepted, "[::1]:8081": accepted, "127.0.0.1:8080": "", "127.0.0.9:8080": "",
		"203.0.113.1:8081": "refused", "203.0.113.1:3128": "refused", "[2001:db8::1]:8081": "refused",
		"203.0.113.1:22": "refused", "[2001:db8::1]:22": "refused", "127.0.0.1:22": "refused",
	} {
		require.Equal(t, want, says(address, request), address)
	}

	// A client that asks glibc for names believes that there are both versions of IP.
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(addrs), "198.19.255.254/32")
	require.Contains(t, fmt.Sprint(addrs), "2001:db8:ffff::1/128")

	for server, rcode := range map[string]int{
		"127.0.0.53:53": dns.RcodeSuccess, "203.0.113.53:53": dns.RcodeRefused, "127.0.0.1:53": dns.RcodeRefused,
		"[2001:db8::53]:53": dns.RcodeRefused,
	} {
		for _, network := range []string{"udp", "tcp"} {
			c := &dns.Client{Net: network, Timeout: time.Minute}
			m, _, err := c.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion("a.test.", dns.TypeA), server)
			require.NoError(t, err, "%s %s", network, server)
			require.Equal(t, rcode, m.Rcode, "%s %s", network, server)
		}
	}
	ip := g.names.addressOf("a.test").String()
	require.Equal(t, accepted, says(net.JoinHostPort(ip, "443"), request))
	require.True(t, bytes.HasPrefix([]byte(ip), []byte("198.18.")))
	require.Equal(t, "127.0.0.53", wire.Resolver)
}
