package aws

import (
	"fmt"
	"net/netip"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/vpc"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// fence holds the security groups, which determine who may connect to whom.
type fence struct {
	s      *scope
	agents map[string]*ec2.SecurityGroup
	// gate is the group of the endpoint that leads to the proxies. In the shared mode it is the
	// group of the load balancer itself.
	gate                               *ec2.SecurityGroup
	balancer, proxies, control, access *ec2.SecurityGroup
	// platform is the group of the endpoints that Fargate needs in the agents' network, or nil.
	platform *ec2.SecurityGroup
}

// newFence declares the groups and their rules, each a resource of its own.
func newFence(parent *scope, n *network) *fence {
	s := parent.component("Fence", "fence")
	set := s.args.AWS
	f := &fence{s: s, agents: map[string]*ec2.SecurityGroup{}}
	f.gate = f.group("gate", n.agents, "The way to the proxies")
	if f.balancer = f.gate; set.Mode == cloud.ModeIsolated {
		f.balancer = f.group("balancer", n.egress, "The load balancer of the proxies")
	}
	f.proxies = f.group("proxies", n.egress, "The proxies")
	f.control = f.group("control", n.egress, "The control plane")
	f.access = f.group("services", n.egress, "The endpoints of AWS services")
	if set.FargateAgents() {
		f.platform = f.group("platform", n.agents, "The endpoints that Fargate needs to start agents")
	}
	for _, a := range set.Agents {
		f.agent(n, a)
	}
	f.pass("balancer-ready", f.balancer, f.proxies, document.ReadyPort, "Whether a proxy serves")
	f.pass("xds", f.proxies, f.control, document.XDSPort, "Configuration over mutual TLS")
	f.pass("proxies-services", f.proxies, f.access, https, "Images, log and join token")
	f.pass("control-services", f.control, f.access, https, "Secrets, keys, images and log")
	for _, port := range cloud.Ports(s.args.Plan) {
		f.out(fmt.Sprintf("proxies-out-%d", port), f.proxies, int(port), "The destinations of the policy on this port")
	}
	for i, r := range cloud.Resolvers(s.args.Plan) {
		for _, protocol := range []string{"udp", "tcp"} { // TCP for answers that are too long
			name := fmt.Sprintf("proxies-resolver-%d-%s", i+1, protocol)
			add(s, vpc.NewSecurityGroupEgressRule, name, &vpc.SecurityGroupEgressRuleArgs{
				SecurityGroupId: f.proxies.ID(), CidrIpv4: pulumi.String(single(r.Addr())), IpProtocol: pulumi.String(protocol),
				FromPort: pulumi.Int(int(r.Port())), ToPort: pulumi.Int(int(r.Port())), Description: pulumi.String("A resolver of the policy"), Tags: s.tags(name),
			})
		}
	}
	if s.args.controlGoesOut() {
		f.out("control-out", f.control, https, "Bundles, and where tokens are minted")
	}
	agents := pulumi.StringMap{}
	for name, g := range f.agents {
		agents[name] = g.ID().ToStringOutput()
	}
	s.outputs(pulumi.Map{"agents": agents, "gate": f.gate.ID(), "proxies": f.proxies.ID(), "control": f.control.ID()})
	return f
}

const https = 443

// agent declares an agent's group. Its one rule is its only way anywhere.
func (f *fence) agent(n *network, a cloud.Agent) {
	g := f.group("agent-"+a.Name, n.agents, "Agent "+a.Name)
	f.agents[a.Name] = g
	f.pass("agent-"+a.Name, g, f.gate, int(a.Port), "Agent "+a.Name+" at the proxies")
	if f.gate != f.balancer {
		// Traffic through PrivateLink has no group here, but keeps its address.
		add(f.s, vpc.NewSecurityGroupIngressRule, "gate-"+a.Name, &vpc.SecurityGroupIngressRuleArgs{
			SecurityGroupId: f.balancer.ID(), CidrIpv4: pulumi.String(f.s.args.AWS.AgentsCIDR.String()), IpProtocol: pulumi.String("tcp"),
			FromPort: pulumi.Int(int(a.Port)), ToPort: pulumi.Int(int(a.Port)), Description: pulumi.String("Agent " + a.Name + " through PrivateLink"), Tags: f.s.tags("gate-" + a.Name),
		})
	}
	f.pass("balancer-"+a.Name, f.balancer, f.proxies, int(a.Port), "Agent "+a.Name+" at the proxies")
	if a.Compute == cloud.ComputeFargate {
		f.pass("platform-"+a.Name, g, f.platform, https, "How Fargate starts agent "+a.Name)
	}
}

func (f *fence) group(name string, v pulumi.StringInput, description string) *ec2.SecurityGroup {
	return add(f.s, ec2.NewSecurityGroup, name, &ec2.SecurityGroupArgs{
		VpcId: v.ToStringOutput(), Description: pulumi.String(description), RevokeRulesOnDelete: pulumi.Bool(true),
		Tags: f.s.tags(name),
	})
}

// pass lets from connect to a TCP port of to: a rule at each end.
func (f *fence) pass(name string, from, to *ec2.SecurityGroup, port int, description string) {
	add(f.s, vpc.NewSecurityGroupEgressRule, name, &vpc.SecurityGroupEgressRuleArgs{
		SecurityGroupId: from.ID(), ReferencedSecurityGroupId: to.ID(), IpProtocol: pulumi.String("tcp"),
		FromPort: pulumi.Int(port), ToPort: pulumi.Int(port), Description: pulumi.String(description), Tags: f.s.tags(name),
	})
	add(f.s, vpc.NewSecurityGroupIngressRule, name, &vpc.SecurityGroupIngressRuleArgs{
		SecurityGroupId: to.ID(), ReferencedSecurityGroupId: from.ID(), IpProtocol: pulumi.String("tcp"),
		FromPort: pulumi.Int(port), ToPort: pulumi.Int(port), Description: pulumi.String(description), Tags: f.s.tags(name),
	})
}

// out lets from connect to a TCP port anywhere but in the private network of which the stack's own is
// a part. So what is there is closed twice: by its own group, and by this one.
func (f *fence) out(name string, from *ec2.SecurityGroup, port int, description string) {
	for _, there := range cloud.Beyond(f.s.args.AWS.EgressCIDR) {
		name := fmt.Sprintf("%s-%s-%d", name, there.Addr(), there.Bits())
		add(f.s, vpc.NewSecurityGroupEgressRule, name, &vpc.SecurityGroupEgressRuleArgs{
			SecurityGroupId: from.ID(), CidrIpv4: pulumi.String(there.String()), IpProtocol: pulumi.String("tcp"),
			FromPort: pulumi.Int(port), ToPort: pulumi.Int(port), Description: pulumi.String(description),
			Tags: f.s.tags(name),
		})
	}
}

const anywhere = "0.0.0.0/0"

// single is the range of one address.
func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
