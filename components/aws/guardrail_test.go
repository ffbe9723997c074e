package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/policies/guardrail"
)

// captured returns what the components declare for a variant.
func captured(t *testing.T, variant string) (*graph.Graph, *EnvironmentArgs) {
	t.Helper()
	args := load(t, variants[variant])
	result, err := capture.Run(func(ctx *pulumi.Context) error {
		_, err := NewEnvironment(ctx, "prod", args)
		return err
	}, capture.Options{Project: "postern", Stack: "prod", Region: args.AWS.Region, Account: args.AWS.Account})
	require.NoError(t, err)
	return result.Graph, args
}

// accepted are the warnings about the reference environment, by guardrail.
var accepted = map[string]string{
	"IMD-03": "user data of an agent's machine comes from its metadata service, unless its image needs none",
}

// TestTheReferencePassesEveryGuardrail: also those for production, where an environment is for that.
func TestTheReferencePassesEveryGuardrail(t *testing.T) {
	t.Parallel()
	for name := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, args := captured(t, name)
			production := args.AWS.Mode == cloud.ModeIsolated && args.AWS.Protect
			report := guardrail.Check(g, guardrail.Options{
				Production: production, Plan: args.Plan, Waivers: residual(g, args),
			})
			var text strings.Builder
			require.NoError(t, report.Print(&text))
			require.False(t, report.Blocks(), text.String())
			for _, f := range report.Findings {
				if production && f.Waiver == nil {
					require.Contains(t, accepted, f.Rail, text.String())
				}
			}
			require.Greater(t, report.Resources, 100)
		})
	}
}

// mistakes are those of section 4.1 of our design that a guardrail is named for, each in its smallest
// form, and more of the same kind. A resource that is added is called mistake.
var mistakes = []struct {
	trap, what string
	in         string // the variant
	change     func(c *mistaken)
	// caught is the guardrail, and at the end of the resource's name.
	caught, at string
}{
	{"A1", "a resolver without a firewall", "minimal", func(c *mistaken) {
		c.set("ec2/vpc", "-network-agents", "enableDnsSupport", true)
		c.lose("route53/resolverFirewallRuleGroupAssociation", "-dns-agents")
	}, "DNS-01", "-network-agents"},
	{"A1", "a firewall that blocks one type of record", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallRule", "-dns-agents-block", "qType", "A")
	}, "DNS-02", "-dns-agents-block"},
	{"A1", "a firewall that only counts", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallRule", "-dns-agents-block", "action", "ALERT")
	}, "DNS-02", "-dns-agents-block"},
	{"A1", "a firewall that fails open", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallConfig", "-dns-agents", "firewallFailOpen", "ENABLED")
	}, "DNS-03", "-dns-agents"},
	{"A1", "a firewall that anybody takes off", "minimal", func(c *mistaken) {
		c.set("route53/resolverFirewallRuleGroupAssociation", "-dns-agents", "mutationProtection", "DISABLED")
	}, "DNS-03", "-dns-agents"},
	{"A1", "a firewall that lets every name through first", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallDomainList", "-dns-agents-allow", "domains", []any{"*"})
	}, "DNS-04", "-dns-agents-allow"},
	{"A1", "a resolver of which nobody sees what it is asked", "minimal", func(c *mistaken) {
		c.lose("route53/resolverQueryLogConfigAssociation", "-dns-probes")
	}, "DNS-05", "-network-agents"},
	{"A2", "aliases that their owner chooses", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallRule", "-dns-agents-allow", "firewallDomainRedirectionAction",
			"TRUST_REDIRECTION_DOMAIN")
	}, "DNS-04", "-dns-agents-allow"},
	{"A4", "metadata without a session", "minimal", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "metadataOptions", "httpTokens", "optional")
	}, "IMD-01", "-agent-coder-machine"},
	{"A4", "metadata for containers", "minimal", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "metadataOptions", "httpPutResponseHopLimit", 2.0)
	}, "IMD-02", "-agent-coder-machine"},
	{"A4", "metadata where there was none", "strict", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "metadataOptions", "httpEndpoint", "enabled")
	}, "IMD-03", "-agent-coder-machine"},
	{"A4", "a machine with a role", "minimal", func(c *mistaken) {
		c.set("ec2/launchTemplate", "-agent-coder-machine", "iamInstanceProfile", map[string]any{"arn": graph.Unknown})
	}, "IMD-04", "-agent-coder-machine"},
	{"A5", "a task with a role", "fargate", func(c *mistaken) {
		c.set("ecs/taskDefinition", "-agent-coder-task", "taskRoleArn", graph.Unknown)
	}, "IAM-01", "-agent-coder-task"},
	{"A6", "a gateway endpoint", "minimal", func(c *mistaken) {
		c.add("ec2/vpcEndpoint", map[string]any{
			"vpcId": agentsVPC, "serviceName": "com.amazonaws.eu-west-1.s3", "policy": openPolicy,
			"routeTableIds": refer{"ec2/routeTable", "-network-agents"},
		})
	}, "EPT-02", "mistake"},
	{"A6", "a gateway endpoint, by an association", "minimal", func(c *mistaken) {
		c.add("ec2/vpcEndpointRouteTableAssociation", map[string]any{
			"routeTableId": refer{"ec2/routeTable", "-network-agents"}, "vpcEndpointId": "vpce-0123456789abcdef0",
		})
	}, "EPT-02", "mistake"},
	{"A6", "a policy for everybody", "fargate", func(c *mistaken) {
		c.set("ec2/vpcEndpoint", "-agents-s3", "policy", openPolicy)
	}, "EPT-03", "-agents-s3"},
	{"A7", "an endpoint of another service", "minimal", func(c *mistaken) {
		c.add("ec2/vpcEndpoint", map[string]any{
			"vpcId": agentsVPC, "serviceName": "com.amazonaws.eu-west-1.sts", "vpcEndpointType": "Interface",
			"policy": openPolicy,
		})
	}, "EPT-01", "mistake"},
	{"A7", "an endpoint without a policy", "fargate", func(c *mistaken) {
		delete(c.get("ec2/vpcEndpoint", "-agents-logs").Inputs, "policy")
	}, "EPT-03", "-agents-logs"},
	{"A7", "a policy for strangers' keys", "fargate", func(c *mistaken) {
		c.set("ec2/vpcEndpoint", "-agents-logs", "policy", `{"Statement":{"Effect":"Allow","Principal":"*",`+
			`"Action":"logs:PutLogEvents","Resource":"arn:aws:logs:*:*:*"}}`)
	}, "EPT-04", "-agents-logs"},
	{"A8", "an endpoint of SSM", "fargate", func(c *mistaken) {
		c.add("ec2/vpcEndpoint", map[string]any{
			"vpcId": agentsVPC, "serviceName": "com.amazonaws.eu-west-1.ssmmessages", "vpcEndpointType": "Interface",
		})
	}, "EPT-06", "mistake"},
	{"A9", "an internet gateway", "minimal", func(c *mistaken) {
		c.add("ec2/internetGateway", map[string]any{"vpcId": agentsVPC})
	}, "NET-01", "mistake"},
	{"A9", "a NAT gateway in an agents' subnet", "minimal", func(c *mistaken) {
		c.add("ec2/natGateway", map[string]any{"subnetId": agentsSubnet})
	}, "NET-02", "mistake"},
	{"A9", "block public access, one way only", "strict", func(c *mistaken) {
		c.set("ec2/vpcBlockPublicAccessOptions", "", "internetGatewayBlockMode", "block-ingress")
	}, "NET-03", ""},
	{"A9", "block public access, not for agents", "strict", func(c *mistaken) {
		c.add("ec2/vpcBlockPublicAccessExclusion", map[string]any{
			"vpcId": agentsVPC, "internetGatewayExclusionMode": "allow-egress",
		})
	}, "NET-03", "mistake"},
	{"A9", "a public address", "minimal", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "networkInterfaces", "associatePublicIpAddress", "true")
	}, "NET-04", "-agent-coder-machine"},
	{"A9", "a task with a public address", "fargate", func(c *mistaken) {
		c.within("ecs/service", "-agent-coder-service", "networkConfiguration", "assignPublicIp", true)
	}, "NET-04", "-agent-coder-service"},
	{"A9", "a subnet that gives public addresses", "minimal", func(c *mistaken) {
		c.set("ec2/subnet", "-network-agents-a", "mapPublicIpOnLaunch", true)
	}, "NET-04", "-network-agents-a"},
	{"A10", "a route", "minimal", func(c *mistaken) {
		c.add("ec2/route", map[string]any{
			"routeTableId": refer{"ec2/routeTable", "-network-agents"}, "destinationCidrBlock": "0.0.0.0/0",
		})
	}, "NET-05", "mistake"},
	{"A10", "a subnet that uses the main table", "shared", func(c *mistaken) {
		c.lose("ec2/routeTableAssociation", "-network-agents-a")
	}, "NET-06", "-network-agents-a"},
	{"A10", "a main table with a route", "shared", func(c *mistaken) {
		c.set("ec2/defaultRouteTable", "-main", "routes", []any{map[string]any{"cidrBlock": "0.0.0.0/0"}})
	}, "NET-06", "-main"},
	{"A11", "IPv6 addresses", "minimal", func(c *mistaken) {
		c.set("ec2/subnet", "-network-agents-a", "assignIpv6AddressOnCreation", true)
	}, "NET-07", "-network-agents-a"},
	{"A11", "an egress-only gateway", "minimal", func(c *mistaken) {
		c.add("ec2/egressOnlyInternetGateway", map[string]any{"vpcId": agentsVPC})
	}, "NET-07", "mistake"},
	{"A11", "a rule for IPv6", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"cidrIpv6": "::/0"})
	}, "NET-08", "mistake"},
	{"A12", "a peering", "minimal", func(c *mistaken) {
		c.add("ec2/vpcPeeringConnection", map[string]any{"vpcId": agentsVPC, "peerVpcId": "vpc-0123456789abcdef0"})
	}, "NET-09", "mistake"},
	{"A12", "a propagated VPN", "minimal", func(c *mistaken) {
		c.set("ec2/routeTable", "-network-agents", "propagatingVgws", []any{graph.Unknown})
	}, "NET-05", "-network-agents"},
	{"A12", "a transit gateway for everybody", "minimal", func(c *mistaken) {
		c.add("ec2transitgateway/transitGateway", map[string]any{"autoAcceptSharedAttachments": "enable"})
	}, "NET-10", "mistake"},
	{"A13", "VPC Lattice", "minimal", func(c *mistaken) {
		c.add("vpclattice/serviceNetworkVpcAssociation", map[string]any{"vpcIdentifier": agentsVPC})
	}, "NET-11", "mistake"},
	{"A14", "a route that is longer than the network's", "minimal", func(c *mistaken) {
		c.add("ec2/route", map[string]any{
			"routeTableId": refer{"ec2/routeTable", "-network-agents"}, "destinationCidrBlock": "10.64.0.0/28",
			"networkInterfaceId": "eni-0123456789abcdef0",
		})
	}, "NET-05", "mistake"},
	{"A15", "a second interface", "minimal", func(c *mistaken) {
		t := c.get("ec2/launchTemplate", "-agent-coder-machine")
		t.Inputs["networkInterfaces"] = append(t.Inputs["networkInterfaces"].([]any), map[string]any{"deviceIndex": 1.0})
	}, "CMP-03", "-agent-coder-machine"},
	{"A16", "another group", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-proxies"}})
	}, "NET-12", "mistake"},
	{"A16", "a prefix list", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"prefixListId": "pl-0123456789abcdef0"})
	}, "NET-12", "mistake"},
	{"A16", "a half of the internet", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"cidrIpv4": "0.0.0.0/1"})
	}, "NET-15", "mistake"},
	{"A16", "the whole network, in the group itself", "minimal", func(c *mistaken) {
		c.set("ec2/securityGroup", "-fence-agent-coder", "egress", []any{map[string]any{
			"protocol": "tcp", "fromPort": 443.0, "toPort": 443.0, "cidrBlocks": []any{"10.64.0.0/20"},
		}})
	}, "NET-15", "-fence-agent-coder"},
	{"A16", "an ACL for everywhere", "minimal", func(c *mistaken) {
		c.add("ec2/networkAclRule", map[string]any{
			"networkAclId": refer{"ec2/networkAcl", "-network-agents"}, "egress": true, "ruleNumber": 50.0,
			"ruleAction": "allow", "protocol": "tcp", "cidrBlock": "128.0.0.0/1",
		})
	}, "NET-21", "mistake"},
	{"A16", "a rule of a group that is only an ID", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"securityGroupId": "sg-0123456789abcdef0", "cidrIpv4": "0.0.0.0/0"})
	}, "NET-12", "mistake"},
	{"A10", "a route in a table that is only an ID", "minimal", func(c *mistaken) {
		c.add("ec2/route", map[string]any{"routeTableId": "rtb-0123456789abcdef0", "destinationCidrBlock": "0.0.0.0/0"})
	}, "NET-05", "mistake"},
	{"A17", "a group that reaches itself", "minimal", func(c *mistaken) {
		c.rule(map[string]any{"referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-agent-coder"}})
	}, "NET-14", "mistake"},
	{"A17", "a group that takes another agent's connections", "minimal", func(c *mistaken) {
		c.add("vpc/securityGroupIngressRule", map[string]any{
			"securityGroupId":           refer{"ec2/securityGroup", "-fence-agent-coder"},
			"referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-agent-tester"},
			"ipProtocol":                "tcp", "fromPort": 22.0, "toPort": 22.0,
		})
	}, "NET-14", "mistake"},
	{"A18", "QUIC", "minimal", func(c *mistaken) {
		c.rule(map[string]any{
			"ipProtocol": "udp", "referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-gate"},
		})
	}, "NET-13", "mistake"},
	{"A18", "a range of ports", "minimal", func(c *mistaken) {
		c.rule(map[string]any{
			"fromPort": 1.0, "toPort": 65535.0, "referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-gate"},
		})
	}, "NET-13", "mistake"},
	{"A19", "connections that stay open when a proxy is taken away", "minimal", func(c *mistaken) {
		c.set("lb/targetGroup", "-proxies-coder", "connectionTermination", false)
	}, "PRX-08", "-proxies-coder"},
	{"A20", "a load balancer without groups", "minimal", func(c *mistaken) {
		c.set("lb/loadBalancer", "", "securityGroups", nil)
	}, "NET-16", ""},
	{"A20", "a load balancer on the internet", "minimal", func(c *mistaken) {
		c.set("lb/loadBalancer", "", "internal", false)
	}, "NET-16", ""},
	{"A21", "no header that says who connects", "minimal", func(c *mistaken) {
		c.set("lb/targetGroup", "-proxies-coder", "proxyProtocolV2", false)
	}, "PRX-05", "-proxies-coder"},
	{"A22", "agents that reach the proxies themselves", "shared", func(c *mistaken) {
		c.add("vpc/securityGroupIngressRule", map[string]any{
			"securityGroupId":           refer{"ec2/securityGroup", "-fence-proxies"},
			"referencedSecurityGroupId": refer{"ec2/securityGroup", "-fence-agent-coder"},
			"ipProtocol":                "tcp", "fromPort": 10000.0, "toPort": 10000.0,
		})
	}, "NET-17", "mistake"},
	{"A22", "anybody who reaches the proxies", "shared", func(c *mistaken) {
		c.add("vpc/securityGroupIngressRule", map[string]any{
			"securityGroupId": refer{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "10.64.0.0/19",
			"ipProtocol": "tcp", "fromPort": 10000.0, "toPort": 10000.0,
		})
	}, "NET-17", "mistake"},
	{"A23", "a service for everybody", "minimal", func(c *mistaken) {
		c.set("ec2/vpcEndpointService", "", "allowedPrincipals", []any{"*"})
	}, "NET-18", ""},
	{"A23", "a service that accepts by itself", "minimal", func(c *mistaken) {
		c.set("ec2/vpcEndpointService", "", "acceptanceRequired", false)
	}, "NET-18", ""},
	{"A23", "somebody's endpoint, which is accepted by its ID", "minimal", func(c *mistaken) {
		c.add("ec2/vpcEndpointConnectionAccepter", map[string]any{
			"vpcEndpointServiceId": refer{"ec2/vpcEndpointService", "-gate-service"},
			"vpcEndpointId":        "vpce-0123456789abcdef0",
		})
	}, "NET-18", "mistake"},
	{"-", "a machine of nobody's, with an agent's group", "minimal", func(c *mistaken) {
		c.add("ec2/instance", map[string]any{
			"subnetId": agentsSubnet, "vpcSecurityGroupIds": refer{"ec2/securityGroup", "-fence-agent-coder"},
		})
	}, "TYP-04", "mistake"},
	{"-", "machines of nobody's, next to the proxies", "minimal", func(c *mistaken) {
		c.add("autoscaling/group", map[string]any{"vpcZoneIdentifiers": refer{"ec2/subnet", "-network-proxies-a"}})
	}, "TYP-04", "mistake"},
	{"-", "a function of nobody's, in the agents' subnet", "minimal", func(c *mistaken) {
		c.add("lambda/function", map[string]any{"vpcConfig": agentsSubnet})
	}, "TYP-04", "mistake"},
	{"-", "a role that nobody knows", "minimal", func(c *mistaken) {
		c.add("ec2/instance", map[string]any{
			"subnetId": agentsSubnet, "tags": map[string]any{graph.TagRole: "agent"},
		})
	}, "TYP-04", "mistake"},
	{"-", "a type that nobody knows, next to the proxies", "minimal", func(c *mistaken) {
		c.add("batch/computeEnvironment", map[string]any{"subnets": refer{"ec2/subnet", "-network-proxies-a"}})
	}, "TYP-01", "mistake"},
	{"A17", "a group of an agent's second template", "minimal", func(c *mistaken) {
		c.add("ec2/securityGroup", map[string]any{"vpcId": agentsVPC, "egress": []any{map[string]any{
			"protocol": "tcp", "fromPort": 443.0, "toPort": 443.0, "cidrBlocks": []any{"10.64.0.0/20"},
		}}})
		c.add("ec2/launchTemplate", map[string]any{"vpcSecurityGroupIds": refer{"ec2/securityGroup", "mistake"}})
		pool := c.get("autoscaling/group", "-agent-coder-machine")
		pool.Inputs["mixedInstancesPolicy"] = map[string]any{"launchTemplate": map[string]any{}}
		pool.PropertyDependencies["mixedInstancesPolicy"] = []string{c.get("ec2/launchTemplate", "mistake").URN}
	}, "NET-15", "mistake"},
	{"A11", "a machine with an IPv6 address", "minimal", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "networkInterfaces", "ipv6AddressCount", 1.0)
	}, "NET-07", "-agent-coder-machine"},
	{"A9", "a carrier's address", "minimal", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-agent-coder-machine", "networkInterfaces", "associateCarrierIpAddress", "true")
	}, "NET-04", "-agent-coder-machine"},
	{"A24", "an EC2 Instance Connect endpoint", "minimal", func(c *mistaken) {
		c.add("ec2transitgateway/instanceConnectEndpoint", map[string]any{"subnetId": agentsSubnet})
	}, "CMP-05", "mistake"},
	{"A24", "a key pair", "minimal", func(c *mistaken) {
		c.set("ec2/launchTemplate", "-agent-coder-machine", "keyName", "ops")
	}, "CMP-05", "-agent-coder-machine"},
	{"A25", "a subnet that another account uses", "minimal", func(c *mistaken) {
		c.add("ram/resourceAssociation", map[string]any{"resourceArn": agentsSubnet})
	}, "NET-19", "mistake"},
	{"A26", "a box that forwards", "minimal", func(c *mistaken) {
		c.add("ec2/instance", map[string]any{
			"subnetId": agentsSubnet, "sourceDestCheck": false, "metadataOptions": map[string]any{"httpTokens": "required"},
		})
	}, "CMP-04", "mistake"},
	{"A28", "a file system that others mount", "minimal", func(c *mistaken) {
		c.add("efs/mountTarget", map[string]any{"subnetId": agentsSubnet})
	}, "NET-15", "mistake"},
	{"A29", "a log in which everybody reads an agent's keys", "fargate", func(c *mistaken) {
		c.lose("cloudwatch/logDataProtectionPolicy", "-audit-agents")
	}, "AUD-06", "-audit-agents"},
	{"A30", "an agent on the port of the health check", "minimal", func(c *mistaken) {
		c.set("lb/targetGroup", "-proxies-coder", "port", 18080.0)
	}, "PRX-01", "-proxies-coder"},
	{"A32", "metadata of a proxy by IPv6", "strict", func(c *mistaken) {
		c.within("ec2/launchTemplate", "-proxies-machine", "metadataOptions", "httpProtocolIpv6", "enabled")
	}, "IMD-05", "-proxies-machine"},
	{"A35", "the value of a secret", "minimal", func(c *mistaken) {
		c.add("secretsmanager/secretVersion", map[string]any{"secretId": refer{"secretsmanager/secret", "ca-key"}})
	}, "SEC-01", "mistake"},
	{"A35", "a secret that every role may read", "minimal", func(c *mistaken) {
		c.lose("secretsmanager/secretPolicy", "-ca-key")
	}, "SEC-02", "ca-key"},
	{"A35", "a key in user data", "minimal", func(c *mistaken) {
		c.set("ec2/launchTemplate", "-agent-coder-machine", "userData", base64.StdEncoding.EncodeToString([]byte(
			"export AWS_ACCESS_KEY_ID="+"AKIA"+"IOSFODNN7EXAMPLQ")))
	}, "SEC-03", "-agent-coder-machine"},
	{"-", "a role for everything", "minimal", func(c *mistaken) {
		c.set("iam/rolePolicy", "-control-task", "policy", openPolicy)
	}, "IAM-02", "-control-task"},
	{"-", "a role for all secrets", "minimal", func(c *mistaken) {
		c.set("iam/rolePolicy", "-control-task", "policy", `{"Statement":[{"Effect":"Allow",`+
			`"Action":"secretsmanager:Get*","Resource":"arn:aws:secretsmanager:eu-west-1:123456789012:secret:*"}]}`)
	}, "IAM-04", "-control-task"},
	{"-", "a role for every account's tasks", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "assumeRolePolicy", `{"Statement":[{"Effect":"Allow","Principal":`+
			`{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}`)
	}, "IAM-03", "-control-task"},
	{"-", "a bucket for everybody", "minimal", func(c *mistaken) {
		c.set("s3/bucketPolicy", "-audit-log", "policy", openPolicy)
	}, "IAM-09", "-audit-log"},
	{"-", "a key for all but one", "minimal", func(c *mistaken) {
		c.set("kms/key", "-secrets-key", "policy", `{"Statement":[{"Effect":"Deny","NotPrincipal":`+
			`{"AWS":"123456789012"},"Action":"kms:*","Resource":"*"}]}`)
	}, "IAM-09", "-secrets-key"},
	{"-", "a proxy with a role", "minimal", func(c *mistaken) {
		c.set("ecs/taskDefinition", "-proxies-task", "taskRoleArn", graph.Unknown)
	}, "IAM-05", "-proxies-task"},
	{"-", "a role without a boundary", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "permissionsBoundary", nil)
	}, "IAM-06", "-control-task"},
	{"-", "a privileged container", "minimal", func(c *mistaken) {
		c.set("ecs/taskDefinition", "-proxies-task", "containerDefinitions",
			`[{"name":"proxy","image":"x@sha256:0","privileged":true,"readonlyRootFilesystem":true}]`)
	}, "CMP-01", "-proxies-task"},
	{"-", "a default group that allows", "minimal", func(c *mistaken) {
		c.set("ec2/defaultSecurityGroup", "-agents-default", "egress", []any{map[string]any{"protocol": "-1"}})
	}, "NET-20", "-agents-default"},
	{"-", "a group for everybody", "minimal", func(c *mistaken) {
		c.add("vpc/securityGroupIngressRule", map[string]any{
			"securityGroupId": refer{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": "0.0.0.0/0", "ipProtocol": "tcp",
			"fromPort": 22.0, "toPort": 22.0,
		})
	}, "NET-24", "mistake"},
	{
		"-", "a network without flow logs", "minimal", func(c *mistaken) { c.lose("ec2/flowLog", "-agents") }, "AUD-03",
		"-network-agents",
	},
	{"-", "a log that is not locked", "minimal", func(c *mistaken) {
		c.lose("s3/bucketObjectLockConfigurationV2", "-audit-log")
	}, "AUD-02", ""},
	{"-", "a log for a month", "minimal", func(c *mistaken) {
		c.set("cloudwatch/logGroup", "-audit-proxies", "retentionInDays", 30.0)
	}, "AUD-01", "-audit-proxies"},
	{"-", "a key that stays", "minimal", func(c *mistaken) {
		c.set("kms/key", "-audit-key", "enableKeyRotation", false)
	}, "SEC-04", "-audit-key"},
	{"A1", "names below a registry", "fargate", func(c *mistaken) {
		c.set("route53/resolverFirewallDomainList", "-dns-agents-allow", "domains", []any{"api.example.com.", "*.co.uk."})
	}, "DNS-04", "-dns-agents-allow"},
	{"-", "a group for everybody, an eighth at a time", "minimal", func(c *mistaken) {
		for i, network := range []string{"3.0.0.0/8", "4.0.0.0/8", "3.128.0.0/9"} {
			c.add("vpc/securityGroupIngressRule", map[string]any{
				"securityGroupId": refer{"ec2/securityGroup", "-fence-control"}, "cidrIpv4": network, "ipProtocol": "tcp",
				"fromPort": 22.0, "toPort": 22.0,
			})
			last := c.get("vpc/securityGroupIngressRule", "mistake")
			last.Name, last.URN = fmt.Sprint("mistake-", i), fmt.Sprint(last.URN, i)
		}
		require.NoError(c.t, c.Complete())
	}, "NET-24", "-fence-control"},
	{"-", "everything in one zone", "minimal", func(c *mistaken) {
		for i := range c.Resources {
			if c.Resources[i].Type == "aws:ec2/subnet:Subnet" {
				c.Resources[i].Inputs["availabilityZone"] = "eu-west-1a"
			}
		}
	}, "NET-25", "-a"},
	{"-", "an endpoint for every address", "minimal", func(c *mistaken) {
		c.add("vpc/securityGroupIngressRule", map[string]any{
			"securityGroupId": refer{"ec2/securityGroup", "-fence-services"}, "cidrIpv4": "10.0.0.0/8", "ipProtocol": "tcp",
			"fromPort": 443.0, "toPort": 443.0, "description": "a mistake",
		})
	}, "EPT-07", "mistake"},
	{"-", "a group that nothing else stands behind", "strict", func(c *mistaken) {
		c.add("vpc/securityGroupEgressRule", map[string]any{
			"securityGroupId": refer{"ec2/securityGroup", "-fence-proxies"}, "cidrIpv4": "10.80.0.0/20",
			"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0, "description": "a mistake",
		})
	}, "FLT-01", "incoming rules of security group prod-fence-balancer"},
	{"-", "an ACL for every port", "minimal", func(c *mistaken) {
		c.add("ec2/networkAclRule", map[string]any{
			"networkAclId": refer{"ec2/networkAcl", "-network-egress"}, "egress": true, "ruleNumber": 50.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0",
		})
	}, "FLT-01", "outgoing rules of security group prod-fence-proxies"},
	{"-", "a role for another account, too", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "assumeRolePolicy", trusts(`{"Service":"ecs-tasks.amazonaws.com"}`,
			"123456789012", `{"AWS":"arn:aws:iam::999999999999:root"}`))
	}, "IAM-03", "-control-task"},
	{"-", "a role for another account's root only", "minimal", func(c *mistaken) {
		c.set("iam/role", "-proxies-execution", "assumeRolePolicy", `{"Statement":[{"Effect":"Allow","Principal":`+
			`{"AWS":"arn:aws:iam::999999999999:root"},"Action":"sts:AssumeRole"}]}`)
	}, "IAM-03", "-proxies-execution"},
	{"-", "a role for tasks and machines", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "assumeRolePolicy", trusts(`{"Service":"ecs-tasks.amazonaws.com"}`,
			"123456789012", `{"Service":"ec2.amazonaws.com"}`))
	}, "IAM-03", "-control-task"},
	{"-", "a role for another account's tasks", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "assumeRolePolicy", trusts(`{"Service":"ecs-tasks.amazonaws.com"}`,
			"999999999999"))
	}, "IAM-03", "-control-task"},
	{"-", "a role for every source", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "assumeRolePolicy", trusts(`{"Service":"ecs-tasks.amazonaws.com"}`, "*"))
	}, "IAM-03", "-control-task"},
	{"-", "a list of policies with one of AWS's", "minimal", func(c *mistaken) {
		c.set("iam/rolePolicyAttachmentsExclusive", "-proxies-execution", "policyArns",
			[]any{"arn:aws:iam::aws:policy/AdministratorAccess"})
	}, "IAM-02", "-proxies-execution"},
	{"-", "a boundary of AWS's", "minimal", func(c *mistaken) {
		c.set("iam/role", "-control-task", "permissionsBoundary", "arn:aws:iam::aws:policy/AdministratorAccess")
	}, "IAM-06", "-control-task"},
	{"-", "a boundary that bounds nothing", "minimal", func(c *mistaken) {
		c.set("iam/policy", "-boundary", "policy", openPolicy)
	}, "IAM-06", "-boundary"},
	{"-", "a policy for another account's keys, too", "fargate", func(c *mistaken) {
		c.set("ec2/vpcEndpoint", "-agents-logs", "policy", `{"Statement":{"Effect":"Allow","Principal":"*",`+
			`"Action":"logs:PutLogEvents","Resource":"arn:aws:logs:*:*:*","Condition":{"StringEquals":`+
			`{"aws:PrincipalAccount":["123456789012","999999999999"]}}}}`)
	}, "EPT-04", "-agents-logs"},
	{"-", "a policy for another organization's keys, too", "fargate", func(c *mistaken) {
		c.set("ec2/vpcEndpoint", "-agents-logs", "policy", `{"Statement":{"Effect":"Allow","Principal":"*",`+
			`"Action":"logs:PutLogEvents","Resource":"arn:aws:logs:*:*:*","Condition":{"StringEquals":`+
			`{"aws:PrincipalOrgID":["o-ours000000","o-stranger00"]}}}}`)
	}, "EPT-04", "-agents-logs"},
	{"-", "a second policy of a key", "minimal", func(c *mistaken) {
		c.add("kms/keyPolicy", map[string]any{"keyId": refer{"kms/key", "-secrets-key"}, "policy": openPolicy})
	}, "IAM-09", "mistake"},
	{"-", "a second policy of a secret", "minimal", func(c *mistaken) {
		c.set("secretsmanager/secret", "ca-key", "policy", openPolicy)
	}, "SEC-02", "ca-key"},
	{"-", "a secret's own policy for everybody", "minimal", func(c *mistaken) {
		c.set("secretsmanager/secret", "ca-key", "policy", openPolicy)
	}, "IAM-09", "ca-key"},
	{"-", "a key for another account", "minimal", func(c *mistaken) {
		c.set("kms/key", "-secrets-key", "policy", forAnother)
	}, "IAM-09", "-secrets-key"},
	{"-", "a log for another account", "minimal", func(c *mistaken) {
		c.set("s3/bucketPolicy", "-audit-log", "policy", forAnother)
	}, "IAM-09", "-audit-log"},
	{"-", "a log that goes with the stack", "minimal", func(c *mistaken) {
		c.set("s3/bucketV2", "-audit-log", "forceDestroy", true)
	}, "AUD-02", "-audit-log"},
	{"-", "a log that goes elsewhere", "minimal", func(c *mistaken) {
		stream := c.get("kinesis/firehoseDeliveryStream", "-audit-delivery")
		stream.PropertyDependencies["extendedS3Configuration"] = nil
	}, "AUD-02", "-audit-delivery"},
	{"-", "a log that nothing is sent to", "minimal", func(c *mistaken) {
		c.lose("cloudwatch/logSubscriptionFilter", "-audit-events")
		c.lose("cloudwatch/logSubscriptionFilter", "-audit-changes")
	}, "AUD-02", "-audit-delivery"},
	{"-", "an alarm that nobody hears", "minimal", func(c *mistaken) {
		c.set("cloudwatch/metricAlarm", "-ready", "alarmActions", nil)
	}, "AUD-07", "-ready"},
	{"-", "a type that nobody knows", "minimal", func(c *mistaken) {
		c.add("quicksight/vpcConnection", map[string]any{"subnetIds": agentsSubnet})
	}, "TYP-01", "mistake"},
}

// TestEveryMistakeIsCaught: by the guardrail that is for it, at the resource that is wrong.
func TestEveryMistakeIsCaught(t *testing.T) {
	t.Parallel()
	texts, before := map[string]string{}, map[string]bool{}
	check := func(g *graph.Graph) []guardrail.Finding {
		return guardrail.Check(g, guardrail.Options{Production: true}).Findings
	}
	for _, m := range mistakes {
		if texts[m.in] == "" {
			g, _ := captured(t, m.in)
			var b strings.Builder
			require.NoError(t, g.Encode(&b))
			texts[m.in] = b.String()
			for _, f := range check(g) {
				before[m.in+f.String()] = true
			}
		}
	}
	table := "trap, caught by:\n"
	for _, m := range mistakes {
		g, err := graph.Decode(strings.NewReader(texts[m.in]))
		require.NoError(t, err)
		m.change(&mistaken{t, g})
		got := ""
		for _, f := range check(g) {
			rail := guardrail.Of(m.caught, guardrail.Rails)
			stops := f.Severity == guardrail.Error || rail != nil && rail.Severity == guardrail.Warning
			if f.Rail == m.caught && strings.HasSuffix(f.Name, m.at) && stops && !before[m.in+f.String()] {
				got = f.String()
			}
		}
		if got == "" {
			t.Errorf("%s %s: not caught by %s", m.trap, m.what, m.caught)
		}
		table += fmt.Sprintf("  %-4s %-48s %s\n", m.trap, m.what, got)
	}
	g, args := captured(t, "shared")
	for _, m := range mistakesOfPolicy {
		encoded, err := args.Plan.Encode()
		require.NoError(t, err)
		p := &plan.Plan{}
		require.NoError(t, json.Unmarshal(encoded, p))
		of := func() (out []guardrail.Finding) {
			for _, f := range guardrail.Check(g, guardrail.Options{Production: true, Plan: p}).Findings {
				if f.Rail == m.caught {
					out = append(out, f)
				}
			}
			return out
		}
		require.Empty(t, of(), "the reference")
		p.Agents[0].Rules = append(p.Agents[0].Rules, m.rule)
		found := of()
		require.Len(t, found, 1, m.what)
		require.True(t, strings.HasSuffix(found[0].Name, m.at), found[0])
		table += fmt.Sprintf("  %-4s %-48s %s\n", m.trap, m.what, found[0])
	}
	t.Log(table)
}

// mistakesOfPolicy are those that a rule of the policy makes, by the guardrail that finds each.
var mistakesOfPolicy = []struct {
	trap, what string
	rule       plan.Rule
	caught, at string
}{
	{"A3", "a host that the firewall's list has not", plan.Rule{ID: "coder/x", Host: "x.test"}, "DNS-06", "-dns-vpc"},
	{"A31", "a destination that nobody verifies", plan.Rule{
		ID: "coder/x", Host: "x.test", Upstream: &plan.Upstream{Address: "10.1.2.3:80", Plain: true},
	}, "PRX-04", "coder/x"},
	{"A32", "a destination that answers with credentials", plan.Rule{
		ID: "coder/x", Host: "x.test", Upstream: &plan.Upstream{Address: "169.254.169.254:80"},
	}, "PRX-06", "coder/x"},
	{"A33", "the agent's own key", plan.Rule{ID: "coder/x", Host: "x.test", OwnCredentials: true}, "PRX-07", "coder/x"},
	{"A34", "a wildcard of shared hosting", plan.Rule{ID: "coder/x", Host: "*.run.app"}, "PRX-09", "coder/x"},
}
