package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/policies/packet"
)

// The brute-force walker follows single packets by the rules as AWS documents them. Of the engine
// it uses nothing: no sets, no walker, no order of evaluation. It reads plain rules, from which the
// test also makes the engine's network.

type plainRule struct {
	allow    bool
	remote   netip.Prefix
	peer     int // -1 for none
	protocol int // -1 for all
	from, to uint16
}

type plainGroup struct{ in, out []plainRule }

type plainRoute struct {
	to  netip.Prefix
	via Via
}

type plainSubnet struct {
	prefix  netip.Prefix
	in, out []plainRule
	routes  []plainRoute
}

type plainNode struct {
	subnet int
	addr   netip.Addr
	groups []int
	public bool
}

type plainNetwork struct {
	groups  []plainGroup
	subnets []plainSubnet
	nodes   []plainNode // the last one is the NAT gateway
}

var vpcPrefix = netip.MustParsePrefix("10.0.0.0/16")

func (r *plainRule) takes(n *plainNetwork, remote netip.Addr, node int, protocol uint8, port uint16) bool {
	if r.protocol != -1 && (int(protocol) != r.protocol || protocol != 1 && (port < r.from || port > r.to)) {
		return false
	}
	if r.peer >= 0 {
		return node >= 0 && slices.Contains(n.nodes[node].groups, r.peer)
	}
	return r.remote.Contains(remote)
}

func (n *plainNetwork) group(node int, out bool, remote netip.Addr, other int, protocol uint8, port uint16) bool {
	for _, g := range n.nodes[node].groups {
		rules := n.groups[g].in
		if out {
			rules = n.groups[g].out
		}
		for i := range rules {
			if rules[i].takes(n, remote, other, protocol, port) {
				return true
			}
		}
	}
	return false
}

func (n *plainNetwork) acl(rules []plainRule, remote netip.Addr, protocol uint8, port uint16) bool {
	for i := range rules {
		if rules[i].takes(n, remote, -1, protocol, port) {
			return rules[i].allow
		}
	}
	return false
}

// ends says where one packet from a node ends: "node 1", "internet", "elsewhere", or "" if nowhere.
func (n *plainNetwork) ends(from int, p packet.Packet) string {
	source := n.nodes[from]
	nat := len(n.nodes) - 1
	other := slices.IndexFunc(n.nodes, func(x plainNode) bool { return x.addr == p.Destination })
	if from == nat && other == nat {
		return "" // nothing is there
	}
	if from != nat && !n.group(from, true, p.Destination, other, p.Protocol, p.Port) {
		return ""
	}
	s := n.subnets[source.subnet]
	if s.prefix.Contains(p.Destination) {
		if other < 0 || other != nat && !n.group(other, false, p.Source, from, p.Protocol, p.Port) {
			return ""
		}
		return fmt.Sprintf("node %d", other)
	}
	if !n.acl(s.out, p.Destination, p.Protocol, p.Port) {
		return ""
	}
	best := plainRoute{to: vpcPrefix, via: "local"}
	if !vpcPrefix.Contains(p.Destination) {
		best.to, best.via = netip.Prefix{}, ""
	}
	for _, r := range s.routes {
		if r.to.Contains(p.Destination) && (best.via == "" || r.to.Bits() > best.to.Bits()) {
			best = r
		}
	}
	switch best.via {
	case "local":
		if other < 0 {
			return ""
		}
		to := n.subnets[n.nodes[other].subnet]
		if !n.acl(to.in, p.Source, p.Protocol, p.Port) || other != nat && !n.group(other, false, p.Source, from,
			p.Protocol, p.Port) {
			return ""
		}
		return fmt.Sprintf("node %d", other)
	case ViaInternet:
		if source.public {
			return "internet"
		}
	case ViaNetwork:
		return "elsewhere"
	case ViaNAT:
		if from == nat {
			return ""
		}
		if source.subnet != n.nodes[nat].subnet && !n.acl(n.subnets[n.nodes[nat].subnet].in, p.Source, p.Protocol,
			p.Port) {
			return ""
		}
		p.Source = n.nodes[nat].addr
		return n.ends(nat, p)
	}
	return ""
}

// engine makes the network that the engine walks.
func (n *plainNetwork) engine() []*Interface {
	vpc := &VPC{Name: "vpc", Prefixes: []netip.Prefix{vpcPrefix}}
	groups := make([]*Group, len(n.groups))
	for i := range groups {
		groups[i] = &Group{Name: fmt.Sprint("group ", i)}
	}
	set := func(r plainRule, out bool) packet.Set {
		on := packet.All()
		if r.protocol != -1 {
			span := packet.Span[uint8]{First: uint8(r.protocol), Last: uint8(r.protocol)}
			ports := packet.Span[uint16]{First: r.from, Last: r.to}
			if r.protocol == 1 {
				ports = packet.AnyPort
			}
			on = packet.On(span, ports)
		}
		switch {
		case r.peer >= 0:
			return on
		case out:
			return on.Intersect(packet.To(r.remote))
		}
		return on.Intersect(packet.From(r.remote))
	}
	rules := func(plain []plainRule, out bool) (rules []*GroupRule) {
		for _, r := range plain {
			rule := &GroupRule{Packets: set(r, out)}
			if r.peer >= 0 {
				rule.Peer = groups[r.peer]
			}
			rules = append(rules, rule)
		}
		return rules
	}
	for i, g := range n.groups {
		groups[i].In, groups[i].Out = rules(g.in, false), rules(g.out, true)
	}
	entries := func(plain []plainRule, out bool) (rules []*ACLRule) {
		for _, r := range plain {
			rules = append(rules, &ACLRule{Allow: r.allow, Packets: set(r, out)})
		}
		return rules
	}
	var nodes []*Interface
	subnets := make([]*Subnet, len(n.subnets))
	for i, s := range n.subnets {
		subnets[i] = &Subnet{
			Name: fmt.Sprint("subnet ", i), VPC: vpc, Prefixes: []netip.Prefix{s.prefix},
			Table: &Table{Name: fmt.Sprint("table ", i)}, ACL: &ACL{Name: fmt.Sprint("acl ", i), In: entries(s.in,
				false), Out: entries(s.out, true)},
		}
	}
	for i, x := range n.nodes {
		node := &Interface{
			Name: fmt.Sprint("node ",
				i), Subnets: []*Subnet{subnets[x.subnet]}, Addresses: []netip.Prefix{netip.PrefixFrom(x.addr, 32)},
			Public: x.public, Unfiltered: i == len(n.nodes)-1,
		}
		for _, g := range x.groups {
			node.Groups = append(node.Groups, groups[g])
		}
		nodes = append(nodes, node)
	}
	for i, s := range n.subnets {
		for _, r := range s.routes {
			subnets[i].Table.Routes = append(subnets[i].Table.Routes, &Route{
				To: r.to, Via: r.via,
				NAT: nodes[len(nodes)-1],
			})
		}
	}
	return nodes
}

var (
	somePorts   = []uint16{0, 53, 443, 1024, 65535}
	someRemotes = []string{
		"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/16", "10.0.0.0/24", "10.0.1.0/24",
		"10.0.1.5/32", "8.8.8.8/32",
	}
	someOutside  = []string{"8.8.8.8", "203.0.113.1", "10.1.0.1", "192.168.0.1"}
	someRoutes   = []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.1.0.0/16", "10.0.1.0/24", "8.8.8.8/32"}
	someProtocol = []int{-1, 1, 6, 17}
)

func drawRules(t *rapid.T, label string, groups int) (rules []plainRule) {
	for range rapid.IntRange(0, 3).Draw(t, label) {
		from := rapid.SampledFrom(somePorts).Draw(t, "from")
		to := rapid.SampledFrom([]uint16{from, 65535}).Draw(t, "to")
		rules = append(rules, plainRule{
			allow: rapid.Bool().Draw(t,
				"allow"), remote: netip.MustParsePrefix(rapid.SampledFrom(someRemotes).Draw(t, "remote")),
			peer: rapid.IntRange(-1, groups-1).Draw(t, "peer"), protocol: rapid.SampledFrom(someProtocol).Draw(t,
				"protocol"), from: from, to: to,
		})
	}
	return rules
}

func drawNetwork(t *rapid.T) *plainNetwork {
	n := &plainNetwork{}
	for range 2 {
		n.groups = append(n.groups, plainGroup{drawRules(t, "in", 2), drawRules(t, "out", 2)})
	}
	for i := range 2 {
		s := plainSubnet{
			prefix: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i)), in: drawRules(t, "acl in",
				0), out: drawRules(t, "acl out", 0),
		}
		for _, to := range rapid.SliceOfNDistinct(rapid.SampledFrom(someRoutes), 0, 3, rapid.ID).Draw(t, "routes") {
			s.routes = append(s.routes, plainRoute{netip.MustParsePrefix(to), rapid.SampledFrom([]Via{
				ViaInternet,
				ViaNAT, ViaNetwork,
			}).Draw(t, "via")})
		}
		n.subnets = append(n.subnets, s)
	}
	for i := range 4 {
		subnet := rapid.IntRange(0, 1).Draw(t, "subnet")
		x := plainNode{
			subnet: subnet, addr: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", subnet, 5+i)),
			public: i == 3 || rapid.Bool().Draw(t, "public"),
		}
		if i < 3 {
			x.groups = rapid.SliceOfNDistinct(rapid.IntRange(0, 1), 1, 2, rapid.ID).Draw(t, "groups")
		}
		n.nodes = append(n.nodes, x)
	}
	return n
}

// TestTheEngineAgreesWithAWalker: for every packet of a small universe, the engine and the walker
// say that it ends at the same place. Where the engine assumes the worst on purpose (a group's peer
// outside of the VPC's local route) the networks have none.
func TestTheEngineAgreesWithAWalker(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := drawNetwork(t)
		nodes := n.engine()
		from := rapid.IntRange(0, 2).Draw(t, "sender")
		w := &walker{removed: closed}
		arrivals := w.from(nodes[from], nodes)
		var destinations []netip.Addr
		for _, x := range n.nodes {
			destinations = append(destinations, x.addr)
		}
		for _, a := range someOutside {
			destinations = append(destinations, netip.MustParseAddr(a))
		}
		for _, to := range destinations {
			if to == n.nodes[from].addr {
				continue // it never leaves the machine
			}
			for _, protocol := range []uint8{1, 6, 17} {
				for _, port := range somePorts {
					p := packet.Packet{Source: n.nodes[from].addr, Destination: to, Protocol: protocol, Port: port}
					want, got := n.ends(from, p), ""
					for i := range arrivals {
						sent := p
						if len(arrivals[i].Path) > 1 { // a NAT gateway put in its own address
							if !arrivals[i].Path[0].Packets.Has(p) {
								continue
							}
							sent.Source = n.nodes[len(n.nodes)-1].addr
						}
						if !arrivals[i].Packets().Has(sent) {
							continue
						}
						switch a := arrivals[i]; a.Place {
						case AtInterface:
							got = a.At.Name
						case AtInternet:
							got = "internet"
						case AtNetwork:
							got = "elsewhere"
						}
					}
					require.Equal(t, want, got, "node %d sends %v", from, p)
				}
			}
		}
	})
}

// TestAMistakeIsWalkedAsAWhole: a proof walks again only what asks about a control. It finds the
// same mistakes as a walk of everything, with the same witness.
func TestAMistakeIsWalkedAsAWhole(t *testing.T) {
	t.Parallel()
	found := false
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNetwork(t).engine()
		kinds := []Kind{Agent, Proxy, ControlPlane, Gate, Service, Stranger}
		for k, i := range nodes[:len(nodes)-1] {
			i.Kind = rapid.SampledFrom(kinds).Draw(t, "kind")
			if k == 0 {
				i.Kind = Agent
			}
			i.Agent = i.Name
			if i.Kind == Gate {
				i.Listeners = []*Listener{{
					Name: i.Name, Port: 443, To: nodes[k+1 : k+2], Ports: []uint16{53},
					Direct: rapid.Bool().Draw(t, "direct"),
				}}
			}
		}
		nodes[len(nodes)-1].Kind = NAT
		nodes[0].Subnets[0].VPC.Gateway = rapid.Bool().Draw(t, "gateway")
		n := &Network{Interfaces: nodes}
		p := Prove("stack", n, true)
		whole := &prover{n: n, controls: n.Controls(), nevers: n.assertions(), about: map[*Interface][]int{}}
		holds := map[string]bool{}
		for _, v := range p.Verdicts {
			holds[v.Assertion] = v.Result == Holds
		}
		for k, a := range whole.nevers {
			whole.about[a.from] = append(whole.about[a.from], k)
		}
		var want []Mistake
		for _, i := range append(slices.Clone(nodes), outside, beyond) {
			if whole.about[i] == nil {
				continue
			}
			for _, c := range whole.controls {
				whole.check(i, false, func(x Control) bool { return x == c }, func(k int, how []Hop) {
					if says := whole.nevers[k].says; holds[says] {
						want = append(want, Mistake{c, says, witness(how)})
					}
				})
			}
		}
		require.Equal(t, want, p.Mistakes)
		found = found || len(want) > 0
	})
	require.True(t, found, "no network had a mistake to make")
}
