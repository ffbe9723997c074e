package aws_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
)

// traps are ways out of a private subnet, each as the mistakes that open it.
var traps = []struct {
	id, what string
	in       string // the fixture
	change   func(c *changed)
	// caught is the assertion that fails, or the type that is unknown; names is on the witness.
	caught, names string
}{
	{"A1", "the resolver answers, and nothing asks what", "minimal", func(c *changed) {
		c.get("ec2/vpc", "-network-agents").Inputs["enableDnsSupport"] = true
		c.lose("route53/resolverFirewallRuleGroupAssociation", "-dns-agents")
	}, "coder-machine -> DNS: never", "the resolver"},
	{"A1", "the DNS firewall fails open", "fargate", func(c *changed) {
		c.get("route53/resolverFirewallConfig", "-dns-agents").Inputs["firewallFailOpen"] = "ENABLED"
	}, "coder-service -> DNS: never", "the resolver"},
	{"A1", "the DNS firewall blocks one type of record", "fargate", func(c *changed) {
		c.get("route53/resolverFirewallRule", "-dns-agents-block").Inputs["qType"] = "A"
	}, "coder-service -> DNS: never", "the resolver"},
	{"A1", "the DNS firewall lets everything through first", "fargate", func(c *changed) {
		c.get("route53/resolverFirewallDomainList", "-dns-agents-allow").Inputs["domains"] = []any{"*"}
	}, "coder-service -> DNS: never", "the resolver"},
	{"A2", "the owner of an allowed name says where it leads", "fargate", func(c *changed) {
		c.get("route53/resolverFirewallRule", "-dns-agents-allow").
			Inputs["firewallDomainRedirectionAction"] = "TRUST_REDIRECTION_DOMAIN"
	}, "coder-service -> DNS: only listed names", "the resolver"},
	{"A2", "an allowed name with a wildcard", "fargate", func(c *changed) {
		c.get("route53/resolverFirewallDomainList", "-dns-agents-allow").Inputs["domains"] = []any{"*.amazonaws.com"}
	}, "coder-service -> DNS: only listed names", "the resolver"},
	{"A4", "an agent's machine has a role", "minimal", func(c *changed) {
		c.get("ec2/launchTemplate",
			"-agent-coder-machine").Inputs["iamInstanceProfile"] = map[string]any{"arn": graph.Unknown}
	}, "coder-machine -> credentials of the metadata service: never", "169.254.169.254:80"},
	{"A5", "an agent's task has a role", "fargate", func(c *changed) {
		c.get("ecs/taskDefinition", "-agent-coder-task").Inputs["taskRoleArn"] = graph.Unknown
	}, "coder-service -> credentials of the metadata service: never", "169.254.170.2:80"},
	{"A6", "a gateway endpoint in the agents' table", "minimal", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.add("ec2/vpcEndpoint", "mistake-s3", map[string]any{
			"vpcId": ref{"ec2/vpc", "-network-agents"}, "serviceName": "com.amazonaws.eu-west-1.s3",
			"routeTableIds": ref{"ec2/routeTable", "-network-agents"},
		})
	}, "coder-machine -> the cloud's API", "mistake-s3"},
	{"A7", "an endpoint without a policy", "fargate", func(c *changed) {
		delete(c.get("ec2/vpcEndpoint", "-agents-logs").Inputs, "policy")
		delete(c.get("ec2/vpcEndpoint", "-agents-logs").Example, "policy")
	}, "coder-service -> the cloud's API", "-endpoints-agents-logs"},
	{"A8", "an endpoint of SSM for agents", "fargate", func(c *changed) {
		c.add("ec2/vpcEndpoint", "mistake-ssm", map[string]any{
			"vpcId": ref{"ec2/vpc", "-network-agents"}, "serviceName": "com.amazonaws.eu-west-1.ssm",
			"vpcEndpointType":  "Interface",
			"subnetIds":        ref{"ec2/subnet", "-network-gate-a"},
			"securityGroupIds": ref{"ec2/securityGroup", "-fence-platform"},
		})
	}, "coder-service -> the cloud's API", "mistake-ssm"},
	{"A9", "an internet gateway, a public address and a route", "shared", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.route("0.0.0.0/0", "gatewayId", ref{"ec2/internetGateway", "-internet"})
		nics := c.get("ec2/launchTemplate", "-agent-coder-machine").Inputs["networkInterfaces"].([]any)
		nics[0].(map[string]any)["associatePublicIpAddress"] = "true"
	}, "coder-machine -> the internet", "mistake-route-gatewayId"},
	{"A9", "all that is left is one security group", "minimal", func(c *changed) {
		c.add("ec2/internetGateway", "mistake-internet", nil)
		c.add("ec2/networkAclRule", "mistake-acl", map[string]any{
			"networkAclId": ref{"ec2/networkAcl", "-network-agents"}, "egress": true, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0",
		})
		nics := c.get("ec2/launchTemplate", "-agent-coder-machine").Inputs["networkInterfaces"].([]any)
		nics[0].(map[string]any)["associatePublicIpAddress"] = "true"
		c.route("0.0.0.0/0", "gatewayId", ref{"ec2/internetGateway", "mistake-internet"})
	}, "coder-machine -> a way out after any one mistake: never", "which was opened"},
	{"A10", "a NAT gateway that leads back into its own network", "shared", func(c *changed) {
		c.allow("10.64.0.0/19", "tcp")
		c.route("10.64.16.0/20", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": "10.64.0.0/19",
			"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0,
		})
	}, "coder-machine -> the control plane", "-nat-a"},
	{"A10", "a NAT gateway in the agents' table", "shared", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.route("0.0.0.0/0", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
	}, "coder-machine -> the internet", "-nat-a"},
	{"A10", "a subnet without a table of its own", "shared", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.openEgress()
		c.lose("ec2/routeTableAssociation", "-network-agents-a")
		main := c.get("ec2/defaultRouteTable", "-main")
		main.Inputs["routes"] = []any{map[string]any{"cidrBlock": "0.0.0.0/0", "natGatewayId": graph.Unknown}}
		main.PropertyDependencies["routes"] = []string{c.get("ec2/natGateway", "-nat-a").URN}
	}, "coder-machine -> the internet", "-nat-a"},
	{"A11", "IPv6 by an egress-only gateway", "minimal", func(c *changed) {
		c.get("ec2/subnet", "-network-agents-a").Inputs["assignIpv6AddressOnCreation"] = true
		c.allow("::/0", "tcp")
		c.route("::/0", "egressOnlyGatewayId", graph.Unknown)
	}, "coder-machine -> the internet", "mistake-route-egressOnlyGatewayId"},
	{"A11", "a private IPv6 network", "minimal", func(c *changed) {
		c.get("ec2/subnet", "-network-agents-a").Inputs["ipv6CidrBlock"] = "fd00:1234::/64"
		c.allow("fd00:9::/48", "tcp")
		c.route("fd00:9::/48", "transitGatewayId", graph.Unknown)
	}, "coder-machine -> an IPv6 address: never", "fd00:1234::"},
	{"A12", "a peering", "minimal", func(c *changed) {
		c.allow("10.99.0.0/16", "tcp")
		c.route("10.99.0.0/16", "vpcPeeringConnectionId", graph.Unknown)
	}, "coder-machine -> the internet or another network", "10.99.0.0:443"},
	{"A12", "a propagated VPN", "minimal", func(c *changed) {
		c.allow("0.0.0.0/0", "tcp")
		c.get("ec2/routeTable", "-network-agents").Inputs["propagatingVgws"] = []any{graph.Unknown}
	}, "coder-machine -> the internet or another network", "propagated"},
	{"A13", "VPC Lattice", "minimal", func(c *changed) {
		c.add("vpclattice/serviceNetworkVpcAssociation", "mistake",
			map[string]any{"vpcIdentifier": ref{"ec2/vpc", "-network-agents"}})
	}, "unknown", "vpclattice"},
	{"A14", "a route to a machine that is longer than the VPC's", "minimal", func(c *changed) {
		c.route("10.64.0.0/28", "networkInterfaceId", "eni-0123456789abcdef0")
	}, "coder-machine -> the internet or another network", "mistake-route-networkInterfaceId"},
	{"A15", "a second network interface", "minimal", func(c *changed) {
		t := c.get("ec2/launchTemplate", "-agent-coder-machine")
		t.Inputs["networkInterfaces"] = append(t.Inputs["networkInterfaces"].([]any),
			map[string]any{"deviceIndex": 1.0})
	}, "unknown", "LaunchTemplate"},
	{"A16", "two halves of the internet", "shared", func(c *changed) {
		c.allow("0.0.0.0/1", "tcp")
		c.allow("128.0.0.0/1", "tcp")
		c.route("128.0.0.0/1", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
	}, "coder-machine -> the internet", "128.0.0.0:443"},
	{"A16", "the port of another agent", "minimal", func(c *changed) {
		c.add("vpc/securityGroupEgressRule", "mistake-out", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-agent-coder"}, "cidrIpv4": "10.64.0.0/20",
			"ipProtocol": "tcp", "fromPort": 10000.0, "toPort": 19999.0,
		})
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-gate"}, "cidrIpv4": "10.64.0.0/20",
			"ipProtocol": "tcp", "fromPort": 10000.0, "toPort": 19999.0,
		})
	}, "coder-machine -> another agent's port", "mistake-in"},
	{"A17", "a group that reaches itself", "minimal", func(c *changed) {
		for _, kind := range []string{"vpc/securityGroupEgressRule", "vpc/securityGroupIngressRule"} {
			c.add(kind, "mistake-self", map[string]any{
				"securityGroupId":           ref{"ec2/securityGroup", "-fence-agent-coder"},
				"referencedSecurityGroupId": ref{"ec2/securityGroup", "-fence-agent-coder"}, "ipProtocol": "-1",
			})
		}
	}, "coder-machine -> an agent: never", "mistake-self"},
	{"A17", "a group that names another agent's, in its own rules", "minimal", func(c *changed) {
		coder := c.get("ec2/securityGroup", "-fence-agent-coder")
		tester := c.get("ec2/securityGroup", "-fence-agent-tester")
		for property, of := range map[string][2]*graph.Resource{"egress": {coder, tester}, "ingress": {tester, coder}} {
			of[0].Inputs[property] = []any{map[string]any{"protocol": "-1", "securityGroups": []any{graph.Unknown}}}
			of[0].PropertyDependencies[property] = []string{of[1].URN}
		}
	}, "coder-machine -> an agent: never", "-agent-tester-machine"},
	{"A18", "QUIC", "shared", func(c *changed) {
		c.allow("0.0.0.0/0", "udp")
		c.route("0.0.0.0/0", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
	}, "coder-machine -> the internet", "udp"},
	{"A20", "a load balancer without a security group", "minimal", func(c *changed) {
		delete(c.get("lb/loadBalancer", "-balancer").Inputs, "securityGroups")
		c.add("vpc/securityGroupEgressRule", "mistake-out", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "10.80.0.0/20",
			"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0,
		})
	}, "-proxies-service -> private addresses", "-balancer"},
	{"A21", "nothing says by which endpoint somebody comes", "minimal", func(c *changed) {
		c.get("lb/targetGroup", "-proxies-coder").Inputs["proxyProtocolV2"] = false
	}, "unknown", "TargetGroup"},
	{"A22", "an agent that connects past the gate", "shared", func(c *changed) {
		c.allow("10.64.0.0/19", "tcp")
		c.openEgress()
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "10.64.0.0/19",
			"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0,
		})
	}, "coder-machine -> the proxies past their gate: never", "mistake-in"},
	{"A22", "a proxy with the name of its gate", "shared", func(c *changed) {
		c.allow("10.64.0.0/19", "tcp")
		c.openEgress()
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "10.64.0.0/19",
			"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0,
		})
		c.get("lb/loadBalancer", "-balancer").Name = c.get("ecs/service", "-proxies-service").Name
	}, "coder-machine -> the proxies past their gate: never", "mistake-in"},
	{"A23", "a service for everybody", "minimal", func(c *changed) {
		c.get("ec2/vpcEndpointService", "-gate-service").Inputs["allowedPrincipals"] = []any{"*"}
	}, "other accounts -> prod-gate-service: never", ""},
	{"A23", "a service that accepts everybody who asks", "minimal", func(c *changed) {
		c.get("ec2/vpcEndpointService", "-gate-service").Inputs["acceptanceRequired"] = false
	}, "other accounts -> prod-gate-service: never", ""},
	{"A23", "another account that may ask", "minimal", func(c *changed) {
		x := c.get("ec2/vpcEndpointService", "-gate-service")
		x.Inputs["allowedPrincipals"] = append(x.Inputs["allowedPrincipals"].([]any), "arn:aws:iam::210987654321:root")
	}, "other accounts -> prod-gate-service: never: fails", ""},
	{"A23", "another account that may ask, by a resource of its own", "minimal", func(c *changed) {
		c.add("ec2/vpcEndpointServiceAllowedPrinciple", "mistake", map[string]any{
			"vpcEndpointServiceId": ref{"ec2/vpcEndpointService", "-gate-service"},
			"principalArn":         "arn:aws:iam::210987654321:role/theirs",
		})
	}, "other accounts -> prod-gate-service: never: fails", ""},
	{"A23", "somebody's endpoint, which is accepted by its ID", "minimal", func(c *changed) {
		c.add("ec2/vpcEndpointConnectionAccepter", "mistake", map[string]any{
			"vpcEndpointServiceId": ref{"ec2/vpcEndpointService", "-gate-service"},
			"vpcEndpointId":        "vpce-0123456789abcdef0",
		})
	}, "other accounts -> prod-gate-service: never: indeterminate", ""},
	{"A24", "an EC2 Instance Connect endpoint", "minimal", func(c *changed) {
		c.add("ec2transitgateway/instanceConnectEndpoint", "mistake",
			map[string]any{"subnetId": ref{"ec2/subnet", "-network-agents-a"}})
	}, "unknown", "instanceConnectEndpoint"},
	{"A25", "an agents' subnet that another account uses", "minimal", func(c *changed) {
		c.add("ram/resourceAssociation", "mistake",
			map[string]any{"resourceArn": ref{"ec2/subnet", "-network-agents-a"}})
	}, "unknown", "ram/resourceAssociation"},
	{"A26", "a box that forwards", "minimal", func(c *changed) {
		c.allow("10.64.0.0/20", "tcp")
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/defaultSecurityGroup", "-agents-default"}, "cidrIpv4": "10.64.0.0/20",
			"ipProtocol": "-1",
		})
		c.add("ec2/instance", "mistake-box", map[string]any{
			"subnetId": ref{"ec2/subnet", "-network-agents-a"}, "sourceDestCheck": false,
			"vpcSecurityGroupIds": ref{"ec2/defaultSecurityGroup", "-agents-default"},
		})
	}, "coder-machine -> anything else: never", "mistake-box"},
	{"A28", "a file system that others mount", "minimal", func(c *changed) {
		c.add("efs/mountTarget", "mistake", map[string]any{"subnetId": ref{"ec2/subnet", "-network-agents-a"}})
	}, "unknown", "efs/mountTarget"},
	{
		"A30", "an agent on port 18080", "minimal", func(c *changed) { c.renumber(c.port("coder"), 18080) },
		"coder-machine -> an admin port of the proxies: never", "18080",
	},
	{"A36", "a rule of which the plan does not say the network", "shared", func(c *changed) {
		c.route("0.0.0.0/0", "natGatewayId", ref{"ec2/natGateway", "-nat-a"})
		c.allow(graph.Unknown, "tcp")
	}, "coder-machine -> the internet or another network: never: indeterminate", "-nat-a"},
	{"5.3", "a proxy that sends to a range of ports", "minimal", func(c *changed) {
		c.add("vpc/securityGroupEgressRule", "mistake-out", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 0.0, "toPort": 65535.0,
		})
		c.openEgress()
	}, "-proxies-service -> the internet: only tcp/443, tcp/8443: fails", "mistake-out"},
	{"5.3", "a proxy that asks anybody's resolver", "shared", func(c *changed) {
		c.add("vpc/securityGroupEgressRule", "mistake-out", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "udp", "fromPort": 53.0, "toPort": 53.0,
		})
		c.openEgress()
	}, "-proxies-service -> the internet: only tcp/443, tcp/8443: fails", ":53"},
	{"5.3", "no way out for the proxies", "minimal", func(c *changed) {
		c.lose("ec2/route", "-proxies-out-a")
		c.lose("ec2/route", "-proxies-out-b")
	}, "-proxies-service -> the internet, tcp/443: must: fails", ""},
	{"5.3", "a zone from which the proxies do not get out", "minimal", func(c *changed) {
		c.lose("ec2/route", "-proxies-out-b")
	}, "-proxies-service -> the internet, tcp/443: must: fails: no path leads there, from prod-network-proxies-b", ""},
	{"5.3", "a zone from which agents do not reach the gate", "minimal", func(c *changed) {
		c.closed("-agents-agents-b", "-network-agents-default")
	}, "coder-machine -> the proxies: must: fails: no path leads there, from prod-network-agents-b", ""},
	{"5.3", "a zone whose proxies nobody reaches", "minimal", func(c *changed) {
		c.closed("-egress-proxies-b", "-network-egress-default")
		lb := c.get("lb/loadBalancer", "-balancer")
		lb.Inputs["subnets"] = lb.Inputs["subnets"].([]any)[:1]
		lb.PropertyDependencies["subnets"] = []string{c.get("ec2/subnet", "-network-proxies-a").URN}
	}, "coder-machine -> the proxies: must: fails: " +
		"no path leads to prod-proxies-service in prod-network-proxies-b", ""},
	{"5.3", "a control plane with a way out", "minimal", func(c *changed) {
		c.openControl("EgressRule", "0.0.0.0/0")
		c.add("ec2/route", "mistake-route", map[string]any{
			"routeTableId": ref{"ec2/routeTable", "-network-control-a"}, "destinationCidrBlock": "0.0.0.0/0",
			"natGatewayId": ref{"ec2/natGateway", "-nat-a"},
		})
	}, "-control-service -> the internet: never: fails", "-nat-a"},
	{"5.3", "a control plane that sends to a range of ports", "shared", func(c *changed) {
		c.add("vpc/securityGroupEgressRule", "mistake-out", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 0.0, "toPort": 65535.0,
		})
		c.openEgress()
	}, "-control-service -> the internet: only tcp/443, tcp/8443: fails", "mistake-out"},
	{"5.3", "a control plane that reaches a peering", "minimal", func(c *changed) {
		c.openControl("EgressRule", "10.99.0.0/16")
		c.join("-network-control-a", "vpcPeeringConnectionId")
	}, "-control-service -> another network: never: fails", "10.99.0.0:443"},
	{"5.3", "a peering that reaches the control plane", "minimal", func(c *changed) {
		c.openControl("IngressRule", "10.99.0.0/16")
		c.join("-network-control-a", "vpcPeeringConnectionId")
		c.openEgress()
	}, "another network -> the control plane: never: fails", "10.99.0.0"},
	{"5.3", "a VPN that reaches the endpoints", "minimal", func(c *changed) {
		c.open("IngressRule", "-fence-services", "10.99.0.0/16", 443)
		c.get("ec2/routeTable", "-network-services-b").Inputs["propagatingVgws"] = []any{graph.Unknown}
		c.openEgress()
	}, "another network -> an endpoint of the cloud's API: never: fails", "propagated"},
	{"5.3", "a transit gateway that reaches the gate", "minimal", func(c *changed) {
		c.open("IngressRule", "-fence-gate", "10.99.0.0/16", c.port("coder"))
		c.join("-network-gate", "transitGatewayId")
		c.add("ec2/networkAclRule", "mistake-acl", map[string]any{
			"networkAclId": ref{"ec2/networkAcl", "-network-gate"}, "egress": false, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "10.99.0.0/16",
		})
	}, "another network -> the gate: never: fails", "mistake-join"},
	{"5.3", "a transit gateway that reaches the proxies", "shared", func(c *changed) {
		c.open("IngressRule", "-fence-proxies", "10.99.0.0/16", c.port("coder"))
		c.join("-network-proxies-a", "transitGatewayId")
	}, "another network -> a proxy: never: fails", "mistake-join"},
	{"5.3", "a control plane that its group keeps from its secrets", "minimal", func(c *changed) {
		c.lose("vpc/securityGroupEgressRule", "-fence-control-services")
	}, "-control-service -> secretsmanager of the cloud: must: fails: no path leads there", ""},
	{"5.3", "no endpoint for secrets", "minimal", func(c *changed) {
		c.lose("ec2/vpcEndpoint", "-endpoints-secretsmanager")
	}, "-control-service -> secretsmanager of the cloud: must: fails: no path leads there", ""},
	{"5.3", "a zone from which the control plane reads no bundle", "minimal", func(c *changed) {
		c.lose("ec2/vpcEndpointRouteTableAssociation", "-endpoints-s3-control-b")
	}, "-control-service -> s3 of the cloud: must: fails: no path leads there, from prod-network-control-b", ""},
	{"5.3", "an ACL that drops what an endpoint answers", "minimal", func(c *changed) {
		c.closed("-egress-services-a", "-network-egress-default")
		c.closed("-egress-services-b", "-network-egress-default")
	}, "-control-service -> logs of the cloud: must: fails", ""},
	{"5.3", "no way to the cloud for a control plane without endpoints", "shared", func(c *changed) {
		c.lose("ec2/route", "-control-out-a")
	}, "-control-service -> secretsmanager of the cloud: must: fails: no path leads there", ""},
	{"5.3", "a machine that the internet reaches", "minimal", func(c *changed) {
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 22.0, "toPort": 22.0,
		})
		c.openEgress()
		c.add("ec2/instance", "mistake-box", map[string]any{
			"subnetId": ref{"ec2/subnet", "-network-control-a"}, "associatePublicIpAddress": true,
			"vpcSecurityGroupIds": ref{"ec2/securityGroup", "-fence-control"},
		})
	}, "the internet -> anything: never: fails", "mistake-box"},
	{"5.3", "an Elastic IP address of a machine", "minimal", func(c *changed) {
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 22.0, "toPort": 22.0,
		})
		c.openEgress()
		c.add("ec2/instance", "mistake-box", map[string]any{
			"subnetId":            ref{"ec2/subnet", "-network-control-a"},
			"vpcSecurityGroupIds": ref{"ec2/securityGroup", "-fence-control"},
		})
		c.add("ec2/eip", "mistake-address", map[string]any{"instance": ref{"ec2/instance", "mistake-box"}})
	}, "the internet -> anything: never: fails", "mistake-box"},
	{"5.3", "a load balancer on the internet", "shared", func(c *changed) {
		c.get("lb/loadBalancer", "-balancer").Inputs["internal"] = false
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-gate"}, "cidrIpv4": "0.0.0.0/0",
			"ipProtocol": "tcp", "fromPort": 10000.0, "toPort": 10000.0,
		})
		c.add("ec2/networkAclRule", "mistake-acl", map[string]any{
			"networkAclId": ref{"ec2/networkAcl", "-network-gate"}, "egress": false, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0",
		})
	}, "the internet -> anything: never: fails", "mistake-in"},
	{"5.3", "IPv6 from the internet", "minimal", func(c *changed) {
		c.get("ec2/subnet", "-network-control-a").Inputs["assignIpv6AddressOnCreation"] = true
		c.add("ec2/networkAclRule", "mistake-acl", map[string]any{
			"networkAclId": ref{"ec2/networkAcl", "-network-egress"}, "egress": false, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "ipv6CidrBlock": "::/0",
		})
		c.add("vpc/securityGroupIngressRule", "mistake-in", map[string]any{
			"securityGroupId": ref{"ec2/securityGroup", "-fence-control"}, "cidrIpv6": "::/0", "ipProtocol": "-1",
		})
	}, "the internet -> anything: never: fails", "mistake-in"},
	{"5.3", "a database with a public address", "minimal", func(c *changed) {
		c.add("rds/instance", "mistake", map[string]any{"publiclyAccessible": true})
	}, "the internet -> mistake: never: fails", ""},
	{"5.3", "a cluster whose API is public unless somebody says otherwise", "minimal", func(c *changed) {
		c.add("eks/cluster", "mistake", map[string]any{"vpcConfig": map[string]any{}})
	}, "the internet -> mistake: never: fails", ""},
	{"5.3", "a function with a URL", "minimal", func(c *changed) {
		c.add("lambda/functionUrl", "mistake", map[string]any{"authorizationType": "AWS_IAM"})
	}, "the internet -> mistake: never: fails", ""},
	{"5.3", "a database of which nobody knows whether it is public", "minimal", func(c *changed) {
		c.add("rds/instance", "mistake", map[string]any{"publiclyAccessible": graph.Unknown})
	}, "the internet -> mistake: never: indeterminate", ""},
}

// elsewhere are the traps that are no matter of the planned network. Each has the guardrails that
// catch it as a mistake in the tests of components/aws and policies/proxy, or a sentence of
// docs/limits.md.
var elsewhere = [][3]string{
	{"A3", "a name that the proxies ask for before they decide", "PRX-03, DNS-06"},
	{"A19", "a connection that outlives its rule", "PRX-08"},
	{"A27", "the time service and DHCP", "residual: The time service and DHCP answer an agent's machine"},
	{"A29", "insiders who read the log", "AUD-06"},
	{"A31", "fronting", "PRX-04"},
	{"A32", "an allowed name that resolves to a private address", "PRX-06, IMD-05"},
	{"A33", "the agent's own key at an allowed host", "PRX-07"},
	{"A34", "wildcards on shared hosting", "PRX-09"},
	{"A35", "a secret in the plan", "SEC-01, SEC-02, SEC-03"},
}

func TestEveryTrapIsCaught(t *testing.T) {
	t.Parallel()
	table, seen := "trap, caught by:\n", map[string]bool{}
	for _, trap := range traps {
		c := reference(t, trap.in)
		trap.change(c)
		seen[trap.id] = true
		got := ""
		p := aws.Prove(c.Graph, nil, false)
		for _, v := range p.Verdicts {
			line := strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", v.Assertion, v.Result, v.Note), ": ")
			if v.Result != reach.Holds && strings.Contains(line, trap.caught) && strings.Contains(fmt.Sprintf("%+v",
				v.Witness), trap.names) {
				got = line
			}
		}
		for _, u := range p.Unknown {
			if trap.caught == "unknown" && strings.Contains(u.Type, trap.names) {
				got = fmt.Sprintf("unknown: %s: %s", u.Type, u.Why)
			}
		}
		if !assertCaught(t, trap.id+" "+trap.what, got, p) {
			continue
		}
		table += fmt.Sprintf("  %-4s %-55s %s\n", trap.id, trap.what, got)
	}
	for _, other := range elsewhere {
		table += fmt.Sprintf("  %-4s %-55s %s\n", other[0], other[1], other[2])
		seen[other[0]] = true
		if sentence, ok := strings.CutPrefix(other[2], "residual: "); ok {
			limits, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "limits.md"))
			require.NoError(t, err)
			require.Contains(t, string(limits), sentence)
			continue
		}
		for _, id := range strings.Split(other[2], ", ") {
			require.NotNil(t, guardrail.Of(id, guardrail.Rails), id)
			shown := ""
			for _, file := range []string{"components/aws/guardrail_test.go", "policies/proxy/proxy_test.go"} {
				text, err := os.ReadFile(filepath.Join("..", "..", "..", file))
				require.NoError(t, err)
				shown += string(text)
			}
			require.True(t, slices.ContainsFunc(strings.Split(shown, "\n\t{\""), func(mistake string) bool {
				return strings.HasPrefix(mistake, other[0]+`", `) && strings.Contains(mistake, `"`+id+`"`)
			}), "no mistake shows that %s catches %s", id, other[0])
		}
	}
	for n := 1; n <= 36; n++ {
		require.True(t, seen[fmt.Sprint("A", n)], n)
	}
	t.Log(table)
}

// TestTheControlPlaneHasTwoControls: in the isolated mode its group and its routes each keep it
// from the internet. With a wider group the routes alone do, and the mistake is found.
func TestTheControlPlaneHasTwoControls(t *testing.T) {
	t.Parallel()
	const says = "prod-control-service -> the internet: never"
	without := func(c *changed) (out []string) {
		for _, m := range reach.Mistakes(aws.Read(c.Graph, nil)) {
			if m.Opens == says {
				out = append(out, m.Control.String())
			}
		}
		return out
	}
	for _, name := range []string{"minimal", "fargate"} {
		c := reference(t, name)
		require.Empty(t, without(c))
		c.add("ec2/route", "mistake-route", map[string]any{
			"routeTableId": ref{"ec2/routeTable", "-network-control-a"}, "destinationCidrBlock": "0.0.0.0/0",
			"natGatewayId": ref{"ec2/natGateway", "-nat-a"},
		})
		require.True(t, slices.ContainsFunc(aws.Prove(c.Graph, nil, false).Verdicts, func(v reach.Verdict) bool {
			return v.Assertion == says && v.Result == reach.Holds
		}))
		c.lose("ec2/route", "mistake-route")
		c.openControl("EgressRule", "0.0.0.0/0")
		require.Equal(t, []string{
			"route table prod-network-control-a", "route table prod-network-control-b",
		}, without(c))
	}
}

func assertCaught(t *testing.T, trap, got string, p *reach.Proof) bool {
	t.Helper()
	if got != "" {
		return true
	}
	var text strings.Builder
	require.NoError(t, p.Print(&text))
	t.Errorf("%s is not caught:\n%s", trap, text.String())
	return false
}

func TestTheReferenceHolds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "fargate", "shared"} {
		p := aws.Prove(reference(t, name).Graph, nil, false)
		var text strings.Builder
		require.NoError(t, p.Print(&text))
		require.True(t, p.Holds(), text.String())
	}
}

// TestOneMistakeOpensNoWayOut: in the isolated mode no single mistake leads to the internet or to a
// resolver. What one mistake does open is known, and written down in docs/preview.md.
func TestOneMistakeOpensNoWayOut(t *testing.T) {
	t.Parallel()
	var opens []string
	for _, m := range aws.Prove(reference(t, "minimal").Graph, nil, true).Mistakes {
		require.NotEmpty(t, m.Witness)
		if strings.HasPrefix(m.Opens, "prod-agent-coder-") {
			opens = append(opens, m.Control.String()+": "+strings.TrimPrefix(m.Opens, "prod-agent-coder-machine -> "))
		}
	}
	slices.Sort(opens)
	require.Equal(t, []string{
		"no role of prod-agent-coder-machine: credentials of the metadata service: never",
		"own group, not prod-fence-agent-tester, of prod-agent-coder-machine: another agent's port at the " +
			"proxies: never",
		"own group, not prod-fence-gate, of prod-agent-tester-machine: an agent: never",
		"target of listener prod-proxies-coder: an admin port of the proxies: never",
		"target of listener prod-proxies-coder: another agent's port at the proxies: never",
	}, opens)
	c := reference(t, "minimal")
	machine := c.get("ec2/launchTemplate", "-agent-coder-machine")
	machine.Inputs["metadataOptions"] = map[string]any{"httpEndpoint": "disabled"}
	for _, m := range aws.Prove(c.Graph, nil, true).Mistakes {
		require.NotEqual(t, "prod-agent-coder-machine -> credentials of the metadata service: never", m.Opens)
	}
}
