package reach

import (
	"cmp"
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
	// Control means that the control plane needs the internet too.
	Control bool
	// Services are the services of the cloud that the control plane needs, by HTTPS.
	Services []string
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

// toServices proves that the control plane reaches each service of the cloud that it needs, and is
// answered. Where its network has an endpoint for the service, the name leads to the endpoint.
func (n *Network) toServices() []Verdict {
	var out []Verdict
	way, _ := n.wayOut()
	for _, i := range n.Interfaces {
		if i.Kind != ControlPlane || len(way.Services) == 0 {
			continue
		}
		w, walks, each := &walker{removed: closed, sure: true}, [][]Arrival{}, i.each()
		for _, from := range each {
			walks = append(walks, w.from(from, n.Interfaces))
		}
		var byInternet *Verdict
		for _, service := range way.Services {
			says := service + " of the cloud: must"
			if n.hasEndpoint(i, service) {
				out = append(out, w.toEndpoint(i.Name+" -> "+says, service, each, walks))
				continue
			}
			if byInternet == nil {
				v := n.own(&Own{must: true, to: toPublic.Intersect(toPorts(web.Ports))}, i)
				byInternet = &v
			}
			v := *byInternet
			v.Assertion = i.Name + " -> " + says
			out = append(out, v)
		}
	}
	return out
}

// hasEndpoint reports whether there is an endpoint for a service in a network of the interface.
func (n *Network) hasEndpoint(i *Interface, service string) bool {
	for _, s := range i.Subnets {
		if slices.ContainsFunc(s.Table.Routes, func(r *Route) bool { return r.Service == service }) {
			return true
		}
		for _, o := range n.Interfaces {
			if o.Service == service && slices.ContainsFunc(o.Subnets, func(t *Subnet) bool { return t.VPC == s.VPC }) {
				return true
			}
		}
	}
	return false
}

// toEndpoint returns the verdict that a service's endpoint is reached by each of the walks, which
// begin at the interfaces of each.
func (w *walker) toEndpoint(says, service string, each []*Interface, walks [][]Arrival) Verdict {
	v := Verdict{Assertion: says, Result: Holds}
	for k, arrivals := range walks {
		var found []Hop
		refused := ""
		for _, a := range arrivals {
			is := a.Place == AtService && a.Service == service || a.At != nil && a.At.Service == service
			packets := a.Packets().Intersect(toPorts(web.Ports))
			if !is || packets.Empty() {
				continue
			}
			if why := w.unanswered(&a); why != "" {
				refused = why
				continue
			}
			found = slices.Clone(a.Path)
			found[len(found)-1].Packets = packets
		}
		if found == nil {
			v.Result, v.Witness = Fails, nil
			v.Note = cmp.Or(refused, "no path leads there") + ", from " + each[k].Subnets[0].Name
			return v
		}
		v.Witness = witness(found)
	}
	return v
}

// outside stands for everybody on the internet, as a sender, and beyond for everybody in networks
// that are joined with one of the stack's: by a peering, a transit gateway or a VPN.
var (
	outside = &Interface{Name: string(AtInternet), Kind: Internet}
	beyond  = &Interface{Name: string(AtNetwork), Kind: Elsewhere}
)

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
		w.admit(to, t, others, hop)
	}
}

// join follows packets from another network to an interface. They come from where a route of the
// interface's subnet leads: without a route back, no connection is answered.
func (w *walker) join(to *Interface, others []*Interface) {
	for _, t := range to.Subnets {
		for _, r := range t.Table.Routes {
			if r.Via == ViaNetwork && !(r.Unsure && w.sure) {
				sent := packet.From(r.To).Minus(packet.From(t.VPC.Prefixes...))
				w.admit(to, t, others, Hop{
					From: beyond.Name, To: to.Name, at: to, Packets: sent.Intersect(packet.To(to.within(t)...)),
					steps: []step{func(packet.Packet) string { return "route " + r.Name }},
				})
			}
		}
	}
}

// admit asks the ACL of a subnet and the groups of an interface there about a hop from outside of
// the VPC.
func (w *walker) admit(to *Interface, t *Subnet, others []*Interface, hop Hop) {
	for _, ask := range []func() (packet.Set, step){
		func() (packet.Set, step) { return w.acl(t.ACL, false) },
		func() (packet.Set, step) { return w.groups(to, nil, false) },
	} {
		if hop.Packets.Empty() {
			return
		}
		allowed, by := ask()
		hop.Packets, hop.steps = hop.Packets.Intersect(allowed), append(hop.steps, by)
	}
	if !hop.Packets.Empty() {
		w.arrive(to, others, []Hop{hop})
	}
}

// listed returns what of the packets the groups of an interface let out to nothing but a service of
// the cloud.
func (w *walker) listed(i *Interface, sent packet.Set) packet.Set {
	var only, open packet.Set
	for _, g := range w.has(i) {
		if i.Unfiltered || w.opened(ControlGroup, g.Name, true) {
			return nil
		}
		for _, r := range g.Out {
			switch {
			case r.Unsure && w.sure:
			case r.Listed:
				only = only.Union(r.Packets)
			case r.Peer == nil:
				open = open.Union(r.Packets)
			}
		}
	}
	return sent.Intersect(only).Minus(open)
}
