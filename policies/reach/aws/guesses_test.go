package aws_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach/aws"
)

// guesses are mistakes that the model does not follow, or cannot: the proof must not hold, and says
// why.
var guesses = []struct {
	what, in string
	change   func(*changed)
	says     string
}{
	{"an answer", "minimal", func(c *changed) {
		c.add("vpc/securityGroupIngressRule", "mistake", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-agent-coder"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 8080.0, "toPort": 8080.0,
		})
	}, "lets somebody connect to the agent"},
	{"a group of somebody's", "minimal", func(c *changed) {
		nics := c.get("ec2/launchTemplate", "-agent-coder-machine").Inputs["networkInterfaces"].([]any)
		nic := nics[0].(map[string]any)
		nic["securityGroups"] = append(nic["securityGroups"].([]any), "sg-0123456789abcdef0")
	}, "names something that is not in the plan"},
	{"a VPN gateway's routes", "minimal", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.add("ec2/vpnGatewayRoutePropagation", "mistake",
			map[string]any{"routeTableId": ref{"ec2/routeTable", "-network-agents"}, "vpnGatewayId": graph.Unknown})
	}, "vpnGatewayRoutePropagation"},
	{"an Elastic IP address", "minimal", func(c *changed) {
		c.add("ec2/eip", "mistake", map[string]any{"networkInterface": "eni-0123456789abcdef0"})
	}, "Elastic IP"},
	{"an Elastic IP address of a machine that is not in the plan", "minimal", func(c *changed) {
		c.add("ec2/eipAssociation", "mistake", map[string]any{"instanceId": "i-0123456789abcdef0"})
	}, "instanceId refers to 0 resources"},
	{"an internet gateway of a network that is not in the plan", "minimal", func(c *changed) {
		c.add("ec2/internetGatewayAttachment", "mistake", map[string]any{"vpcId": "vpc-0123456789abcdef0"})
	}, "vpcId refers to 0 resources"},
	{"NAT64", "shared", func(c *changed) {
		c.get("ec2/subnet", "-network-agents-a").Inputs["assignIpv6AddressOnCreation"] = true
		c.allow("64:ff9b::/96", "tcp")
		c.route("64:ff9b::/96", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
	}, "64:ff9b::"},
	{"a VPN next to the internet", "minimal", func(c *changed) {
		c.allow("10.99.0.0/16", "tcp")
		c.route("10.99.0.0/16", "gatewayId", "vgw-0123456789abcdef0")
	}, "10.99.0.0:443"},
	{"names that are not known yet", "shared", func(c *changed) {
		c.get("route53/resolverFirewallDomainList", "-allow").Inputs["domains"] = []any{graph.Unknown}
	}, "its names are not known"},
	{"two rule groups", "shared", func(c *changed) {
		refers := c.get("route53/resolverFirewallRuleGroupAssociation", "").PropertyDependencies
		c.add("route53/resolverFirewallRuleGroupAssociation", "mistake", map[string]any{
			"vpcId": graph.Unknown, "firewallRuleGroupId": graph.Unknown, "priority": 200.0,
		})
		c.get("route53/resolverFirewallRuleGroupAssociation", "mistake").PropertyDependencies = refers
	}, "several rule groups"},
	{"an interface of somebody's, in a further network", "minimal", func(c *changed) {
		c.allow("10.99.0.0/16", "tcp")
		vpc := ref{"ec2/vpc", "-network-agents"}
		c.add("ec2/vpcIpv4CidrBlockAssociation", "mistake-block", map[string]any{
			"vpcId": vpc, "cidrBlock": "10.99.0.0/24",
		})
		// It is longer than the first network of the VPC, and shorter than the one that it would
		// lead away.
		c.route("10.99.0.0/22", "vpcPeeringConnectionId", "pcx-0123456789abcdef0")
		c.add("ec2/subnet", "mistake-subnet", map[string]any{"vpcId": vpc, "cidrBlock": "10.99.0.0/24"})
		c.add("ec2/networkAclRule", "mistake-entry", map[string]any{
			"networkAclId": ref{"ec2/defaultNetworkAcl", "-network-agents-default"}, "egress": false, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0",
		})
		c.add("ec2/securityGroup", "mistake-group", map[string]any{"vpcId": vpc, "ingress": []any{map[string]any{
			"protocol": "-1", "cidrBlocks": []any{"0.0.0.0/0"},
		}}})
		c.add("ec2/networkInterface", "mistake-interface", map[string]any{
			"subnetId":       ref{"ec2/subnet", "mistake-subnet"},
			"securityGroups": ref{"ec2/securityGroup", "mistake-group"},
		})
	}, "-> mistake-interface: tcp"},
	{"an interface that a machine is given", "minimal", func(c *changed) {
		c.add("ec2/networkInterface", "mistake", map[string]any{
			"subnetId":       ref{"ec2/subnet", "-network-agents-a"},
			"securityGroups": ref{"ec2/securityGroup", "-agent-coder"},
			"attachments":    []any{map[string]any{"instance": graph.Unknown}},
		})
	}, "interfaces that a machine is given"},
	{"a listener of UDP", "minimal", func(c *changed) {
		c.get("lb/listener", "-proxies-coder").Inputs["protocol"] = "UDP"
	}, `protocol "UDP"`},
	{"a service of somebody's", "minimal", func(c *changed) {
		for i := range c.Resources {
			x := &c.Resources[i]
			ofAWS := strings.HasPrefix(x.String("serviceName"), "com.amazonaws.")
			if ofAWS && x.Type == "aws:ec2/vpcEndpoint:VpcEndpoint" && x.String("vpcEndpointType") == "Interface" {
				x.Inputs["serviceName"] = "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"
			}
		}
	}, "anything else"},
	{"rules of two kinds", "minimal", func(c *changed) {
		c.get("ec2/networkAcl", "-network-agents").Inputs["egress"] = []any{map[string]any{
			"ruleNo": 40.0, "action": "deny", "protocol": "-1", "cidrBlock": "10.99.0.0/16",
		}}
		c.allow("10.99.0.0/16", "tcp")
	}, "rules that are resources"},
	{"a principal of which nobody knows the account", "minimal", func(c *changed) {
		c.get("ec2/vpcEndpointService", "-gate-service").Inputs["allowedPrincipals"] = []any{"somebody"}
	}, `the account of "somebody" is not known`},
	{"an endpoint that is accepted for a service that is not in the plan", "minimal", func(c *changed) {
		c.add("ec2/vpcEndpointConnectionAccepter", "mistake", map[string]any{
			"vpcEndpointServiceId": "vpce-svc-0123456789abcdef0", "vpcEndpointId": "vpce-0123456789abcdef0",
		})
	}, "(aws:ec2/vpcEndpointConnectionAccepter:VpcEndpointConnectionAccepter): vpcEndpointServiceId refers to 0"},
	{"a machine of nobody's with an agent's group", "minimal", func(c *changed) {
		c.machine("-network-agents-a", "-fence-agent-coder", nil)
	}, "mistake (aws:ec2/instance:Instance): nothing says whose it is"},
	{"a machine of nobody's in the agents' subnet", "minimal", func(c *changed) {
		c.machine("-network-agents-a", "-fence-gate", nil)
	}, "mistake (aws:ec2/instance:Instance): nothing says whose it is"},
	{"a machine of nobody's next to the proxies", "minimal", func(c *changed) {
		c.machine("-network-proxies-a", "-fence-control", nil)
	}, "mistake (aws:ec2/instance:Instance): nothing says whose it is"},
	{"a machine with a role that nobody knows", "minimal", func(c *changed) {
		c.machine("-network-agents-a", "-fence-agent-coder", map[string]any{graph.TagRole: "agent"})
	}, `mistake (aws:ec2/instance:Instance): nothing says whose it is: its tag postern:role is "agent"`},
	{"somebody's machine with an agent's group", "minimal", func(c *changed) {
		c.machine("-network-agents-a", "-fence-agent-coder", map[string]any{graph.TagRole: "other"})
	}, "mistake (aws:ec2/instance:Instance): it is no agent's, and has prod-fence-agent-coder"},
	{"tasks that somebody starts when something happens", "minimal", func(c *changed) {
		c.add("cloudwatch/eventTarget", "mistake", map[string]any{"ecsTarget": map[string]any{}})
	}, "mistake (aws:cloudwatch/eventTarget:EventTarget)"},
	{"machines of two templates", "minimal", func(c *changed) {
		x := c.get("autoscaling/group", "-agent-coder-machine")
		x.Inputs["mixedInstancesPolicy"] = map[string]any{"launchTemplate": map[string]any{}}
	}, "prod-agent-coder-machine (aws:autoscaling/group:Group): the model does not know mixedInstancesPolicy"},
	{"machines of the old kind", "minimal", func(c *changed) {
		c.get("autoscaling/group", "-agent-coder-machine").Inputs["launchConfiguration"] = "old"
	}, "prod-agent-coder-machine (aws:autoscaling/group:Group): the model does not know launchConfiguration"},
	{"targets of somebody's", "minimal", func(c *changed) {
		c.get("autoscaling/group", "-agent-coder-machine").Inputs["targetGroupArns"] = []any{
			"arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/x/0123456789abcdef",
		}
	}, "-coder-machine (aws:autoscaling/group:Group): targetGroupArns names something that is not in the plan"},
	{"IPv6 addresses of a machine", "minimal", func(c *changed) {
		c.nic("ipv6AddressCount", 1.0)
	}, "-coder-machine (aws:ec2/launchTemplate:LaunchTemplate): the model does not know ipv6AddressCount"},
	{"a carrier's address", "minimal", func(c *changed) {
		c.nic("associateCarrierIpAddress", "true")
	}, "(aws:ec2/launchTemplate:LaunchTemplate): the model does not know associateCarrierIpAddress"},
	{"a group of which nobody knows the network", "minimal", func(c *changed) {
		x := c.get("ec2/securityGroup", "-fence-agent-coder")
		x.Inputs["vpcId"], x.PropertyDependencies["vpcId"] = "vpc-0123456789abcdef0", nil
	}, "prod-fence-agent-coder (aws:ec2/securityGroup:SecurityGroup): vpcId refers to 0"},
	{"a table that exists", "minimal", exists("ec2/routeTable", "-network-agents"), "it exists already"},
	{"a group that exists", "minimal", exists("ec2/securityGroup", "-fence-agent-coder"), "it exists already"},
	{"a template that exists", "minimal", exists("ec2/launchTemplate", "-agent-coder-machine"), "it exists already"},
	{"a task that exists", "fargate", exists("ecs/taskDefinition", "-agent-coder-task"), "it exists already"},
	{"names that exist", "shared", exists("route53/resolverFirewallDomainList", "-allow"), "it exists already"},
}

// machine declares a machine in a subnet, with a group and tags.
func (c *changed) machine(subnet, group string, tags map[string]any) {
	in := map[string]any{
		"subnetId": ref{"ec2/subnet", subnet}, "vpcSecurityGroupIds": ref{"ec2/securityGroup", group},
	}
	if tags != nil {
		in["tags"] = tags
	}
	c.add("ec2/instance", "mistake", in)
}

// nic writes an input of the network interface of an agent's machine.
func (c *changed) nic(key string, v any) {
	nics := c.get("ec2/launchTemplate", "-agent-coder-machine").Inputs["networkInterfaces"].([]any)
	nics[0].(map[string]any)[key] = v
}

// exists has the program read a resource: its inputs are not how it is.
func exists(kind, end string) func(*changed) {
	return func(c *changed) { c.get(kind, end).External = true }
}

func TestNothingIsGuessed(t *testing.T) {
	t.Parallel()
	for _, g := range guesses {
		t.Run(g.what, func(t *testing.T) {
			t.Parallel()
			c := reference(t, g.in)
			g.change(c)
			p := aws.Prove(c.Graph, nil, false)
			var text strings.Builder
			require.NoError(t, p.Print(&text))
			require.False(t, p.Holds(), text.String())
			require.Contains(t, text.String(), g.says)
		})
	}
}
