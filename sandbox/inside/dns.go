package inside

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

const (
	dnsPort = 53
	// ttl is in seconds. A name keeps its address for far longer.
	ttl = 60
)

// serveDNS answers every DNS query of the sandbox in the background. It never asks anybody else.
//
// There are separate sockets for the resolver's own address and for all others. A wildcard UDP
// socket would have to read the requested address from each packet. The kernel prefers the more
// specific socket.
func serveDNS(n *names) error {
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(n.answer(q)) })
	refuse := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(refusal(q)) })
	byAddress := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if to, ok := w.LocalAddr().(*net.TCPAddr); ok && to.IP.String() == wire.Resolver {
			answer(w, q)
			return
		}
		refuse(w, q)
	})
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if err == nil && network == "udp6" {
				// Needed to answer from an address that is ours only by its route.
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	for _, udp := range []struct {
		network, host string
		handler       dns.Handler
	}{{"udp4", wire.Resolver, answer}, {"udp4", "0.0.0.0", refuse}, {"udp6", "::", refuse}} {
		conn, err := config.ListenPacket(context.Background(), udp.network, net.JoinHostPort(udp.host, fmt.Sprint(dnsPort)))
		if udp.network == "udp6" && noIPv6(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen for DNS in sandbox: %w", err)
		}
		go run(&dns.Server{PacketConn: conn, Handler: udp.handler})
	}
	l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort("", fmt.Sprint(dnsPort)))
	if err != nil {
		return fmt.Errorf("listen for DNS in sandbox: %w", err)
	}
	go run(&dns.Server{Listener: l, Handler: byAddress})
	return nil
}

// run serves for as long as the sandbox lives.
func run(s *dns.Server) {
	if err := s.ActivateAndServe(); err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: serve DNS: %v\n", err)
		os.Exit(1)
	}
}

// answer gives every name an IPv4 address and nothing else. The proxy decides what a name may be
// used for.
func (n *names) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	if len(q.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	question := q.Question[0]
	if question.Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeRefused
		return m
	}
	name, ok := canonicalName(question.Name)
	if !ok {
		m.Rcode = dns.RcodeNameError
		return m
	}
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	local := name == "localhost" || strings.HasSuffix(name, ".localhost")
	switch {
	case question.Qtype == dns.TypeA && local:
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
	case question.Qtype == dns.TypeAAAA && local:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.IPv6loopback}}
	case question.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: n.addressOf(name)}}
	}
	return m
}

// refusal is the answer in the name of every server that is not ours.
func refusal(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, dns.RcodeRefused)
	if q.IsEdns0() != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(dns.MinMsgSize)
		opt.Option = []dns.EDNS0{&dns.EDNS0_EDE{
			InfoCode:  dns.ExtendedErrorCodeBlocked,
			ExtraText: "postern: DNS does not leave the sandbox, ask " + wire.Resolver,
		}}
		m.Extra = append(m.Extra, opt)
	}
	return m
}
