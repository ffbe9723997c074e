package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/policies/packet"
)

// TestTheInternet: who gets in from there, and what the proxies get out.
func TestTheInternet(t *testing.T) {
	t.Parallel()
	const in, out = "the internet -> anything: never: ", "proxy -> the internet: only tcp/443: "
	anybody := allow("mistake", packet.From(prefixes("0.0.0.0/0")...).Intersect(onTCP(22)), nil)
	for name, c := range map[string]struct {
		change func(s *small)
		breaks []string
		// shows is a part of the witness or the note.
		shows string
	}{
		"a machine with a public address, and a rule": {func(s *small) {
			s.proxy.Public = true
			s.ofProxy.In = append(s.ofProxy.In, anybody)
		}, []string{in + "fails"}, "the internet -> proxy: tcp 1.0.0.0 -> 10.0.1.0:22"},
		"a rule, and no public address": {func(s *small) { s.ofProxy.In = append(s.ofProxy.In, anybody) }, nil, ""},
		"a public address, and no rule": {func(s *small) { s.proxy.Public = true }, nil, ""},
		"a public address without a gateway": {func(s *small) {
			s.proxy.Public, s.vpc.Gateway = true, false
			s.ofProxy.In = append(s.ofProxy.In, anybody)
		}, nil, ""},
		"a public address behind an ACL": {func(s *small) {
			s.proxy.Public = true
			s.ofProxy.In = append(s.ofProxy.In, anybody)
			s.open.ACL.In = []*ACLRule{{Name: "answers", Allow: true, Packets: packet.On(packet.Span[uint8]{
				First: packet.TCP, Last: packet.TCP,
			}, chosen)}}
		}, nil, ""},
		"a rule for private networks": {func(s *small) {
			s.proxy.Public = true
			near := packet.From(prefixes("10.0.0.0/8", "192.168.0.0/16")...)
			s.ofProxy.In = append(s.ofProxy.In, allow("near", near, nil))
		}, nil, ""},
		"a load balancer on the internet": {func(s *small) {
			s.gate.Public = true
			s.ofGate.In = append(s.ofGate.In, allow("mistake", onTCP(10001), nil))
		}, []string{in + "fails"}, "the internet -> gate: tcp 1.0.0.0 -> 10.0.1.0:10001"},
		"IPv6": {func(s *small) {
			s.open.Prefixes = append(s.open.Prefixes, prefixes("2600:1f00::/64")...)
			s.ofControl.In = append(s.ofControl.In, allow("mistake", packet.From(prefixes("::/0")...), nil))
		}, []string{
			ofIPv6, strings.Replace(ofIPv6, "coder", "tester", 1), in + "fails",
		}, "the internet -> control: tcp 2000:: -> [2600:1f00::]:0"},
		"a rule of which nobody knows the network": {func(s *small) {
			s.proxy.Public = true
			s.ofProxy.In = append(s.ofProxy.In, &GroupRule{Name: "mistake", Packets: packet.All(), Unsure: true})
		}, []string{in + "indeterminate"}, "rule mistake"},
		"a database with a public address": {func(s *small) {
			s.Doors = append(s.Doors, &Door{Name: "db", Internet: true, Open: "it has a public address"})
		}, []string{"the internet -> db: never: fails"}, "it has a public address"},
		"a proxy that sends mail": {func(s *small) {
			s.ofProxy.Out = append(s.ofProxy.Out, allow("mistake", toPublic.Intersect(onTCP(25)), nil))
		}, []string{out + "fails"}, "25"},
		"a proxy that asks anybody's resolver": {func(s *small) {
			s.ofProxy.Out = append(s.ofProxy.Out, allow("mistake", toPublic.Intersect(packet.On(packet.Span[uint8]{
				First: packet.UDP, Last: packet.UDP,
			}, packet.Span[uint16]{First: 53, Last: 53})), nil))
		}, []string{out + "fails"}, "udp 10.0.1.0 -> 1.0.0.0:53"},
		"a range of ports": {func(s *small) {
			s.ofProxy.Out = []*GroupRule{allow("mistake", toPublic.Intersect(packet.On(packet.Span[uint8]{
				First: packet.TCP, Last: packet.TCP,
			}, packet.Span[uint16]{First: 443, Last: 444})), nil)}
		}, []string{out + "fails"}, ":444"},
		"no policy is known": {func(s *small) {
			s.Out = nil
			s.ofProxy.Out = append(s.ofProxy.Out, allow("more", toPublic.Intersect(onTCP(8443)), nil))
		}, []string{out + "indeterminate"}, "the ports of the policy's destinations are not known"},
		"no way out": {func(s *small) {
			s.open.Table.Routes = nil
		}, []string{"proxy -> the internet, tcp/443: must: fails"}, "no path leads there"},
		"a way to a half of it": {func(s *small) {
			s.open.Table.Routes[0].To = netip.MustParsePrefix("128.0.0.0/1")
		}, []string{"proxy -> the internet, tcp/443: must: fails"}, "no path takes"},
		"a port of the policy that nobody lets out": {func(s *small) {
			s.Out = &Out{Ports: []uint16{443, 8443}}
		}, []string{"proxy -> the internet, tcp/8443: must: fails"}, "no path leads there"},
		"no answer": {func(s *small) {
			s.way.ACL.In = []*ACLRule{{Name: "asks", Allow: true, Packets: onTCP(443)}}
		}, []string{"proxy -> the internet, tcp/443: must: fails"}, "network ACL way-acl drops the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSmall()
			c.change(s)
			p := Prove("stack", s.Network, false)
			require.Equal(t, append([]string{}, c.breaks...), of(p))
			var text strings.Builder
			require.NoError(t, p.Print(&text))
			require.Contains(t, text.String(), c.shows)
		})
	}
}

// TestTheResolversOfThePolicyAreAsked: at their addresses only.
func TestTheResolversOfThePolicyAreAsked(t *testing.T) {
	t.Parallel()
	prove := func(asks func(o *Out) packet.Set) *Proof {
		s := newSmall()
		s.Out.Resolvers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
		s.ofProxy.Out = append(s.ofProxy.Out, allow("dns", asks(s.Out), nil))
		return Prove("stack", s.Network, true)
	}
	p := prove((*Out).packets)
	require.Empty(t, of(p))
	require.True(t, slices.ContainsFunc(p.Verdicts, func(v Verdict) bool {
		return v.Assertion == "proxy -> the internet: only tcp/443, DNS at 192.0.2.53:53" && len(v.Cut) == 1
	}), "%+v", p.Verdicts)
	require.Equal(t, []string{"proxy -> the internet: only tcp/443, DNS at 192.0.2.53:53: fails"}, of(prove(
		func(*Out) packet.Set { return packet.To(prefixes("192.0.2.52/30")...).Intersect(onTCP(53)) })))
}

// TestOneMistakeLetsTheInternetIn: a mistake is found where nothing else keeps the internet out.
func TestOneMistakeLetsTheInternetIn(t *testing.T) {
	t.Parallel()
	mistakes := func(change func(s *small)) (out []string) {
		s := newSmall()
		change(s)
		for _, m := range Prove("stack", s.Network, true).Mistakes {
			if strings.HasPrefix(m.Opens, "the internet -> ") {
				out = append(out, fmt.Sprint(m.Control, " ", m.Witness[0].To))
			}
		}
		return out
	}
	require.Empty(t, mistakes(func(*small) {}))
	require.Equal(t, []string{"incoming rules of security group of-proxy proxy"}, mistakes(func(s *small) {
		s.proxy.Public = true
	}))
	require.Equal(t, []string{"no internet gateway in vpc proxy"}, mistakes(func(s *small) {
		s.proxy.Public, s.vpc.Gateway, s.way.Table.Routes = true, false, nil
		s.ofProxy.In = append(s.ofProxy.In, allow("mistake", onTCP(22), nil))
	}))
	require.Equal(t, []string{"no public address of gate gate"}, mistakes(func(s *small) { s.gate.Unfiltered = true }))
}
