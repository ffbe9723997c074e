package aws

import (
	"fmt"
	"net/netip"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan/cloud"
)

// Network ACLs are the second layer: they hold where a security group was
// changed or forgotten. They know addresses and no state, so that answers, which
// go to ports that clients choose, need rules too. What no rule allows is denied.

// acl is a network ACL. A rule's name and number say what it is for, so that a rule that comes or
// goes changes no other one.
type acl struct {
	s    *scope
	name string
	acl  *ec2.NetworkAcl
}

// The numbers of rules. Rules for zones have the letter's place added, and those for resolvers
// the place in the list. What no agent may reach is refused before anything elsewhere is allowed.
const (
	ruleTier     = 100 // the tier at the other end, or the network itself
	rulePlatform = 200
	ruleProxies  = 300
	ruleApart    = 1000
	ruleAnywhere = 2000
	ruleResolver = 3000
	rulesForTCP  = 500
	rulePort     = 4000 // with the port added, of which there are more than numbers
	rulePorts    = 28001
)

// ephemeral are the ports that clients choose.
const (
	firstEphemeral = 1024
	lastPort       = 65535
)

func newACL(s *scope, n *network, name string, v pulumi.StringInput, tiers ...cloud.Tier) *acl {
	a := &acl{s: s, name: name, acl: add(s, ec2.NewNetworkAcl, name, &ec2.NetworkAclArgs{VpcId: v, Tags: s.tags(name)})}
	for _, tier := range tiers {
		for i, subnet := range n.subnets[tier] {
			add(s, ec2.NewNetworkAclAssociation, zonal(name+"-"+string(tier), s.args.AWS.Zones[i]), &ec2.NetworkAclAssociationArgs{
				NetworkAclId: a.acl.ID(), SubnetId: subnet,
			})
		}
	}
	return a
}

// end is what a rule is about: what it is for, its number, and the addresses at the other end.
type end struct {
	name   string
	number int
	there  netip.Prefix
}

// in returns the end for the subnet of a tier in the zone with that index.
func (a *acl) in(tier cloud.Tier, number, zone int) end {
	set := a.s.args.AWS
	return end{zonal(tier, set.Zones[zone]), number + set.Place(zone), set.Subnet(tier, zone)}
}

// tcp allows TCP to ports from to, of there (egress) or of here (ingress).
func (a *acl) tcp(egress bool, e end, from, to int) { a.rule(egress, "allow", "tcp", e, from, to) }

func (a *acl) rule(egress bool, action, protocol string, e end, from, to int) {
	direction := map[bool]string{true: "out", false: "in"}[egress]
	add(a.s, ec2.NewNetworkAclRule, fmt.Sprintf("%s-%s-%s", a.name, direction, e.name), &ec2.NetworkAclRuleArgs{
		NetworkAclId: a.acl.ID(), Egress: pulumi.Bool(egress), RuleNumber: pulumi.Int(e.number),
		RuleAction: pulumi.String(action),
		Protocol:   pulumi.String(protocol), CidrBlock: pulumi.String(e.there.String()),
		FromPort: pulumi.Int(from), ToPort: pulumi.Int(to),
	}, // A rule cannot be changed, and its number is taken while it is there.
		pulumi.DeleteBeforeReplace(true))
}

// reach lets the subnets of a connect to ports of there, and be answered.
func (a *acl) reach(there end, from, to int) {
	a.tcp(true, there, from, to)
	a.tcp(false, there, firstEphemeral, lastPort)
}

// serve lets there connect to ports of the subnets of a, and be answered.
func (a *acl) serve(there end, from, to int) {
	a.tcp(false, there, from, to)
	a.tcp(true, there, firstEphemeral, lastPort)
}

func newACLs(n *network, s *scope) {
	set := s.args.AWS
	if s.args.Existing == nil {
		agentsACLs(n, s)
	}
	egress := newACL(s, n, "egress", n.egress, cloud.TierPublic, cloud.TierProxies, cloud.TierControl, cloud.TierServices)
	inside := end{"inside", ruleTier - 1, set.EgressCIDR}
	egress.tcp(true, inside, 0, lastPort)
	egress.tcp(false, inside, 0, lastPort)
	if set.Mode == cloud.ModeShared {
		// Everything but the load balancers stays apart from the agents' half, by
		// the order of the rules.
		for i := range set.Zones {
			egress.serve(egress.in(cloud.TierGate, ruleTier, i), cloud.FirstPort, cloud.LastPort)
		}
		for _, out := range []bool{true, false} {
			egress.rule(out, "deny", "-1", end{"apart", ruleApart, set.AgentsCIDR}, 0, 0)
		}
	}
	out := end{"anywhere", ruleAnywhere, netip.MustParsePrefix(anywhere)}
	egress.tcp(false, out, firstEphemeral, lastPort)
	taken := map[int]bool{}
	for _, port := range cloud.Ports(s.args.Plan) {
		out.name, out.number = fmt.Sprintf("anywhere-%d", port), rulePort+int(port)%rulePorts
		for taken[out.number] {
			out.number++
		}
		taken[out.number] = true
		egress.tcp(true, out, int(port), int(port))
	}
	egress.resolvers()
}

// agentsACLs declares the ACLs of the agents' and of the gate subnets.
func agentsACLs(n *network, s *scope) {
	set := s.args.AWS
	agents := newACL(s, n, "agents", n.agents, cloud.TierAgents)
	gate := newACL(s, n, "gate", n.agents, cloud.TierGate)
	for i := range set.Zones {
		agents.reach(agents.in(cloud.TierGate, ruleTier, i), cloud.FirstPort, cloud.LastPort)
		gate.serve(gate.in(cloud.TierAgents, ruleTier, i), cloud.FirstPort, cloud.LastPort)
		if set.FargateAgents() {
			to, from := agents.in(cloud.TierGate, rulePlatform, i), gate.in(cloud.TierAgents, rulePlatform, i)
			to.name, from.name = "platform-"+to.name, "platform-"+from.name
			agents.tcp(true, to, https, https)
			gate.tcp(false, from, https, https)
		}
		if set.Mode == cloud.ModeShared { // the load balancer itself is there; it also checks whether proxies are ready
			gate.reach(gate.in(cloud.TierProxies, ruleProxies, i), cloud.FirstPort, cloud.LastPort)
		}
	}
}

// resolvers lets the proxies ask the resolvers of the policy. On the way to and from the NAT
// gateway, a packet also passes the border between two subnets of this ACL.
func (a *acl) resolvers() {
	inside, ports := end{there: a.s.args.AWS.EgressCIDR}, map[int]bool{}
	for i, r := range cloud.Resolvers(a.s.args.Plan) {
		there, port := end{fmt.Sprintf("resolver-%d", i+1), ruleResolver + 2*i, netip.PrefixFrom(r.Addr(), r.Addr().BitLen())}, int(r.Port())
		a.rule(true, "allow", "udp", there, port, port)
		long := end{there.name + "-tcp", there.number + rulesForTCP, there.there} // for answers that are too long
		a.tcp(true, long, port, port)
		a.rule(false, "allow", "udp", there, firstEphemeral, lastPort)
		inside.number = there.number + 1
		if inside.name = fmt.Sprintf("asks-%d", i+1); !ports[port] {
			a.rule(false, "allow", "udp", inside, port, port)
		}
		if inside.name = "answers"; i == 0 {
			a.rule(true, "allow", "udp", inside, firstEphemeral, lastPort)
		}
		ports[port] = true
	}
}
