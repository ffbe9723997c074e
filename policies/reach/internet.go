package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/policies/packet"
)

// Out is what a stack's policy needs of the internet.
type Out struct {
	// Ports are the TCP ports of its destinations.
	Ports []uint16
	// Resolvers are the DNS servers that the proxies are told to ask.
	Resolvers []netip.AddrPort
}

// web is what proxies need whatever the policy is.
var web = &Out{Ports: []uint16{443}}

// String returns what people read: tcp/443, DNS at 192.0.2.53:53.
func (o *Out) String() string {
	var out []string
	for _, p := range o.Ports {
		out = append(out, fmt.Sprintf("tcp/%d", p))
	}
	for _, r := range o.Resolvers {
		out = append(out, "DNS at "+r.String())
	}
	return strings.Join(out, ", ")
}

// packets returns what the proxies may send.
func (o *Out) packets() packet.Set {
	out := toPorts(o.Ports)
	for _, r := range o.Resolvers {
		at := packet.To(netip.PrefixFrom(r.Addr(), r.Addr().BitLen()))
		for _, protocol := range []uint8{packet.UDP, packet.TCP} {
			out = out.Union(at.Intersect(packet.On(packet.Span[uint8]{First: protocol, Last: protocol},
				packet.Span[uint16]{First: r.Port(), Last: r.Port()})))
		}
	}
	return out
}

var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// Nobodys returns the IPv4 addresses that nobody on the internet has.
func Nobodys() []netip.Prefix { return slices.Clone(nobodys) }

var (
	toPublic   = packet.To(everything[0]).Minus(packet.To(nobodys...))
	fromPublic = packet.From(everything[0], netip.MustParsePrefix("2000::/3")).Minus(packet.From(nobodys...))
)

// wayOut returns what the proxies may send to the internet, and whether the plan says so.
func (n *Network) wayOut() (*Out, bool) {
	if n.Out == nil {
		return web, false
	}
	return n.Out, true
}

// reachInternet proves that the proxies reach every public address at each port of the policy, and
// are answered.
func (n *Network) reachInternet() []Verdict {
	var out []Verdict
	way, _ := n.wayOut()
	for _, i := range n.Interfaces {
		for _, port := range way.Ports {
			if i.Kind == Proxy {
				out = append(out, n.own(&Own{
					says: fmt.Sprintf("the internet, tcp/%d: must", port), must: true,
					to: toPublic.Intersect(toPorts([]uint16{port})),
				}, i))
			}
		}
	}
	return out
}

// outside stands for everybody on the internet, as a sender.
var outside = &Interface{Name: string(AtInternet), Kind: Internet}

// enter follows packets from the internet to an interface. An internet gateway delivers what is for
// a public address, whatever the routes are, and IPv6. A NAT gateway takes no connection.
func (w *walker) enter(to *Interface, others []*Interface) {
	if to.Kind == NAT {
		return
	}
	for _, t := range to.Subnets {
		if !t.VPC.Gateway && !w.is(ControlGateway, t.VPC.Name) {
			continue
		}
		hop := Hop{
			From: outside.Name, To: to.Name, at: to, Packets: fromPublic.Intersect(packet.To(to.within(t)...)),
		}
		if !to.Public && !w.is(ControlAddress, to.Name) {
			hop.Packets = hop.Packets.Intersect(packet.To(everything[1]))
		}
		for _, ask := range []func() (packet.Set, step){
			func() (packet.Set, step) { return w.acl(t.ACL, false) },
			func() (packet.Set, step) { return w.groups(to, nil, false) },
		} {
			if hop.Packets.Empty() {
				break
			}
			allowed, by := ask()
			hop.Packets, hop.steps = hop.Packets.Intersect(allowed), append(hop.steps, by)
		}
		if !hop.Packets.Empty() {
			w.arrive(to, others, []Hop{hop})
		}
	}
}
