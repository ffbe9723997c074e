package reach

import (
	"net/netip"
	"slices"

	"github.com/postern/postern/policies/packet"
)

// Place is where packets end.
type Place string

// The places that are not interfaces.
const (
	AtInternet    Place = "the internet"
	AtNetwork     Place = "another network"
	AtService     Place = "a service of the cloud"
	AtOver        Place = "a service of the cloud, over the internet" // past the policy of its endpoint
	AtResolver    Place = "the resolver"
	AtMetadata    Place = "the metadata service"
	AtCredentials Place = "credentials of the metadata service"
	AtTime        Place = "the time service"
	AtInterface   Place = "" // Arrival.At says which
)

// Arrival describes one path to a place, and the packets that get there.
type Arrival struct {
	Place Place
	At    *Interface
	// Strangers means that somebody's account can be used there.
	Strangers bool
	// Service is the service at AtService, or "" if that is not known.
	Service string
	// Answers is the firewall of AtResolver, or nil.
	Answers *Firewall
	// Path has the hops from the sender to the place. The packets of the last hop arrive.
	Path []Hop
}

// Packets returns what arrives.
func (a *Arrival) Packets() packet.Set { return a.Path[len(a.Path)-1].Packets }

// Hop is one way from an interface to the next thing that takes packets.
type Hop struct {
	From, To string
	Packets  packet.Set
	// at is the interface that takes the packets, or nil. Names are not unique.
	at    *Interface
	steps []step
	// back are the two subnets between which ACLs must let the answer pass, or nil. The second one
	// is nil if the packets leave the VPC.
	back []*Subnet
}

// step is something that let the packets of a hop pass, and finds the rule that did.
type step func(p packet.Packet) string

// walker walks a network in which some controls are removed.
type walker struct {
	removed func(Control) bool
	// sure leaves out what the plan does not say.
	sure bool
	all  []*Interface
	out  []Arrival
}

// addresses returns where a group's interfaces may be.
func (w *walker) addresses(g *Group) []netip.Prefix {
	var out []netip.Prefix
	for _, i := range w.all {
		if slices.Contains(i.Groups, g) {
			for _, s := range i.Subnets {
				out = append(out, i.within(s)...)
			}
		}
	}
	return out
}

func (w *walker) is(what, name string) bool { return w.removed(Control{what, name}) }

// has returns the groups of an interface: its own, or one that it was given by mistake.
func (w *walker) has(i *Interface) []*Group {
	if i == nil {
		return nil
	}
	for k, c := range i.swaps {
		if w.removed(c) {
			return i.others[k : k+1]
		}
	}
	return i.Groups
}

// opened reports whether one direction of a control is removed.
func (w *walker) opened(what, name string, out bool) bool {
	switch {
	case what == ControlGroup && out:
		return w.is(outgoing+ControlGroup, name)
	case what == ControlGroup:
		return w.is(incoming+ControlGroup, name)
	case out:
		return w.is(outgoing+ControlACL, name)
	}
	return w.is(incoming+ControlACL, name)
}

var (
	linkLocal = []netip.Prefix{
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32"),
		netip.MustParsePrefix("fe80::/10"),
	}
	toLinkLocal = packet.To(linkLocal...)
	everything  = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	timeAt      = netip.MustParsePrefix("169.254.169.123/32")
	resolverAt  = []netip.Prefix{
		netip.MustParsePrefix("169.254.169.253/32"), netip.MustParsePrefix("fd00:ec2::253/128"),
	}
)

// chosen are the ports that clients choose.
var chosen = packet.Span[uint16]{First: 1024, Last: 65535}

// from returns everything that the packets of an interface reach. others are the interfaces of the
// network.
func (w *walker) from(i *Interface, others []*Interface) []Arrival {
	w.out = nil
	for _, part := range w.parts(i, others) {
		part()
	}
	return w.out
}

// parts returns the walk of from in parts. Each adds what it finds to w.out, and depends on no
// other. So a control that a part does not ask about changes nothing in it.
func (w *walker) parts(i *Interface, others []*Interface) []func() {
	w.all = others
	if enter := map[Kind]func(*Interface, []*Interface){Internet: w.enter, Elsewhere: w.join}[i.Kind]; enter != nil {
		var out []func()
		for _, to := range others {
			out = append(out, func() { enter(to, others) })
		}
		return out
	}
	out := []func(){func() { w.linkLocal(i) }}
	w.ways(i, others, nil, nil, func(way func()) { out = append(out, way) })
	return out
}

// send walks from an interface. ports limits the destination's port: nil is all. before is the
// path so far.
func (w *walker) send(i *Interface, others []*Interface, ports []uint16, before []Hop) {
	w.ways(i, others, ports, before, func(way func()) { way() })
}

// ways calls visit with every way of send: to each other interface, and out of each subnet.
func (w *walker) ways(i *Interface, others []*Interface, ports []uint16, before []Hop, visit func(func())) {
	for _, s := range i.Subnets {
		sent := packet.From(i.within(s)...)
		if i.Forwards {
			sent = packet.All()
		}
		if ports != nil {
			sent = sent.Intersect(toPorts(ports))
		}
		for _, to := range others {
			if s.VPC != nil && !slices.ContainsFunc(to.Subnets, func(t *Subnet) bool { return t.VPC == s.VPC }) {
				continue
			}
			visit(func() { w.reach(i, s, to, others, sent, before) })
		}
		if ports == nil {
			visit(func() { w.leave(i, s, sent, before) })
		}
	}
}

// reach follows packets from a subnet of an interface to another interface in its VPC.
func (w *walker) reach(i *Interface, s *Subnet, to *Interface, others []*Interface, sent packet.Set, before []Hop) {
	if allowed, _ := w.groups(i, to, true); allowed.Empty() {
		return // of large networks, that is nearly always so
	}
	for _, t := range to.Subnets {
		if t.VPC != s.VPC {
			continue
		}
		if hop := w.local(i, s, to, t, sent); !hop.Packets.Empty() {
			w.arrive(to, others, append(slices.Clip(before), hop))
		}
	}
}

// arrive notes that packets reached an interface, and follows its listeners.
func (w *walker) arrive(at *Interface, others []*Interface, path []Hop) {
	w.out = append(w.out, Arrival{
		At: at, Path: path, Strangers: at.Kind == Service && (!at.Pinned || w.is(ControlPolicy, at.Name)),
	})
	if len(path) > 4 {
		// Listeners that lead to each other, or to what is too far away to follow.
		if len(at.Listeners) > 0 && !w.sure {
			last := Hop{From: at.Name, To: string(AtNetwork), Packets: path[len(path)-1].Packets}
			w.out = append(w.out, Arrival{Place: AtNetwork, Path: append(slices.Clip(path), named(last,
				"listeners that the model does not follow: the path is too long"))})
		}
		return
	}
	hop := path[len(path)-1]
	for _, l := range at.Listeners {
		in := hop.Packets.Intersect(packet.On(packet.Span[uint8]{First: packet.TCP, Last: packet.TCP},
			packet.Span[uint16]{First: l.Port, Last: l.Port}))
		if in.Empty() {
			continue
		}
		through := slices.Clone(path)
		through[len(path)-1].Packets = in
		if !l.Direct {
			ports := l.Ports
			if w.is(ControlListener, l.Name) {
				ports = everyPort
			}
			w.send(at, l.To, ports, append(through[:len(through)-1:len(through)-1], named(through[len(through)-1],
				"listener "+l.Name)))
			continue
		}
		for _, to := range l.To {
			passed, ask := in, step(func(packet.Packet) string { return "" })
			if l.Asked {
				var rules packet.Set
				rules, ask = w.groups(to, nil, false)
				passed = in.Intersect(rules)
			}
			if !passed.Empty() {
				w.arrive(to, others, append(through, Hop{
					From: at.Name, To: to.Name, at: to, Packets: passed, steps: []step{ask},
				}))
			}
		}
	}
}

var everyPort = []uint16{}

func toPorts(ports []uint16) packet.Set {
	tcp := packet.Span[uint8]{First: packet.TCP, Last: packet.TCP}
	if len(ports) == 0 {
		return packet.On(tcp, packet.AnyPort)
	}
	var out packet.Set
	for _, p := range ports {
		out = out.Union(packet.On(tcp, packet.Span[uint16]{First: p, Last: p}))
	}
	return out
}

func named(h Hop, what string) Hop {
	h.steps = append(slices.Clip(h.steps), func(packet.Packet) string { return what })
	return h
}

// local returns what of the sent packets gets from a subnet to an interface in the same VPC.
func (w *walker) local(i *Interface, s *Subnet, to *Interface, t *Subnet, sent packet.Set) Hop {
	hop := Hop{
		From: i.Name, To: to.Name, at: to,
		Packets: sent.Intersect(packet.To(to.within(t)...)).Minus(toLinkLocal),
	}
	// Once nothing is left, no other control is asked: see [prover.certify].
	pass := func(allowed packet.Set, by step) bool {
		hop.Packets = hop.Packets.Intersect(allowed)
		hop.steps = append(hop.steps, by)
		return !hop.Packets.Empty()
	}
	if !pass(w.groups(i, to, true)) {
		return hop
	}
	if s != t { // within a subnet nobody asks the ACL or the table
		hop.back = []*Subnet{s, t}
		if !pass(w.acl(s.ACL, true)) {
			return hop
		}
		for _, r := range s.Table.Routes {
			if len(s.VPC.Prefixes) > 0 && r.Via != ViaService && !(r.Unsure && !w.sure) {
				hop.Packets = hop.Packets.Minus(s.VPC.foreign(r.To))
			}
		}
		if !pass(w.acl(t.ACL, false)) {
			return hop
		}
	}
	pass(w.groups(to, i, false))
	return hop
}

// foreign returns the packets to a route's prefix for which the VPC itself has no route that is as
// long.
func (v *VPC) foreign(to netip.Prefix) packet.Set {
	packets := packet.To(to)
	for _, own := range v.Prefixes {
		if own.Bits() >= to.Bits() {
			packets = packets.Minus(packet.To(own))
		}
	}
	return packets
}

// leave follows the routes of a subnet that lead out of its VPC.
func (w *walker) leave(i *Interface, s *Subnet, sent packet.Set, before []Hop) {
	allowed, byGroup := w.groups(i, nil, true)
	for _, g := range w.has(i) { // a middlebox takes what is for a peer's address
		for _, r := range g.Out {
			if r.Peer != nil && !(r.Unsure && w.sure) {
				allowed = allowed.Union(r.Packets.Intersect(packet.To(w.addresses(r.Peer)...)))
			}
		}
	}
	sent = sent.Intersect(allowed).Minus(toLinkLocal)
	for _, own := range s.Prefixes {
		if own.Addr().Is4() { // within a subnet nobody asks the table; IPv6 prefixes may not be known
			sent = sent.Minus(packet.To(own))
		}
	}
	if sent.Empty() {
		return
	}
	allowed, byACL := w.acl(s.ACL, true)
	sent = sent.Intersect(allowed)
	if sent.Empty() {
		return
	}
	end := func(place Place, packets packet.Set, by, service string) {
		if packets.Empty() {
			return
		}
		hop := Hop{From: i.Name, To: string(place), Packets: packets, steps: []step{byGroup, byACL}}
		hop.back = []*Subnet{s, nil}
		path := append(slices.Clip(before), named(hop, by))
		w.out = append(w.out, Arrival{Place: place, Service: service, Path: path})
	}
	listed := w.listed(i, sent)
	if w.is(ControlTable, s.Table.Name) { // the worst route that somebody may add
		by, packets := "a route of "+s.Table.Name+" to anywhere", sent.Minus(packet.To(s.VPC.Prefixes...))
		end(AtInternet, packets.Minus(listed), by, "")
		end(AtOver, packets.Intersect(listed), by, "")
	}
	for _, r := range s.Table.Routes {
		if r.Unsure && w.sure {
			continue
		}
		packets := sent.Intersect(s.VPC.foreign(r.To))
		for _, longer := range s.Table.Routes {
			// What stands for prefixes that are not known may be longer than each other route.
			known := !r.Unsure && r.Via != ViaService
			if known && longer.To.Bits() > r.To.Bits() && !longer.Unsure && longer.Via != ViaService &&
				r.To.Overlaps(longer.To) {
				packets = packets.Minus(packet.To(longer.To))
			}
		}
		by := "route " + r.Name
		switch r.Via {
		case ViaInternet:
			if !i.Public && !w.is(ControlAddress, i.Name) { // IPv6 needs no translation
				packets = packets.Intersect(packet.To(everything[1]))
			}
			end(AtInternet, packets.Minus(listed), by, "")
			end(AtOver, packets.Intersect(listed), by, "")
		case ViaService:
			end(AtService, packets, by, r.Service)
		case ViaNAT:
			end(AtOver, packets.Intersect(listed), by, "")
			how := []step{byGroup, byACL, func(packet.Packet) string { return by }}
			w.translate(i, s, r, packets.Minus(listed), before, how)
		default:
			end(AtNetwork, packets, by, "")
		}
	}
}

// translate follows packets through a NAT gateway, which sends them on with its own address.
func (w *walker) translate(i *Interface, of *Subnet, r *Route, packets packet.Set, before []Hop, steps []step) {
	if r.NAT == nil || slices.ContainsFunc(before, func(h Hop) bool { return h.at == r.NAT }) {
		return
	}
	for _, s := range r.NAT.Subnets {
		in := packets
		by := step(func(packet.Packet) string { return "" })
		var back []*Subnet
		if !slices.Contains(i.Subnets, s) {
			back = []*Subnet{of, s}
			var allowed packet.Set
			allowed, by = w.acl(s.ACL, false)
			in = packets.Intersect(allowed)
		}
		if in.Empty() {
			continue
		}
		hop := Hop{From: i.Name, To: r.NAT.Name, at: r.NAT, Packets: in, steps: append(slices.Clip(steps), by)}
		hop.back = back
		path, sent := append(slices.Clip(before), hop), in.Sent(r.NAT.within(s)...)
		for _, to := range w.all {
			for _, t := range to.Subnets {
				if t.VPC != s.VPC || to == r.NAT {
					continue
				}
				if hop := w.local(r.NAT, s, to, t, sent); !hop.Packets.Empty() {
					w.arrive(to, w.all, append(slices.Clip(path), hop))
				}
			}
		}
		w.leave(r.NAT, s, sent, path)
	}
}

// linkLocal notes what answers next to the interface. No rule is asked.
func (w *walker) linkLocal(i *Interface) {
	end := func(place Place, answers *Firewall, to packet.Set) {
		hop := Hop{From: i.Name, To: string(place), Packets: to}
		for _, s := range i.Subnets { // with its own address, if it has one of that version of IP
			if own := to.Intersect(packet.From(i.within(s)...)); !own.Empty() {
				hop.Packets = own
				break
			}
		}
		w.out = append(w.out, Arrival{Place: place, Answers: answers, Path: []Hop{hop}})
	}
	port := func(protocol uint8, port uint16) packet.Set {
		return packet.On(packet.Span[uint8]{First: protocol, Last: protocol}, packet.Span[uint16]{
			First: port,
			Last:  port,
		})
	}
	seen := map[*VPC]bool{}
	for _, s := range i.Subnets {
		if seen[s.VPC] || !s.VPC.Resolver && !w.is(ControlResolver, s.VPC.Name) {
			continue
		}
		seen[s.VPC] = true
		at := slices.Clone(resolverAt)
		for _, p := range s.VPC.Prefixes {
			second := p.Masked().Addr().Next().Next()
			at = append(at, netip.PrefixFrom(second, second.BitLen()))
		}
		answers := s.VPC.Firewall
		if w.is(ControlFirewall, s.VPC.Name) {
			answers = nil
		}
		end(AtResolver, answers, packet.To(at...).Intersect(port(packet.UDP, 53).Union(port(packet.TCP, 53))))
	}
	end(AtTime, nil, packet.To(timeAt).Intersect(port(packet.UDP, 123)))
	m := i.Metadata
	if m == nil || m.Off && !w.is(ControlMetadata, i.Name) {
		return
	}
	place := AtMetadata
	if m.Role || w.is(ControlRole, i.Name) {
		place = AtCredentials
	}
	end(place, nil, packet.To(netip.PrefixFrom(m.Address, m.Address.BitLen())).Intersect(port(packet.TCP, 80)))
}

// groups returns what the groups of an interface let out to a peer, or in from it, and who did it.
// peer is nil for what is not an interface.
func (w *walker) groups(i, peer *Interface, out bool) (packet.Set, step) {
	if i.Unfiltered {
		return packet.All(), func(packet.Packet) string { return "" }
	}
	var allowed packet.Set
	var rules []*GroupRule
	has := w.has(peer)
	for _, g := range w.has(i) {
		if w.opened(ControlGroup, g.Name, out) {
			return packet.All(), func(packet.Packet) string { return "security group " + g.Name + ", which was opened" }
		}
		all := g.In
		if out {
			all = g.Out
		}
		allowed = allowed.Union(g.to(out, w.sure, all, nil))
		for _, peer := range has {
			allowed = allowed.Union(g.to(out, w.sure, all, peer))
		}
		rules = append(rules, all...)
	}
	sure := w.sure
	return allowed, func(p packet.Packet) string {
		for _, r := range rules {
			asked := !(r.Unsure && sure) && (r.Peer == nil || slices.Contains(has, r.Peer))
			if asked && r.Packets.Has(p) {
				return "rule " + r.Name
			}
		}
		return ""
	}
}

// index numbers what is computed once: for a direction, and for what is sure.
func index(out, sure bool) int {
	i := 0
	if out {
		i = 1
	}
	if sure {
		i += 2
	}
	return i
}

// to returns what the rules about a peer allow, or, for nil, those about everybody. Each set is
// computed once.
func (g *Group) to(out, sure bool, all []*GroupRule, peer *Group) packet.Set {
	k := asked{index(out, sure), peer}
	set, ok := g.known[k]
	if !ok {
		for _, r := range all {
			if r.Peer == peer && !(r.Unsure && sure) {
				set = set.Union(r.Packets)
			}
		}
		if g.known == nil {
			g.known = map[asked]packet.Set{}
		}
		g.known[k] = set
	}
	return set
}

// acl returns what an ACL lets out or in, and the rule that does it.
func (w *walker) acl(a *ACL, out bool) (packet.Set, step) {
	if w.opened(ControlACL, a.Name, out) {
		return packet.All(), func(packet.Packet) string { return "network ACL " + a.Name + ", which was opened" }
	}
	rules := a.In
	if out {
		rules = a.Out
	}
	return a.to(out, w.sure, rules), func(p packet.Packet) string {
		for _, r := range rules {
			if r.Packets.Has(p) {
				return "rule " + r.Name
			}
		}
		return ""
	}
}

// to returns what the rules allow. Each set is computed once.
func (a *ACL) to(out, sure bool, rules []*ACLRule) packet.Set {
	k := index(out, sure)
	if a.known[k] == nil {
		allowed, denied := packet.Set{}, packet.Set{}
		for _, r := range rules {
			switch {
			case r.Unsure && r.Allow == sure:
			case r.Allow:
				allowed = allowed.Union(r.Packets.Minus(denied))
			default:
				denied = denied.Union(r.Packets)
			}
		}
		a.known[k] = allowed
	}
	return a.known[k]
}

// within returns the addresses of the interface in a subnet.
func (i *Interface) within(s *Subnet) []netip.Prefix {
	if len(i.Addresses) == 0 {
		return s.Prefixes
	}
	var out []netip.Prefix
	for _, p := range s.Prefixes {
		of := slices.DeleteFunc(slices.Clone(i.Addresses), func(a netip.Prefix) bool { return !p.Contains(a.Addr()) })
		if len(of) == 0 { // what it has there is not said
			of = []netip.Prefix{p}
		}
		out = append(out, of...)
	}
	return out
}
