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

func prefixes(text ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range text {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func onTCP(port uint16) packet.Set { return toPorts([]uint16{port}) }

// small is a network in which two agents reach the proxies by a gate, and all is as it has to be.
type small struct {
	*Network
	vpc                                                 *VPC
	coder, tester, gate, proxy, control, nat            *Interface
	agents, open, way                                   *Subnet
	ofCoder, ofTester, ofGate, ofProxy, ofControl, free *Group
}

func (s *small) place(kind Kind, name string, subnet *Subnet, group *Group) *Interface {
	i := &Interface{Name: name, Kind: kind, Subnets: []*Subnet{subnet}, Groups: []*Group{group}}
	if kind == Agent {
		i.Agent, i.Metadata = name, &Metadata{Address: netip.MustParseAddr("169.254.169.254")}
	}
	s.Interfaces = append(s.Interfaces, i)
	return i
}

func allow(name string, packets packet.Set, peer *Group) *GroupRule {
	return &GroupRule{Name: name, Packets: packets, Peer: peer}
}

func newSmall() *small {
	s := &small{Network: &Network{}, vpc: &VPC{Name: "vpc", Prefixes: prefixes("10.0.0.0/16")}}
	subnet := func(name, prefix string) *Subnet {
		pass := func() []*ACLRule { return []*ACLRule{{Name: name + "-all", Allow: true, Packets: packet.All()}} }
		return &Subnet{
			Name: name, VPC: s.vpc, Prefixes: prefixes(prefix), Table: &Table{Name: name + "-table"},
			ACL: &ACL{Name: name + "-acl", In: pass(), Out: pass()},
		}
	}
	s.agents, s.open = subnet("agents", "10.0.0.0/24"), subnet("open", "10.0.1.0/24")
	s.way = subnet("way", "10.0.2.0/24")
	for name, g := range map[string]**Group{
		"of-coder": &s.ofCoder, "of-tester": &s.ofTester, "of-gate": &s.ofGate, "of-proxy": &s.ofProxy,
		"of-control": &s.ofControl, "free": &s.free,
	} {
		*g = &Group{Name: name}
	}
	s.coder = s.place(Agent, "coder", s.agents, s.ofCoder)
	s.tester = s.place(Agent, "tester", s.agents, s.ofTester)
	s.gate = s.place(Gate, "gate", s.open, s.ofGate)
	s.proxy = s.place(Proxy, "proxy", s.open, s.ofProxy)
	s.control = s.place(ControlPlane, "control", s.open, s.ofControl)
	s.nat = s.place(NAT, "nat", s.way, s.free)
	s.nat.Groups, s.nat.Unfiltered, s.nat.Public = nil, true, true
	s.proxy.Admin = []uint16{8081}
	for port, of := range map[uint16]*Group{10001: s.ofCoder, 10002: s.ofTester} {
		of.Out = []*GroupRule{allow(of.Name+"-out", onTCP(port), s.ofGate)}
		s.ofGate.In = append(s.ofGate.In, allow(fmt.Sprint("gate-in-", port), onTCP(port), of))
	}
	s.ofGate.Out = []*GroupRule{allow("gate-out", onTCP(3001).Union(onTCP(3002)), s.ofProxy)}
	s.ofProxy.In = []*GroupRule{allow("proxy-in", onTCP(3001).Union(onTCP(3002)), s.ofGate)}
	s.gate.Listeners = []*Listener{
		{Name: "for-coder", Port: 10001, To: []*Interface{s.proxy}, Ports: []uint16{3001}},
		{Name: "for-tester", Port: 10002, To: []*Interface{s.proxy}, Ports: []uint16{3002}},
	}
	s.vpc.Gateway = true
	s.ofProxy.Out = []*GroupRule{allow("proxy-out", toPublic.Intersect(onTCP(443)), nil)}
	s.open.Table.Routes = []*Route{{Name: "to-nat", To: netip.MustParsePrefix("0.0.0.0/0"), Via: ViaNAT, NAT: s.nat}}
	s.way.Table.Routes = []*Route{{Name: "out", To: netip.MustParsePrefix("0.0.0.0/0"), Via: ViaInternet}}
	s.Out = &Out{Ports: []uint16{443}}
	return s
}

// everywhere lets the coder out, as far as its group and no other control is concerned.
func (s *small) everywhere(to ...string) {
	s.ofCoder.Out = append(s.ofCoder.Out, allow("mistake", packet.To(prefixes(to...)...), nil))
}

// lead adds a route to the agents' table.
func (s *small) lead(to string, via Via) *Route {
	r := &Route{Name: "mistake-route", To: netip.MustParsePrefix(to), Via: via}
	if via == ViaNAT {
		r.NAT = s.nat
	}
	s.agents.Table.Routes = append(s.agents.Table.Routes, r)
	return r
}

// machine adds an interface that takes everything.
func (s *small) machine(kind Kind, name string) *Interface {
	i := s.place(kind, name, s.open, s.free)
	s.free.In = []*GroupRule{allow("free-in", packet.All(), nil)}
	return i
}

// of lists the verdicts that do not hold, "assertion: result".
func of(p *Proof) []string {
	out := []string{}
	for _, v := range p.Verdicts {
		if v.Result != Holds {
			out = append(out, fmt.Sprintf("%s: %s", v.Assertion, v.Result))
		}
	}
	slices.Sort(out)
	return out
}

const (
	internet    = "coder -> the internet or another network: never: fails"
	ofIPv6      = "coder -> an IPv6 address: never: fails"
	pastGate    = "coder -> the proxies past their gate: never: fails"
	asksDNS     = "coder -> DNS: never: fails"
	credentials = "coder -> credentials of the metadata service: never: fails"
	anAgent     = "coder -> an agent: never: fails"
	theControl  = "coder -> the control plane: never: fails"
	anAdmin     = "coder -> an admin port of the proxies: never: fails"
	another     = "coder -> another agent's port at the proxies: never: fails"
	ofTheCloud  = "coder -> the cloud's API: only by policies that refuse strangers: fails"
	elsewhere   = "coder -> anything else: never: fails"
)

// TestMistakes: what each mistake breaks, and how the proof shows it.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *small)
		breaks []string
		shows  []string
	}{
		"none": {func(*small) {}, nil, []string{
			"holds         coder -> the internet or another network: never\n", "holds         coder -> DNS: never\n",
			"holds         coder -> the proxies: must\n", "holds         tester -> the proxies: must\n",
			"holds         proxy -> another network: never\n", "holds         control -> an agent or a proxy: never\n",
		}},
		"a NAT gateway": {
			func(s *small) {
				s.everywhere("0.0.0.0/0")
				s.lead("0.0.0.0/0", ViaNAT)
				s.way.Table.Routes = []*Route{{Name: "out", To: netip.MustParsePrefix("0.0.0.0/0"), Via: ViaInternet}}
			},
			[]string{internet, elsewhere},
			[]string{
				"coder -> nat: tcp 10.0.0.0 -> ", "rule mistake\n", "rule agents-all\n", "route mistake-route\n",
				"rule way-all\n", "nat -> the internet: tcp 10.0.2.0 -> ", "route out\n",
			},
		},
		"a NAT gateway that leads nowhere": {
			func(s *small) {
				s.everywhere("8.8.8.8/32")
				s.lead("0.0.0.0/0", ViaNAT)
				s.way.Table.Routes = nil
			}, []string{"proxy -> the internet, tcp/443: must: fails"}, nil,
		},
		"a NAT gateway behind an ACL": {
			func(s *small) {
				s.everywhere("8.8.8.8/32")
				s.lead("0.0.0.0/0", ViaNAT)
				s.way.Table.Routes = []*Route{{Name: "out", To: netip.MustParsePrefix("0.0.0.0/0"), Via: ViaInternet}}
				s.way.ACL.In = append([]*ACLRule{{Name: "no", Packets: packet.From(prefixes("10.0.0.0/24")...)}},
					s.way.ACL.In...)
			}, nil, nil,
		},
		"an internet gateway without a public address": {
			func(s *small) { s.everywhere("8.8.8.8/32"); s.lead("0.0.0.0/0", ViaInternet) }, nil, nil,
		},
		"an internet gateway": {
			func(s *small) { s.everywhere("8.8.8.8/32"); s.lead("0.0.0.0/0", ViaInternet); s.coder.Public = true },
			[]string{internet},
			[]string{"coder -> the internet: tcp 10.0.0.0 -> 8.8.8.8:0\n", "route mistake-route\n"},
		},
		"IPv6 needs no public address": {
			func(s *small) {
				s.agents.Prefixes = append(s.agents.Prefixes, prefixes("2001:db8::/64")...)
				s.everywhere("2001:db8:1::1/128")
				s.lead("::/0", ViaInternet)
			},
			[]string{internet, ofIPv6},
			[]string{"coder -> the internet: tcp 2001:db8:: -> [2001:db8:1::1]:0\n"},
		},
		"a peering": {
			func(s *small) { s.everywhere("10.9.0.0/16"); s.lead("10.9.0.0/16", ViaNetwork) },
			[]string{internet},
			[]string{"coder -> another network: tcp 10.0.0.0 -> 10.9.0.0:0\n"},
		},
		"a peering behind an ACL": {
			func(s *small) {
				s.everywhere("10.9.0.0/16")
				s.lead("10.9.0.0/16", ViaNetwork)
				s.agents.ACL.Out = append([]*ACLRule{{Name: "no", Packets: packet.To(prefixes("10.9.0.0/16")...)}},
					s.agents.ACL.Out...)
			}, nil, nil,
		},
		"a route that nobody may take": {func(s *small) { s.lead("0.0.0.0/0", ViaNetwork) }, nil, nil},
		"a shorter route": {
			func(s *small) {
				s.everywhere("10.9.0.0/16")
				s.lead("10.9.0.0/16", ViaInternet)
				s.lead("10.0.0.0/8", ViaNetwork)
			}, nil, nil,
		},
		"a shorter route next to one that is not known": {
			func(s *small) {
				s.everywhere("10.9.0.0/16")
				s.lead("10.9.0.0/16", ViaInternet).Unsure = true
				s.lead("10.0.0.0/8", ViaNetwork)
			}, []string{internet}, nil,
		},
		"a route that is not known": {
			func(s *small) { s.everywhere("10.9.0.0/16"); s.lead("10.9.0.0/16", ViaNetwork).Unsure = true },
			[]string{"coder -> the internet or another network: never: indeterminate"},
			nil,
		},
		"a rule that is not known": {
			func(s *small) {
				s.everywhere("10.9.0.0/16")
				s.ofCoder.Out[1].Unsure = true
				s.lead("10.9.0.0/16", ViaNetwork)
			}, []string{"coder -> the internet or another network: never: indeterminate"}, nil,
		},
		"a denial that is not known": {
			func(s *small) {
				s.everywhere("10.9.0.0/16")
				s.lead("10.9.0.0/16", ViaNetwork)
				s.agents.ACL.Out = append([]*ACLRule{{Name: "no", Packets: packet.All(), Unsure: true}},
					s.agents.ACL.Out...)
			},
			[]string{
				"coder -> the internet or another network: never: indeterminate",
				"coder -> the proxies: must: fails", "tester -> the proxies: must: fails",
			},
			nil,
		},
		"a service": {
			func(s *small) { s.everywhere("10.9.0.0/16"); s.lead("0.0.0.0/0", ViaService) },
			[]string{ofTheCloud},
			[]string{"coder -> a service of the cloud: tcp 10.0.0.0 -> 10.9.0.0:0\n"},
		},
		"a resolver": {
			func(s *small) { s.vpc.Resolver = true },
			[]string{asksDNS, "tester -> DNS: never: fails"},
			[]string{"coder -> the resolver: udp 10.0.0.0 -> 169.254.169.253:53\n"},
		},
		"a resolver with a firewall": {
			func(s *small) {
				s.vpc.Resolver = true
				s.vpc.Firewall = &Firewall{Name: "fw", Closed: true, Names: []string{"*.a.test."}, Aliases: true}
			}, nil,
			[]string{
				"coder -> DNS: only listed names\n", "the resolver answers 1 names (*.a.test.); their owners say " +
					"where they lead; who serves a wildcard sees what is asked below it\n",
			},
		},
		"a resolver with another firewall": {
			func(s *small) {
				s.vpc.Resolver = true
				s.vpc.Firewall = &Firewall{Name: "fw", Closed: true, Names: []string{"a.test."}}
			}, nil, []string{"the resolver answers 1 names (a.test.)\n"},
		},
		"a resolver with a firewall that is open": {
			func(s *small) {
				s.vpc.Resolver = true
				s.vpc.Firewall = &Firewall{Name: "fw", Names: []string{"a.test."}}
			},
			[]string{asksDNS, "tester -> DNS: never: fails"},
			[]string{"fails         coder -> DNS: never\n"},
		},
		"a role": {
			func(s *small) { s.coder.Metadata.Role = true },
			[]string{credentials},
			[]string{"coder -> credentials of the metadata service: tcp 10.0.0.0 -> 169.254.169.254:80\n"},
		},
		"a role of whom nobody asks": {
			func(s *small) { s.coder.Metadata.Role, s.coder.Metadata.Off = true, true }, nil, nil,
		},
		"an agent": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.ofTester.In = []*GroupRule{allow("tester-in", packet.All(), s.ofCoder)}
			},
			[]string{anAgent},
			[]string{"coder -> tester: tcp 10.0.0.0 -> 10.0.0.0:0\n", "rule mistake\n", "rule tester-in\n"},
		},
		"the control plane": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.ofControl.In = []*GroupRule{allow("control-in", onTCP(443), nil)}
			}, []string{theControl}, []string{"coder -> control: tcp 10.0.0.0 -> 10.0.1.0:443\n"},
		},
		"an admin port": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.ofProxy.In = append(s.ofProxy.In, allow("admin-in", onTCP(8081).Union(onTCP(9)), s.ofCoder))
			}, []string{anAdmin, pastGate}, []string{"coder -> proxy: tcp 10.0.0.0 -> 10.0.1.0:8081\n"},
		},
		"another port of the proxies": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.ofProxy.In = append(s.ofProxy.In, allow("other-in", onTCP(9), s.ofCoder))
			}, []string{pastGate}, nil,
		},
		"another agent's listener": {
			func(s *small) {
				s.ofCoder.Out = append(s.ofCoder.Out, allow("mistake", onTCP(10002), s.ofGate))
				s.ofGate.In = append(s.ofGate.In, allow("gate-mistake", onTCP(10002), s.ofCoder))
			},
			[]string{another, "tester -> another agent's port at the proxies: never: fails"},
			[]string{"listener for-tester\n", "gate -> proxy: tcp 10.0.1.0 -> 10.0.1.0:3002\n"},
		},
		"a listener for both": {
			func(s *small) { s.gate.Listeners[0].Ports = []uint16{3002} },
			[]string{another, "tester -> another agent's port at the proxies: never: fails"},
			nil,
		},
		"an endpoint without a policy": {
			func(s *small) { s.everywhere("10.0.0.0/23"); s.machine(Service, "logs") },
			[]string{ofTheCloud},
			[]string{"coder -> logs: tcp 10.0.0.0 -> 10.0.1.0:0\n", "rule free-in\n"},
		},
		"an endpoint with a policy": {
			func(s *small) { s.everywhere("10.0.0.0/23"); s.machine(Service, "logs").Pinned = true }, nil, nil,
		},
		"somebody": {
			func(s *small) { s.everywhere("10.0.0.0/23"); s.machine(Stranger, "box") },
			[]string{elsewhere},
			[]string{"coder -> box: tcp 10.0.0.0 -> 10.0.1.0:0\n"},
		},
		"somebody behind a direct listener": {
			func(s *small) {
				box := s.machine(Stranger, "box")
				s.gate.Listeners = append(s.gate.Listeners, &Listener{
					Name: "direct", Port: 10001, To: []*Interface{box}, Direct: true,
				})
			},
			[]string{elsewhere},
			[]string{"gate -> box: tcp 10.0.0.0 -> 10.0.1.0:10001\n"},
		},
		"somebody behind a direct listener who asks": {
			func(s *small) {
				box := s.machine(Stranger, "box")
				s.free.In = nil
				s.gate.Listeners = append(s.gate.Listeners, &Listener{
					Name: "direct", Port: 10001, To: []*Interface{box}, Direct: true, Asked: true,
				})
			}, nil, nil,
		},
		"an agent that forwards": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.coder.Forwards = true
				s.ofTester.In = []*GroupRule{allow("tester-in", packet.From(prefixes("192.0.2.0/24")...), nil)}
			}, []string{anAgent}, []string{"coder -> tester: tcp 192.0.2.0 -> 10.0.0.0:0\n"},
		},
		"an agent that does not": {
			func(s *small) {
				s.everywhere("10.0.0.0/23")
				s.ofTester.In = []*GroupRule{allow("tester-in", packet.From(prefixes("192.0.2.0/24")...), nil)}
			}, nil, nil,
		},
		"a proxy's network": {
			func(s *small) {
				s.ofProxy.Out = []*GroupRule{allow("proxy-out", packet.All(), nil)}
				peer := &Route{Name: "peer", To: netip.MustParsePrefix("10.9.0.0/16"), Via: ViaNetwork}
				s.open.Table.Routes = []*Route{peer}
			}, []string{
				"proxy -> another network: never: fails", "proxy -> the internet, tcp/443: must: fails",
			}, []string{"route peer\n"},
		},
		"a proxy and an agent": {
			func(s *small) {
				s.ofProxy.Out = []*GroupRule{allow("proxy-out", packet.All(), nil)}
				s.ofCoder.In = []*GroupRule{allow("coder-in", packet.All(), s.ofProxy)}
			}, []string{"proxy -> an agent: never: fails", "proxy -> the internet: only tcp/443: fails"}, nil,
		},
		"a proxy and somebody": {
			func(s *small) {
				s.ofProxy.Out = []*GroupRule{allow("proxy-out", packet.All(), nil)}
				s.machine(Stranger, "box")
			}, []string{
				"proxy -> private addresses: only the control plane and services: fails",
				"proxy -> the internet: only tcp/443: fails",
			}, nil,
		},
		"a control plane and an agent": {
			func(s *small) {
				s.ofControl.Out = []*GroupRule{allow("control-out", packet.All(), nil)}
				s.ofCoder.In = []*GroupRule{allow("coder-in", packet.All(), s.ofControl)}
			}, []string{
				"control -> an agent or a proxy: never: fails", "control -> the internet: only tcp/443: fails",
			}, nil,
		},
		"a control plane that a list of a service lets out": {
			func(s *small) {
				rule := allow("list", toPublic, nil)
				rule.Listed = true
				s.ofControl.Out = []*GroupRule{rule}
			}, []string{"control -> the internet: only tcp/443: fails"}, []string{
				"control -> a service of the cloud, over the internet: ", "route to-nat\n",
			},
		},
		"an agent that a list of a service lets out": {
			func(s *small) {
				s.everywhere("8.8.8.8/32")
				s.ofCoder.Out[1].Listed = true
				s.lead("0.0.0.0/0", ViaNAT)
			}, []string{internet}, []string{"coder -> a service of the cloud, over the internet: "},
		},
		"a joined network, and no rule": {
			func(s *small) {
				peer := &Route{Name: "peer", To: netip.MustParsePrefix("10.9.0.0/16"), Via: ViaNetwork}
				s.open.Table.Routes = append(s.open.Table.Routes, peer)
			}, nil, nil,
		},
		"a rule, and no joined network": {
			func(s *small) {
				s.ofControl.In = append(s.ofControl.In, allow("in", packet.From(prefixes("10.9.0.0/16")...), nil))
			}, nil, nil,
		},
		"a joined network that is not known": {
			func(s *small) {
				peer := &Route{Name: "peer", To: netip.MustParsePrefix("10.9.0.0/16"), Via: ViaNetwork, Unsure: true}
				s.open.Table.Routes = append(s.open.Table.Routes, peer)
				s.ofControl.In = append(s.ofControl.In, allow("in", packet.From(prefixes("10.9.0.0/16")...), nil))
			},
			[]string{"another network -> the control plane: never: indeterminate"},
			[]string{"route peer\n", "rule in\n"},
		},
		"no answer": {
			func(s *small) { s.open.ACL.Out = nil },
			[]string{
				"coder -> the proxies: must: fails", "proxy -> the internet, tcp/443: must: fails",
				"tester -> the proxies: must: fails",
			},
			[]string{"network ACL open-acl drops the answer tcp 10.0.1.0 -> 10.0.0.0:1024\n"},
		},
		"no answer comes back": {
			func(s *small) { s.agents.ACL.In = nil },
			[]string{"coder -> the proxies: must: fails", "tester -> the proxies: must: fails"},
			[]string{"network ACL agents-acl drops the answer tcp 10.0.1.0 -> 10.0.0.0:1024\n"},
		},
		"no way": {
			func(s *small) { s.ofCoder.Out = nil },
			[]string{"coder -> the proxies: must: fails"},
			[]string{"no path leads there\n"},
		},
		"something unknown": {
			func(s *small) { s.Unknown = []Unknown{{"x", "a type", "who knows"}} }, nil,
			[]string{"unknown       x (a type): who knows\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSmall()
			c.change(s)
			p := Prove("prod", s.Network, false)
			var text strings.Builder
			require.NoError(t, p.Print(&text))
			want := append([]string{}, c.breaks...)
			slices.Sort(want)
			require.Equal(t, want, of(p), text.String())
			require.Equal(t, len(c.breaks) == 0 && len(s.Unknown) == 0, p.Holds())
			for _, line := range c.shows {
				require.Contains(t, text.String(), line)
			}
			refused := (&OpenError{p}).Error()
			for _, b := range c.breaks {
				require.Contains(t, refused, "  "+b+"\n")
			}
		})
	}
}

// TestCertificate: what keeps each assertion, and what a single mistake would open.
func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newSmall()
	s.Interfaces = slices.DeleteFunc(s.Interfaces, func(i *Interface) bool { return i == s.tester })
	s.everywhere("10.9.0.0/16")
	var text strings.Builder
	require.NoError(t, Prove("prod", s.Network, true).Print(&text))
	require.Equal(t, `
what can reach what
  holds         coder -> the internet or another network: never
                cut by each of: route table agents-table
  holds         coder -> an IPv6 address: never
                nothing in the plan leads there, whatever is opened
  holds         coder -> DNS: never
                cut by each of: no resolver in vpc
  holds         coder -> credentials of the metadata service: never
                cut by each of: no role of coder
  holds         coder -> an agent: never
                cut by each of: outgoing rules of security group of-coder, incoming rules of security group of-coder
  holds         coder -> the control plane: never
                cut by each of: outgoing rules of security group of-coder, incoming rules of security group of-control
  holds         coder -> an admin port of the proxies: never
                cut by each of: incoming rules of security group of-proxy
  holds         coder -> another agent's port at the proxies: never
                nothing in the plan leads there, whatever is opened
  holds         coder -> the proxies past their gate: never
                cut by each of: outgoing rules of security group of-coder, incoming rules of security group of-proxy
  holds         coder -> the cloud's API: only by policies that refuse strangers
                nothing in the plan leads there, whatever is opened
  holds         coder -> anything else: never
                cut by each of: outgoing rules of security group of-coder
  holds         proxy -> an agent: never
                cut by each of: incoming rules of security group of-coder, outgoing rules of security group of-proxy
  holds         proxy -> another network: never
                nothing in the plan leads there, whatever is opened
  holds         proxy -> private addresses: only the control plane and services
                cut by each of: outgoing rules of security group of-proxy
  holds         proxy -> the internet: only tcp/443
                cut by each of: outgoing rules of security group of-proxy
  holds         control -> an agent or a proxy: never
                cut by each of: outgoing rules of security group of-control
  holds         control -> another network: never
                nothing in the plan leads there, whatever is opened
  holds         control -> the internet: only tcp/443
                cut by each of: outgoing rules of security group of-control
  holds         the internet -> anything: never
                cut by these together: no public address of coder, no public address of gate, `+
		`no public address of proxy, no public address of control
  holds         another network -> the control plane: never
                nothing in the plan leads there, whatever is opened
  holds         another network -> an endpoint of the cloud's API: never
                nothing in the plan leads there, whatever is opened
  holds         another network -> the gate: never
                nothing in the plan leads there, whatever is opened
  holds         another network -> a proxy: never
                nothing in the plan leads there, whatever is opened
  holds         coder -> the proxies: must
  holds         proxy -> the internet, tcp/443: must
  one mistake   without "outgoing rules of security group of-coder", this fails: coder -> anything else: never
  one mistake   without "route table agents-table", this fails: `+
		`coder -> the internet or another network: never
  one mistake   without "no resolver in vpc", this fails: coder -> DNS: never
  one mistake   without "no role of coder", this fails: coder -> credentials of the metadata service: never
  one mistake   without "own group, not of-gate, of coder", this fails: coder -> the proxies past their gate: never
  one mistake   without "outgoing rules of security group of-proxy", this fails: proxy -> the internet: only tcp/443
  one mistake   without "outgoing rules of security group of-control", this fails: `+
		`control -> the internet: only tcp/443
`, text.String())
}

// TestAPathThatIsTooLong: what is behind many listeners is not followed, and so not proved.
func TestAPathThatIsTooLong(t *testing.T) {
	t.Parallel()
	for gates, want := range map[int]Result{2: Holds, 6: Indeterminate} {
		everywhere := []*ACLRule{{Allow: true, Packets: packet.All()}}
		v := &VPC{Name: "v", Prefixes: []netip.Prefix{vpcPrefix}}
		acl := &ACL{In: everywhere, Out: everywhere}
		s := &Subnet{Name: "s", VPC: v, Prefixes: v.Prefixes, Table: &Table{}, ACL: acl}
		first := &Group{Name: "first"}
		first.In = []*GroupRule{{Packets: packet.All()}}
		own := &Group{Name: "own", Out: []*GroupRule{{Peer: first, Packets: packet.All()}}}
		n := &Network{Interfaces: []*Interface{
			{Name: "a", Agent: "a", Kind: Agent, Subnets: []*Subnet{s}, Groups: []*Group{own}},
		}}
		for k := range gates {
			gate := &Interface{Name: "g", Kind: Gate, Subnets: []*Subnet{s}, Groups: []*Group{first}}
			if k > 0 {
				gate.Groups = []*Group{{}}
				before := n.Interfaces[k]
				before.Listeners = []*Listener{{Port: 443, Direct: true, To: []*Interface{gate}}}
			}
			n.Interfaces = append(n.Interfaces, gate)
		}
		for _, verdict := range Prove("prod", n, false).Verdicts {
			if strings.HasSuffix(verdict.Assertion, "the internet or another network: never") {
				require.Equal(t, want, verdict.Result, gates)
			}
		}
	}
}
