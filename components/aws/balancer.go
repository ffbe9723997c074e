package aws

import (
	"strconv"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/lb"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

func decimal(n int) string { return strconv.Itoa(n) }

// balancer spreads agents' connections over the proxies: a listener and a target
// group for each agent, whose port is its identity.
type balancer struct {
	lb *lb.LoadBalancer
	// targets are in the order of the agents.
	targets   []*lb.TargetGroup
	listeners []pulumi.Resource
}

// Names of load balancers and target groups have at most 32 characters. The names of stack and
// agent do not fit. So they are prefixes, and the tags have the whole names.
const namePrefix = "pstrn"

func newBalancer(s *scope, n *network, f *fence) *balancer {
	set := s.args.AWS
	args := &lb.LoadBalancerArgs{
		NamePrefix: pulumi.String(namePrefix), LoadBalancerType: pulumi.String("network"),
		Internal: pulumi.Bool(true), IpAddressType: pulumi.String("ipv4"),
		// Without groups now, it could never have any.
		SecurityGroups: pulumi.StringArray{f.balancer.ID()},
		EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic: pulumi.String("on"),
		EnableCrossZoneLoadBalancing:                         pulumi.Bool(true), EnableDeletionProtection: pulumi.Bool(set.Protect),
		Tags: s.tags("balancer"),
	}
	if set.Mode == cloud.ModeShared {
		// Its addresses are the gates themselves.
		mappings := lb.LoadBalancerSubnetMappingArray{}
		for i, subnet := range n.subnets[cloud.TierGate] {
			mappings = append(mappings, &lb.LoadBalancerSubnetMappingArgs{
				SubnetId: subnet, PrivateIpv4Address: pulumi.String(s.args.gate(i).String()),
			})
		}
		args.SubnetMappings = mappings
	} else {
		args.Subnets = n.subnets[cloud.TierProxies]
	}
	b := &balancer{lb: add(s, lb.NewLoadBalancer, "balancer", args)}
	for _, a := range set.Agents {
		target := add(s, lb.NewTargetGroup, a.Name, &lb.TargetGroupArgs{
			NamePrefix: pulumi.String(namePrefix), VpcId: n.egress.ToStringOutput(),
			TargetType: pulumi.String(targetType(set)), Protocol: pulumi.String("TCP"),
			Port: pulumi.Int(int(a.Port)),
			// The load balancer writes a header that tells who connects. The proxies refuse a
			// connection without it.
			ProxyProtocolV2: pulumi.Bool(true), PreserveClientIp: pulumi.String("false"),
			ConnectionTermination: pulumi.Bool(true), DeregistrationDelay: pulumi.Int(120),
			// A proxy that answers its health check late, as under load, keeps its tunnels. It
			// gets no new ones.
			TargetHealthStates: lb.TargetGroupTargetHealthStateArray{&lb.TargetGroupTargetHealthStateArgs{
				EnableUnhealthyConnectionTermination: pulumi.Bool(false), UnhealthyDrainingInterval: pulumi.Int(300),
			}},
			// It passes when the proxy serves its first whole configuration, and
			// not before: Envoy without listeners would look healthy.
			HealthCheck: &lb.TargetGroupHealthCheckArgs{
				Enabled: pulumi.Bool(true), Protocol: pulumi.String("HTTP"), Path: pulumi.String("/readyz"),
				Port: pulumi.String(decimal(document.ReadyPort)), Matcher: pulumi.String("200"),
				Interval: pulumi.Int(10), Timeout: pulumi.Int(6), HealthyThreshold: pulumi.Int(2),
				UnhealthyThreshold: pulumi.Int(3),
			},
			Tags: s.tags(a.Name),
		})
		b.targets = append(b.targets, target)
		b.listeners = append(b.listeners, add(s, lb.NewListener, a.Name, &lb.ListenerArgs{
			LoadBalancerArn: b.lb.Arn, Protocol: pulumi.String("TCP"), Port: pulumi.Int(int(a.Port)),
			TcpIdleTimeoutSeconds: pulumi.Int(3600),
			DefaultActions:        lb.ListenerDefaultActionArray{&lb.ListenerDefaultActionArgs{Type: pulumi.String("forward"), TargetGroupArn: target.Arn}},
			Tags:                  s.tags(a.Name),
		}))
	}
	return b
}

func targetType(set *cloud.AWS) string {
	if set.Proxies.Compute == cloud.ComputeEC2 {
		return "instance"
	}
	return "ip"
}

// newGate joins the two networks of the isolated mode, in one direction, for one
// service: the load balancer appears in the agents' network as an interface with
// addresses that are known before.
func newGate(
	parent *scope, n *network, f *fence, b *balancer,
) (service *ec2.VpcEndpointService, endpoint *ec2.VpcEndpoint) {
	s := parent.component("NetworkGate", "gate")
	service = add(s, ec2.NewVpcEndpointService, "service", &ec2.VpcEndpointServiceArgs{
		NetworkLoadBalancerArns: pulumi.StringArray{b.lb.Arn}, AcceptanceRequired: pulumi.Bool(true),
		AllowedPrincipals:       pulumi.StringArray{pulumi.String(s.args.place().Root())},
		SupportedIpAddressTypes: pulumi.StringArray{pulumi.String("ipv4")},
		Tags:                    s.tags("service"),
	})
	endpoint = add(s, ec2.NewVpcEndpoint, "endpoint", &ec2.VpcEndpointArgs{
		VpcId: n.agents, ServiceName: service.ServiceName, VpcEndpointType: pulumi.String("Interface"),
		IpAddressType:        pulumi.String("ipv4"),
		SubnetIds:            n.subnets[cloud.TierGate],
		SubnetConfigurations: fixedAddresses(n.subnets[cloud.TierGate], s.args.gate),
		SecurityGroupIds:     pulumi.StringArray{f.gate.ID()},
		PrivateDnsEnabled:    pulumi.Bool(false), Tags: s.tags("endpoint"),
	}, pulumi.DependsOn(b.listeners))
	add(s, ec2.NewVpcEndpointConnectionAccepter, "accepted", &ec2.VpcEndpointConnectionAccepterArgs{
		VpcEndpointServiceId: service.ID(), VpcEndpointId: endpoint.ID(),
	})
	s.outputs(pulumi.Map{"service": service.ServiceName, "endpoint": endpoint.ID()})
	return service, endpoint
}

// taskNetwork says in which subnets and groups the tasks of a service run.
func taskNetwork(subnets pulumi.StringArrayInput, group pulumi.StringInput) *ecs.ServiceNetworkConfigurationArgs {
	return &ecs.ServiceNetworkConfigurationArgs{
		AssignPublicIp: pulumi.Bool(false), SecurityGroups: pulumi.StringArray{group}, Subnets: subnets,
	}
}
