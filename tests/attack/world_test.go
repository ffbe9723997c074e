package attack

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The world is everything that Envoy could reach: a network namespace in which
// every address is local. Every name below .test resolves, to an address of its own, and
// every address has a server on the usual ports, with a certificate that Envoy
// trusts for whatever name it asks for. Whatever the policy fails to refuse would
// work. Every packet, query and request is recorded.
//
// It is a process of its own, this test binary under worldVariable; it ends when
// its standard input does.
const worldVariable = "POSTERN_ATTACK_WORLD"

// worldDial is a socket of the world's: whoever connects and sends an address, and
// a line end, is joined with what is there.
const worldDial = "dial.sock"

// worldResolver is the DNS server that the plan names.
const worldResolver = "192.0.2.53:53"

// Arrival is one request that reached a server of the world.
type Arrival struct {
	// To is the address that was connected to.
	To, SNI, Proto, Method, Host, URI string
	Header, Trailer                   http.Header
	Body                              string
}

// Record is everything that left Envoy.
type Record struct {
	// Packets are the first packets of every flow: "tcp 192.0.2.1:443".
	Packets map[string]int
	// Queries are the names that were asked for.
	Queries  map[string]int
	Arrivals []Arrival
	// Names are the names that addresses were given out for.
	Names map[string]string
	// Streams are bytes on upgraded connections, and on ports that speak no HTTP.
	Streams []string
}

type world struct {
	ca     tls.Certificate
	parent *x509.Certificate
	key    *ecdsa.PrivateKey

	mu     sync.Mutex
	record Record
	// zone holds answers other than the usual: each query takes the next, the
	// last one stays.
	zone map[string][][]string
	// leaves are the certificates made so far.
	leaves map[string]*tls.Certificate
}

// serveWorld is the main function of the world's process.
func serveWorld(root string) error {
	ca, err := tls.LoadX509KeyPair(filepath.Join(root, "ca", "ca.pem"), filepath.Join(root, "ca", "ca.key"))
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	w := &world{ca: ca, parent: ca.Leaf, key: key, zone: map[string][][]string{}, leaves: map[string]*tls.Certificate{}}
	w.record = Record{Packets: map[string]int{}, Queries: map[string]int{}, Names: map[string]string{}}
	for _, start := range []func() error{everywhere, w.sniff, w.serveDNS, w.serveHTTP} {
		if err := start(); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", filepath.Join(root, "world.sock"))
	if err != nil {
		return err
	}
	door, err := net.Listen("unix", filepath.Join(root, worldDial))
	if err != nil {
		return err
	}
	go dialFor(door)
	go func() { _ = http.Serve(l, w.api()) }() //nolint:gosec // the test's own socket
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// dialFor serves worldDial.
func dialFor(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			to, err := in.ReadString('\n')
			if err != nil {
				return
			}
			c, err := net.Dial("tcp", strings.TrimSpace(to))
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, in)
				_ = c.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // by its network
			}()
			_, _ = io.Copy(conn, c)
			c.Close()
		}()
	}
}

// everywhere makes every address of the namespace local.
func everywhere() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for family, cidr := range map[int]string{unix.AF_INET: "0.0.0.0/0", unix.AF_INET6: "::/0"} {
		_, all, _ := net.ParseCIDR(cidr)
		if err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Family: family, Dst: all,
			Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		}); err != nil && family == unix.AF_INET {
			return err
		}
	}
	return nil
}

// sniff records the beginning of every flow.
func (w *world) sniff() error {
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, all)
	if err != nil {
		return fmt.Errorf("record packets: %w", err)
	}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "world: record packets:", err)
				os.Exit(1)
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				if flow := flowOf(buf[:n]); flow != "" {
					w.mu.Lock()
					w.record.Packets[flow]++
					w.mu.Unlock()
				}
			}
		}
	}()
	return nil
}

// flowOf names the flow that an IP packet begins, or is "".
func flowOf(p []byte) string {
	if len(p) < 40 {
		return ""
	}
	var to net.IP
	var proto byte
	var rest []byte
	switch p[0] >> 4 {
	case 4:
		to, proto, rest = net.IP(p[16:20]), p[9], p[int(p[0]&15)*4:]
	case 6:
		to, proto, rest = net.IP(p[24:40]), p[6], p[40:]
	}
	if len(rest) < 8 {
		return ""
	}
	port := fmt.Sprint(binary.BigEndian.Uint16(rest[2:]))
	switch proto {
	case unix.IPPROTO_TCP:
		if len(rest) < 14 || rest[13]&0x12 != 0x02 { // SYN without ACK
			return ""
		}
		return "tcp " + net.JoinHostPort(to.String(), port)
	case unix.IPPROTO_UDP:
		if binary.BigEndian.Uint16(rest) == 53 {
			return ""
		}
		return "udp " + net.JoinHostPort(to.String(), port)
	case unix.IPPROTO_ICMP:
		if rest[0] == 3 { // the kernel says that the asking process is gone
			return ""
		}
		return "icmp " + to.String()
	default:
		return fmt.Sprintf("ip/%d %s", proto, to)
	}
}

// addressOf is where a name is, unless the zone says otherwise.
func addressOf(name string) string {
	sum := sha256.Sum256([]byte(strings.TrimSuffix(strings.ToLower(name), ".")))
	return net.IPv4(11, sum[0], sum[1], sum[2]|1).String()
}

func (w *world) serveDNS() error {
	handler := dns.HandlerFunc(func(r dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
		for _, a := range w.resolve(name, q.Question[0].Qtype) {
			mapped := strings.HasPrefix(a, "::ffff:")
			switch ip := net.ParseIP(a); {
			case h.Rrtype == dns.TypeA && ip.To4() != nil && !mapped:
				m.Answer = append(m.Answer, &dns.A{Hdr: h, A: ip})
			case h.Rrtype == dns.TypeAAAA && (ip.To4() == nil || mapped):
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: ip.To16()})
			}
		}
		_ = r.WriteMsg(m)
	})
	pc, err := net.ListenPacket("udp", worldResolver)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", worldResolver)
	if err != nil {
		return err
	}
	go func() { _ = (&dns.Server{PacketConn: pc, Handler: handler}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: l, Handler: handler}).ActivateAndServe() }()
	return nil
}

func (w *world) resolve(name string, qtype uint16) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.Queries[name]++
	answers := []string{addressOf(name)}
	if z := w.zone[name]; len(z) > 0 {
		answers = z[0]
		// Envoy asks for A first; AAAA belongs to the same look-up.
		if len(z) > 1 && qtype == dns.TypeA {
			w.zone[name] = z[1:]
		}
	}
	for _, a := range answers {
		w.record.Names[a] = name
	}
	return answers
}

// certificate makes one for whatever name is asked for. Some names get what a
// client must refuse.
func (w *world) certificate(name string) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.leaves[name]; c != nil {
		return c, nil
	}
	names := []string{name}
	switch {
	case strings.HasPrefix(name, "wrong."):
		names = []string{"another.test"}
	case strings.HasPrefix(name, "nul."):
		names = []string{name + "\x00.evil.test", "evil.test\x00." + name}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.parent, &w.key.PublicKey, w.ca.PrivateKey)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: w.key}
	w.leaves[name] = c
	return c, nil
}

func (w *world) serveHTTP() error {
	protocols := func(h2 bool) []string {
		if h2 {
			return []string{"h2", "http/1.1"}
		}
		return []string{"http/1.1"}
	}
	config := &tls.Config{
		NextProtos:     protocols(true),
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return w.certificate(h.ServerName) },
	}
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c := config.Clone()
		c.NextProtos = protocols(strings.HasPrefix(h.ServerName, "h2."))
		return c, nil
	}
	server := &http.Server{Handler: http.HandlerFunc(w.arrive), TLSConfig: config, ReadHeaderTimeout: time.Minute}
	for port, secure := range map[string]bool{":443": true, ":8443": true, ":80": false, ":8080": false, ":8775": false} {
		l, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		if secure {
			go func() { _ = server.ServeTLS(l, "", "") }()
		} else {
			go func() { _ = server.Serve(l) }()
		}
	}
	return nil
}

func (w *world) arrive(out http.ResponseWriter, r *http.Request) {
	a := Arrival{Proto: r.Proto, Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header}
	if to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.To = to.String()
	}
	if r.TLS != nil {
		a.SNI = r.TLS.ServerName
	}
	upgrade := r.Header.Get("Upgrade") != ""
	if strings.HasPrefix(r.URL.Path, "/v1/deaf") && r.ProtoMajor == 1 {
		w.deaf(out, a)
		return
	}
	if !upgrade {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		a.Body, a.Trailer = string(body), r.Trailer
	}
	w.mu.Lock()
	w.record.Arrivals = append(w.record.Arrivals, a)
	w.mu.Unlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/echo"):
		for name, values := range r.Header {
			for _, v := range values {
				out.Header().Add(name, v)
				out.Header().Add("X-Echo-"+name, v)
			}
		}
		out.Header().Add("Set-Cookie", "key="+r.Header.Get("X-Api-Key"))
		_, _ = io.WriteString(out, "echoed\n")
	case strings.HasPrefix(r.URL.Path, "/v1/leak"):
		leak(out, r)
	case strings.HasPrefix(r.URL.Path, "/v1/redirect"):
		out.Header().Set("Location", r.URL.Query().Get("to"))
		out.WriteHeader(http.StatusFound)
	case strings.HasPrefix(r.URL.Path, "/v1/switch") && upgrade:
		conn, buf, err := http.NewResponseController(out).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		b := make([]byte, 4096)
		for {
			n, err := buf.Read(b)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.record.Streams = append(w.record.Streams, a.Host+" "+string(b[:n]))
			w.mu.Unlock()
			_, _ = conn.Write(b[:n])
		}
	default:
		_, _ = io.WriteString(out, "hello from "+r.Host+"\n")
	}
}

// deaf answers without a look at the body, as many small servers do, keeps the connection, and so
// takes the body for the next request.
func (w *world) deaf(out http.ResponseWriter, a Arrival) {
	conn, buf, err := http.NewResponseController(out).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		w.mu.Lock()
		w.record.Arrivals = append(w.record.Arrivals, a)
		w.mu.Unlock()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		r, err := http.ReadRequest(buf.Reader)
		if err != nil {
			return
		}
		a = Arrival{
			Proto: r.Proto, Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header, SNI: a.SNI, To: a.To,
		}
	}
}

// api is how the test asks what happened.
func (w *world) api() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /record", func(out http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		_ = json.NewEncoder(out).Encode(w.record)
	})
	m.HandleFunc("PUT /zone", func(_ http.ResponseWriter, r *http.Request) {
		var z map[string][][]string
		if json.NewDecoder(r.Body).Decode(&z) == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			maps.Copy(w.zone, z)
		}
	})
	return m
}

// worldClient is the test's side of the world.
type worldClient struct {
	pid    int
	client *http.Client
}

// newWorld starts a world whose servers hold certificates of the authority in
// root, which must be there.
func newWorld(t *testing.T, root string) *worldClient {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), worldVariable+"="+root)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	ready := make([]byte, 6)
	_, err = io.ReadFull(stdout, ready)
	require.NoError(t, err, "the world does not start")
	require.Equal(t, "ready\n", string(ready))
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(root, "world.sock"))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &worldClient{pid: cmd.Process.Pid, client: &http.Client{Transport: tr, Timeout: patience}}
}

// envoyIn writes a program that runs Envoy in the world's network.
func (w *worldClient) envoyIn(dir, envoy string) (string, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return "", fmt.Errorf("the attack suite needs nsenter of util-linux: %w", err)
	}
	path := filepath.Join(dir, "envoy-in-world")
	// A signal for the death of the parent does not survive a change of namespace.
	script := fmt.Sprintf("#!/bin/sh\nexec %s --preserve-credentials -U -n -t %d /usr/bin/setpriv --pdeathsig KILL %s \"$@\"\n", nsenter, w.pid, envoy)
	return path, os.WriteFile(path, []byte(script), 0o700)
}

func (w *worldClient) record() (Record, error) {
	resp, err := w.client.Get("http://world/record")
	if err != nil {
		return Record{}, err
	}
	defer resp.Body.Close()
	var r Record
	return r, json.NewDecoder(resp.Body).Decode(&r)
}

// setZone says where names are; see world.zone.
func (w *worldClient) setZone(zone map[string][][]string) error {
	b, err := json.Marshal(zone)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPut, "http://world/zone", strings.NewReader(string(b)))
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// arrivals are those whose host, server name or URI has the part in it.
func (r Record) arrivals(part string) []Arrival {
	return slices.DeleteFunc(slices.Clone(r.Arrivals), func(a Arrival) bool {
		return !strings.Contains(strings.ToLower(a.Host+" "+a.SNI+" "+a.URI), part)
	})
}
