package aws

import (
	"net/netip"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/vpc"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// endpoints lead to AWS services without the internet. Each has a policy that says for what, and
// by whom, it may be used.
type endpoints struct {
	// secrets is the endpoint of Secrets Manager. It is nil in the shared mode, which reaches AWS
	// through its NAT gateway and so saves the cost of endpoints.
	secrets *ec2.VpcEndpoint
}

func newEndpoints(parent *scope, n *network, f *fence, a *auditLog, v *vault, bundles held) *endpoints {
	s := parent.component("NetworkEndpoints", "endpoints")
	place, set := s.args.place(), s.args.AWS
	e := &endpoints{}
	// S3's is a route, which costs nothing. Agents' subnets have none, and neither have the
	// proxies': its policy would refuse the buckets that the stack's own policy allows.
	storage := add(s, ec2.NewVpcEndpoint, "s3", &ec2.VpcEndpointArgs{
		VpcId: n.egress, ServiceName: pulumi.String(serviceName(set, "s3")),
		VpcEndpointType: pulumi.String("Gateway"),
		Policy:          written(func(x []string) string { return document.StorageEndpoint(place, arns(x)...).Text() }, bundles.arn),
		Tags:            s.tags("s3"),
	})
	for i, table := range n.tables[cloud.TierControl] {
		name := zonal("s3-control", set.Zones[i])
		add(s, ec2.NewVpcEndpointRouteTableAssociation, name, &ec2.VpcEndpointRouteTableAssociationArgs{VpcEndpointId: storage.ID(), RouteTableId: table.ID()})
	}
	if !s.args.controlGoesOut() {
		add(s, vpc.NewSecurityGroupEgressRule, "control-s3", &vpc.SecurityGroupEgressRuleArgs{
			SecurityGroupId: f.control.ID(), PrefixListId: storage.PrefixListId, IpProtocol: pulumi.String("tcp"),
			FromPort: pulumi.Int(https), ToPort: pulumi.Int(https),
			Description: pulumi.String("Bundles and layers of images"), Tags: s.tags("control-s3"),
		})
	}
	if set.FargateAgents() {
		platformEndpoints(s, n, f, a)
	}
	s.outputs(pulumi.Map{"s3": storage.ID()})
	if set.Mode == cloud.ModeShared {
		return e
	}
	at := func(name string, policy pulumi.StringInput) *ec2.VpcEndpoint {
		return serviceEndpoint(s, name, name, n.egress, n.subnets[cloud.TierServices], f.access, policy, nil)
	}
	// None of KMS: Secrets Manager, S3 and CloudWatch Logs ask it themselves.
	e.secrets = at("secretsmanager", written(func(x []string) string { return document.SecretsEndpoint(place, arns(x)).Text() }, v.arns()...))
	at("logs", written(func(x []string) string { return document.LogsEndpoint(place, x...).Text() }, a.group(groupProxies), a.group(groupControl)))
	registry := written(func(x []string) string { return document.RegistryEndpoint(place, x...).Text() }, s.args.image())
	at("ecr.api", registry)
	at("ecr.dkr", registry)
	return e
}

// platformEndpoints are the endpoints without which Fargate cannot start an agent. The agent
// reaches them too, but their policies allow it nothing there.
func platformEndpoints(s *scope, n *network, f *fence, a *auditLog) {
	place := s.args.place()
	var images []pulumi.StringInput
	for _, agent := range s.args.AWS.Agents {
		if agent.Compute == cloud.ComputeFargate {
			images = append(images, s.args.agentImage(agent))
		}
	}
	hosts := 0
	at := func(name string, policy pulumi.StringInput) {
		hosts++
		// AWS would choose addresses, and among them the gate's own.
		fixed := fixedAddresses(n.subnets[cloud.TierGate], func(zone int) netip.Addr { return s.args.AWS.Platform(zone, hosts) })
		serviceEndpoint(s, "agents-"+name, name, n.agents, n.subnets[cloud.TierGate], f.platform, policy, fixed)
	}
	registry := written(func(x []string) string { return document.RegistryEndpoint(place, x...).Text() }, images...)
	at("ecr.api", registry)
	at("ecr.dkr", registry)
	at("logs", written(func(x []string) string { return document.LogsEndpoint(place, x...).Text() }, a.group(groupAgents)))
	at("s3", pulumi.String(document.StorageEndpoint(place).Text()))
}

func serviceEndpoint(
	s *scope, suffix, name string, v pulumi.StringInput, subnets pulumi.StringArray, group *ec2.SecurityGroup,
	policy pulumi.StringInput, fixed ec2.VpcEndpointSubnetConfigurationArray,
) *ec2.VpcEndpoint {
	args := &ec2.VpcEndpointArgs{
		VpcId: v, ServiceName: pulumi.String(serviceName(s.args.AWS, name)),
		VpcEndpointType:   pulumi.String("Interface"),
		PrivateDnsEnabled: pulumi.Bool(true), SubnetIds: subnets,
		SecurityGroupIds: pulumi.StringArray{group.ID()},
		Policy:           policy, Tags: s.tags(suffix),
	}
	if fixed != nil {
		args.SubnetConfigurations = fixed
	}
	if name == "s3" { // for everybody in the network, also without a gateway endpoint
		args.DnsOptions = &ec2.VpcEndpointDnsOptionsArgs{PrivateDnsOnlyForInboundResolverEndpoint: pulumi.Bool(false)}
	}
	return add(s, ec2.NewVpcEndpoint, suffix, args)
}

// serviceName returns the name of a service's endpoints in the region.
func serviceName(set *cloud.AWS, name string) string {
	return "com.amazonaws." + set.Region + "." + name
}

// fixedAddresses says which address an endpoint has in each subnet.
func fixedAddresses(
	subnets pulumi.StringArray, address func(zone int) netip.Addr,
) ec2.VpcEndpointSubnetConfigurationArray {
	out := ec2.VpcEndpointSubnetConfigurationArray{}
	for i, subnet := range subnets {
		out = append(out, &ec2.VpcEndpointSubnetConfigurationArgs{
			SubnetId: subnet.ToStringOutput(), Ipv4: pulumi.String(address(i).String()),
		})
	}
	return out
}

// controlGoesOut reports whether the control plane must reach the internet: for the policy, or, in
// the shared mode, to reach AWS.
func (a *EnvironmentArgs) controlGoesOut() bool {
	return a.AWS.Mode == cloud.ModeShared || cloud.ControlGoesOut(a.Plan)
}
