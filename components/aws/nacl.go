package aws

import (
	"fmt"
	"net/netip"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// Network ACLs are the second layer: they hold where a security group was
// changed or forgotten. They know addresses and no state, so that answers, which
// go to ports that clients choose, need rules too. What no rule allows is denied.

// acl is a network ACL whose rules are numbered as they come.
type acl struct {
	s       *scope
	name    string
	acl     *ec2.NetworkAcl
	numbers map[bool]int
}

// ephemeral are the ports that clients choose.
const (
	firstEphemeral = 1024
	lastPort       = 65535
)

func newACL(s *scope, n *network, name string, v *ec2.Vpc, tiers ...cloud.Tier) *acl {
	a := &acl{s: s, name: name, numbers: map[bool]int{}}
	a.acl = add(s, ec2.NewNetworkAcl, name, &ec2.NetworkAclArgs{VpcId: v.ID(), Tags: s.tags(name)})
	for _, tier := range tiers {
		for i, subnet := range n.subnets[tier] {
			n.routed = append(n.routed, add(s, ec2.NewNetworkAclAssociation, zonal(name+"-"+string(tier), s.args.AWS.Zones[i]), &ec2.NetworkAclAssociationArgs{
				NetworkAclId: a.acl.ID(), SubnetId: subnet.ID(),
			}))
		}
	}
	return a
}

// tcp allows TCP to ports from to, of there (egress) or of here (ingress).
func (a *acl) tcp(egress bool, there netip.Prefix, from, to int) {
	a.rule(egress, "allow", "tcp", there.String(), from, to)
}

func (a *acl) rule(egress bool, action, protocol, there string, from, to int) {
	a.numbers[egress]++
	direction := map[bool]string{true: "out", false: "in"}[egress]
	number := a.numbers[egress]
	add(a.s, ec2.NewNetworkAclRule, fmt.Sprintf("%s-%s-%d", a.name, direction, number), &ec2.NetworkAclRuleArgs{
		NetworkAclId: a.acl.ID(), Egress: pulumi.Bool(egress), RuleNumber: pulumi.Int(100 * number), RuleAction: pulumi.String(action),
		Protocol: pulumi.String(protocol), CidrBlock: pulumi.String(there), FromPort: pulumi.Int(from), ToPort: pulumi.Int(to),
	})
}

// reach lets the subnets of a connect to ports of there, and be answered.
func (a *acl) reach(there netip.Prefix, from, to int) {
	a.tcp(true, there, from, to)
	a.tcp(false, there, firstEphemeral, lastPort)
}

// serve lets there connect to ports of the subnets of a, and be answered.
func (a *acl) serve(there netip.Prefix, from, to int) {
	a.tcp(false, there, from, to)
	a.tcp(true, there, firstEphemeral, lastPort)
}

func newACLs(n *network, s *scope) {
	set := s.args.AWS
	agents := newACL(s, n, "agents", n.agents, cloud.TierAgents)
	gate := newACL(s, n, "gate", n.agents, cloud.TierGate)
	for i := range set.Zones {
		agents.reach(set.Subnet(cloud.TierGate, i), cloud.FirstPort, cloud.LastPort)
		gate.serve(set.Subnet(cloud.TierAgents, i), cloud.FirstPort, cloud.LastPort)
		if set.FargateAgents() {
			agents.tcp(true, set.Subnet(cloud.TierGate, i), https, https)
			gate.tcp(false, set.Subnet(cloud.TierAgents, i), https, https)
		}
		if set.Mode == cloud.ModeShared { // the load balancer itself is there
			gate.reach(set.Subnet(cloud.TierProxies, i), cloud.FirstPort, cloud.LastPort)
			gate.tcp(true, set.Subnet(cloud.TierProxies, i), document.ReadyPort, document.ReadyPort)
		}
	}
	egress := newACL(s, n, "egress", n.egress, cloud.TierPublic, cloud.TierProxies, cloud.TierControl, cloud.TierServices)
	inside := set.EgressCIDR
	egress.tcp(true, inside, 0, lastPort)
	egress.tcp(false, inside, 0, lastPort)
	if set.Mode == cloud.ModeShared {
		// Everything but the load balancers stays apart from the agents' half, by
		// the order of the rules.
		for i := range set.Zones {
			egress.serve(set.Subnet(cloud.TierGate, i), cloud.FirstPort, cloud.LastPort)
			egress.tcp(false, set.Subnet(cloud.TierGate, i), document.ReadyPort, document.ReadyPort)
		}
		egress.deny(set.AgentsCIDR)
	}
	out := netip.MustParsePrefix(anywhere)
	egress.tcp(true, out, 0, lastPort)
	egress.tcp(false, out, firstEphemeral, lastPort)
	for _, r := range s.args.resolvers() {
		egress.rule(true, "allow", "udp", single(r.Addr()), int(r.Port()), int(r.Port()))
		egress.rule(false, "allow", "udp", single(r.Addr()), firstEphemeral, lastPort)
	}
}

// deny refuses everything from and to there that no earlier rule allows.
func (a *acl) deny(there netip.Prefix) {
	for _, egress := range []bool{true, false} {
		a.rule(egress, "deny", "-1", there.String(), 0, 0)
	}
}
