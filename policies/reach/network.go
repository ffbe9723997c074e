// Package reach proves what can reach what in a planned network, before anything is created: for
// each assertion a witness (the path and the packet) or a certificate (the controls that cut every
// path), also after any one control is removed. It knows no cloud: package reach/aws reads a plan
// into a Network.
//
// The proof errs towards what is reachable. Where the model cannot tell, it assumes the worst, and
// an assertion that fails for that reason only is indeterminate.
package reach

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/policies/packet"
)

// Network is everything that a plan would create and that carries or refuses packets.
type Network struct {
	Interfaces []*Interface
	// Unknown lists parts of the plan that the model does not know. If there is one, nothing is
	// proved.
	Unknown []Unknown
	// Doors are what strangers could reach, without a packet through one of the networks.
	Doors []*Door
	// Out is what the policy needs of the internet, or nil if that is not known.
	Out *Out
}

// Door is a service that others may connect to.
type Door struct {
	Name string
	// Internet means that it has a public address. Otherwise it is for other accounts.
	Internet bool
	// Open says why strangers may connect, or "".
	Open string
	// Unsure says why strangers may perhaps connect, or "".
	Unsure string
}

// Doubts notes why strangers may perhaps connect.
func (d *Door) Doubts(why string) {
	if d.Unsure == "" {
		d.Unsure = why
	}
}

// agents returns the names of the agents, sorted.
func (n *Network) agents() []string {
	out := []string{}
	for _, i := range n.Interfaces {
		if i.Kind == Agent {
			out = append(out, i.Agent)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Unknown is one thing that the model does not know.
type Unknown struct {
	Resource string `json:"resource"`
	Type     string `json:"type"`
	Why      string `json:"why"`
}

// Kind says to whom an interface belongs.
type Kind string

// The kinds of interfaces.
const (
	Agent        Kind = "agent"
	Proxy        Kind = "proxy"
	ControlPlane Kind = "control plane"
	Gate         Kind = "gate"    // a load balancer or endpoint that leads to the proxies
	Service      Kind = "service" // an endpoint that leads to the cloud's own API
	NAT          Kind = "NAT gateway"
	Stranger     Kind = "stranger"  // whatever else has an address
	Internet     Kind = "internet"  // everybody outside
	Elsewhere    Kind = "elsewhere" // everybody in networks that are joined with one of the stack's
)

// Interface sends and receives packets. It stands for all machines of one workload.
type Interface struct {
	Name string
	Kind Kind
	// Agent is the agent's name if the kind is Agent.
	Agent   string
	Subnets []*Subnet
	Groups  []*Group
	// Addresses are the interface's own. If empty, it may have any of its subnets.
	Addresses []netip.Prefix
	// Unfiltered means that no group is asked.
	Unfiltered bool
	// Public means that the internet can answer the interface.
	Public bool
	// Forwards means that the interface may send packets with somebody else's source.
	Forwards bool
	// Listeners say where connections continue that arrive here.
	Listeners []*Listener
	// Admin are ports that are not for agents.
	Admin []uint16
	// Pinned means, for a Service, that the service's policy refuses strangers' accounts.
	Pinned bool
	// Service is the name of the service, for a Service.
	Service string
	// Metadata is where the workload asks for its settings, or nil if nothing answers it.
	Metadata *Metadata

	// others are the groups that an agent could be given by mistake, and swaps the controls that
	// say that it is not: see [Network.others].
	others []*Group
	swaps  []Control
}

// Listener takes connections to Port of an interface to a port of others.
type Listener struct {
	Name  string
	Port  uint16
	To    []*Interface
	Ports []uint16
	// Direct means that no rule is asked on the way but the groups of To for incoming packets, and
	// those only if Asked is set.
	Direct, Asked bool
}

// Metadata is the link-local service of a workload. No group, ACL or route is asked on the way.
type Metadata struct {
	Address netip.Addr
	// Off means that the service does not answer.
	Off bool
	// Role means that the service hands out credentials.
	Role bool
}

// VPC is a network with a route between all its subnets.
type VPC struct {
	Name     string
	Prefixes []netip.Prefix
	// Gateway means that the internet reaches the network's public addresses, and IPv6 ones.
	Gateway bool
	// Resolver means that the cloud's resolver answers in the network.
	Resolver bool
	// Firewall says which names the resolver answers, or nil for all.
	Firewall *Firewall
}

// Firewall says which names a resolver answers. With the zero value it answers all.
type Firewall struct {
	Name string
	// Closed means that only Names are answered, also if the firewall itself fails.
	Closed bool
	Names  []string
	// Aliases means that a name's owner decides where the name leads.
	Aliases bool
}

func (f *Firewall) closed() bool { return f != nil && f.Closed }

func wildcard(name string) bool { return strings.HasPrefix(name, "*") }

// chosen reports whether somebody outside decides what the resolver asks, or answers.
func (f *Firewall) chosen() bool {
	return f != nil && (f.Aliases || slices.ContainsFunc(f.Names, wildcard))
}

// Subnet is a part of a VPC.
type Subnet struct {
	Name     string
	VPC      *VPC
	Prefixes []netip.Prefix
	Table    *Table
	ACL      *ACL
}

// Table is a routing table: the longest prefix decides. Routes to the VPC itself are not in it.
type Table struct {
	Name   string
	Routes []*Route
}

// Via is where a route leads.
type Via string

// The ways of routes.
const (
	ViaInternet Via = "internet" // for interfaces with a public address
	ViaNAT      Via = "NAT"
	ViaService  Via = "service"   // addresses of the cloud that the plan does not name
	ViaNetwork  Via = "elsewhere" // another network, or a machine, of which the plan says no more
)

// Route is one route.
type Route struct {
	Name string
	To   netip.Prefix
	Via  Via
	NAT  *Interface
	// Service is where ViaService leads, or "" if that is not known.
	Service string
	// Unsure means that the plan does not say all of it.
	Unsure bool
}

// ACL has the rules of a subnet: the first match decides, and nothing is remembered.
type ACL struct {
	Name    string
	In, Out []*ACLRule
	known   [4]packet.Set
}

// ACLRule is one rule. Packets say about whom it is: the source of In, the destination of Out.
type ACLRule struct {
	Name    string
	Allow   bool
	Packets packet.Set
	Unsure  bool
}

// Group has the rules of an interface: any match allows.
type Group struct {
	Name    string
	In, Out []*GroupRule
	known   map[asked]packet.Set
}

// asked says which rules of a group are asked: see [index].
type asked struct {
	index int
	peer  *Group
}

// GroupRule allows packets. If Peer is set, it allows them only from (In) or to (Out) interfaces
// with that group.
type GroupRule struct {
	Name    string
	Peer    *Group
	Packets packet.Set
	Unsure  bool
	// Listed means that the cloud keeps the list of the addresses: those of one of its services.
	Listed bool
}

// Control is one thing that refuses packets, which one mistake would remove.
type Control struct {
	What string `json:"what"`
	Name string `json:"name"`
}

// String returns the control as people read it.
func (c Control) String() string { return strings.TrimSpace(c.What + " " + c.Name) }

// What controls are. A group and an ACL are two: a rule that is too wide is of one direction.
const (
	outgoing        = "outgoing rules of "
	incoming        = "incoming rules of "
	ControlGroup    = "security group"
	ControlACL      = "network ACL"
	ControlTable    = "route table"
	ControlAddress  = "no public address of"
	ControlGateway  = "no internet gateway in"
	ControlResolver = "no resolver in"
	ControlFirewall = "DNS firewall of"
	ControlMetadata = "no metadata service for"
	ControlRole     = "no role of"
	ControlListener = "target of listener"
	ControlPolicy   = "policy of endpoint"
	// controlOwn is followed by the name of a group, and controlOf. Without it, somebody has given
	// the interface that group in place of its own.
	controlOwn = "own group, not "
	controlOf  = ", of"
)

// swaps reports whether the mistake is one group in place of another.
func (c Control) swaps() bool { return strings.HasPrefix(c.What, controlOwn) }

// Controls returns every control of the network, each once, in a fixed order.
func (n *Network) Controls() []Control {
	var out []Control
	seen := map[Control]bool{}
	add := func(what, name string) {
		if c := (Control{what, name}); !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	for _, i := range n.Interfaces {
		for _, g := range i.Groups {
			add(outgoing+ControlGroup, g.Name)
			add(incoming+ControlGroup, g.Name)
		}
		for _, s := range i.Subnets {
			add(outgoing+ControlACL, s.ACL.Name)
			add(incoming+ControlACL, s.ACL.Name)
			add(ControlTable, s.Table.Name)
			if !s.VPC.Gateway {
				add(ControlGateway, s.VPC.Name)
			}
			if !s.VPC.Resolver {
				add(ControlResolver, s.VPC.Name)
			}
			if f := s.VPC.Firewall; f != nil {
				add(ControlFirewall, s.VPC.Name)
			}
		}
		if !i.Public {
			add(ControlAddress, i.Name)
		}
		if m := i.Metadata; m != nil {
			if m.Off {
				add(ControlMetadata, i.Name)
			}
			if !m.Role {
				add(ControlRole, i.Name)
			}
		}
		for _, l := range i.Listeners {
			if !l.Direct {
				add(ControlListener, l.Name)
			}
		}
		if i.Pinned {
			add(ControlPolicy, i.Name)
		}
	}
	for _, i := range n.Interfaces {
		for _, c := range i.swaps {
			add(c.What, c.Name)
		}
	}
	return out
}

// others returns the groups that an agent could be given by mistake: those of other interfaces in
// its VPC.
func (n *Network) others(i *Interface) (out []*Group) {
	if i.Kind != Agent || len(n.Interfaces) > mostSwapped {
		return nil
	}
	for _, o := range n.Interfaces {
		near := slices.ContainsFunc(o.Subnets, func(s *Subnet) bool {
			return slices.ContainsFunc(i.Subnets, func(t *Subnet) bool { return s.VPC == t.VPC })
		})
		for _, g := range o.Groups {
			if near && !slices.Contains(i.Groups, g) && !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
	}
	return out
}

// Isolated reports whether agents and proxies have networks of their own. Then one mistake must not
// be enough for a way out: that is what the second network is for.
func (n *Network) Isolated() bool {
	vpcs := map[Kind]map[*VPC]bool{Agent: {}, Proxy: {}}
	for _, i := range n.Interfaces {
		for _, s := range i.Subnets {
			if of := vpcs[i.Kind]; of != nil {
				of[s.VPC] = true
			}
		}
	}
	for v := range vpcs[Agent] {
		if vpcs[Proxy][v] {
			return false
		}
	}
	return len(vpcs[Agent]) > 0 && len(vpcs[Proxy]) > 0
}
