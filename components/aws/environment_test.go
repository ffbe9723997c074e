package aws

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/policies/packet"
)

const (
	tokenAssociation = "aws:ec2/routeTableAssociation:RouteTableAssociation"
	tokenEgress      = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
	tokenIngress     = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
	tokenEndpoint    = "aws:ec2/vpcEndpoint:VpcEndpoint"
	tokenGroup       = "aws:ec2/securityGroup:SecurityGroup"
	tokenLaunch      = "aws:ec2/launchTemplate:LaunchTemplate"
	tokenRole        = "aws:iam/role:Role"
	tokenSubnet      = "aws:ec2/subnet:Subnet"
	tokenTable       = "aws:ec2/routeTable:RouteTable"
	tokenTask        = "aws:ecs/taskDefinition:TaskDefinition"
	tokenVPC         = "aws:ec2/vpc:Vpc"
)

// subnetsWithin are the subnets in a range.
func (g *declarations) subnetsWithin(t *testing.T, within netip.Prefix) []*declaredResource {
	t.Helper()
	var out []*declaredResource
	for _, r := range g.of(tokenSubnet) {
		if within.Contains(netip.MustParsePrefix(r.text("cidrBlock")).Addr()) {
			out = append(out, r)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// No packet of an agent is routed out of its own network.
func TestAgentsSubnetsHaveNoRoutes(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		tables := map[string]string{}
		for _, r := range g.of(tokenAssociation) {
			require.Empty(t, tables[r.text("subnetId")], "one table for each subnet")
			tables[r.text("subnetId")] = r.text("routeTableId")
		}
		agents := map[string]bool{}
		for _, subnet := range g.subnetsWithin(t, args.AWS.AgentsCIDR) {
			require.NotEmpty(t, tables[subnet.id()], "%s is associated explicitly: the main table is for nobody", subnet.name)
			agents[tables[subnet.id()]] = true
		}
		for _, r := range g.of(tokenTable) {
			require.NotContains(t, r.inputs, resource.PropertyKey("routes"), "routes are resources of their own")
			require.NotContains(t, r.inputs, resource.PropertyKey("propagatingVgws"))
		}
		for _, r := range g.of("aws:ec2/route:Route") {
			require.False(t, agents[r.text("routeTableId")], "%s", r.name)
		}
		for _, r := range g.of("aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation") {
			require.False(t, agents[r.text("routeTableId")], "%s", r.name)
		}
		for _, r := range g.all {
			for _, never := range []string{
				"egressOnly", "vpcPeering", "transitGateway", "vpnGateway", "vpclattice", "networkInterfaceAttachment", "instanceConnect", "resourceShare", "ipv6",
			} {
				require.NotContains(t, strings.ToLower(r.token), strings.ToLower(never))
			}
		}
	})
}

// In the isolated mode there is nothing in the agents' network but its subnets,
// and one way out.
func TestIsolatedNetworkHasOneWayOut(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		if args.AWS.Mode == cloud.ModeShared {
			require.Len(t, g.of(tokenVPC), 1)
			return
		}
		agents := g.one(t, tokenVPC, "-agents")
		require.Equal(t, args.AWS.FargateAgents(), agents.inputs["enableDnsSupport"].BoolValue(), "no resolver, unless the platform needs one")
		for _, r := range g.of("aws:ec2/internetGateway:InternetGateway") {
			require.NotEqual(t, agents.id(), r.text("vpcId"))
		}
		var names []string
		for _, r := range g.of(tokenEndpoint) {
			if r.text("vpcId") == agents.id() {
				names = append(names, strings.TrimPrefix(r.text("serviceName"), "com.amazonaws.eu-west-1."))
				require.Equal(t, "Interface", r.text("vpcEndpointType"))
			}
		}
		gate := "serviceName|prod-gate-service"
		if args.AWS.FargateAgents() {
			require.ElementsMatch(t, []string{gate, "ecr.api", "ecr.dkr", "logs", "s3"}, names)
		} else {
			require.Equal(t, []string{gate}, names)
		}
		service := g.one(t, "aws:ec2/vpcEndpointService:VpcEndpointService", "")
		require.True(t, service.inputs["acceptanceRequired"].BoolValue())
		require.Equal(t, []string{"arn:aws:iam::123456789012:root"}, service.texts("allowedPrincipals"))
	})
}

// The gates have the addresses that agents are told, and no name.
func TestGatesAreWhereAgentsAreTold(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		list, key := g.one(t, "aws:lb/loadBalancer:LoadBalancer", "").inputs["subnetMappings"], resource.PropertyKey("privateIpv4Address")
		if args.AWS.Mode == cloud.ModeIsolated {
			list, key = g.one(t, tokenEndpoint, "gate-endpoint").inputs["subnetConfigurations"], "ipv4"
		}
		var got []string
		subnets := map[string]netip.Prefix{}
		for _, r := range g.of(tokenSubnet) {
			subnets[r.id()] = netip.MustParsePrefix(r.text("cidrBlock"))
		}
		for _, x := range list.ArrayValue() {
			address := x.ObjectValue()[key].StringValue()
			require.True(t, subnets[x.ObjectValue()["subnetId"].StringValue()].Contains(netip.MustParseAddr(address)))
			got = append(got, address)
		}
		require.Len(t, got, len(args.AWS.Zones))
		for _, a := range args.AWS.Agents {
			machine := args.agentMachine(a, a.Image)
			require.Len(t, machine.Gates, len(got))
			for i, gate := range machine.Gates {
				require.Equal(t, netip.AddrPortFrom(netip.MustParseAddr(got[i]), a.Port), netip.MustParseAddrPort(gate))
			}
		}
	})
}

// What an agent's group lets out is one port of the gate, and for Fargate the
// endpoints that its platform needs. No two agents share anything.
func TestAgentsReachTheGateOnly(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		gate := g.one(t, tokenGroup, "-fence-gate").id()
		ports := map[int]string{}
		for _, a := range args.AWS.Agents {
			group := g.one(t, tokenGroup, "-fence-agent-"+a.Name)
			require.NotContains(t, group.inputs, resource.PropertyKey("egress"))
			require.NotContains(t, group.inputs, resource.PropertyKey("ingress"))
			var to []string
			for _, r := range g.of(tokenEgress) {
				if r.text("securityGroupId") != group.id() {
					continue
				}
				require.Equal(t, "tcp", r.text("ipProtocol"))
				require.Equal(t, r.number("fromPort"), r.number("toPort"))
				require.NotEmpty(t, r.text("referencedSecurityGroupId"), "never a range of addresses")
				to = append(to, r.text("referencedSecurityGroupId"))
				if r.text("referencedSecurityGroupId") == gate {
					require.Equal(t, int(a.Port), r.number("fromPort"))
					require.Empty(t, ports[r.number("fromPort")], "a port is one agent's identity")
					ports[r.number("fromPort")] = a.Name
				}
			}
			want := []string{gate}
			if a.Compute == cloud.ComputeFargate {
				want = append(want, g.one(t, tokenGroup, "-fence-platform").id())
			}
			require.ElementsMatch(t, want, to)
			for _, r := range g.of(tokenIngress) {
				require.NotEqual(t, group.id(), r.text("securityGroupId"), "nobody connects to an agent")
			}
		}
		// At the other end too: the gate takes each agent's group on that agent's port.
		for _, r := range g.of(tokenIngress) {
			if r.text("securityGroupId") == gate {
				from := r.text("referencedSecurityGroupId")
				require.Contains(t, from, "-fence-agent-"+ports[r.number("fromPort")])
			}
		}
	})
}

// Every rule says one port of TCP, and whom; only the proxies, and the control plane where it mints,
// go anywhere but into private networks like their own. UDP is for the policy's resolvers alone.
func TestRulesAreNarrow(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		outside, asked := map[string]packet.Set{}, []string{}
		to := func(ports ...uint16) (out packet.Set) {
			for _, p := range ports {
				out = out.Union(packet.On(packet.Span[uint8]{First: packet.TCP, Last: packet.TCP},
					packet.Span[uint16]{First: p, Last: p}))
			}
			everywhere, near := packet.To(netip.MustParsePrefix("0.0.0.0/0")), packet.To(netip.MustParsePrefix("10.0.0.0/8"))
			return out.Intersect(everywhere).Minus(near)
		}
		same := func(a, b packet.Set) bool { return a.Within(b) && b.Within(a) }
		for _, r := range append(g.of(tokenEgress), g.of(tokenIngress)...) {
			require.Positive(t, r.number("fromPort"))
			require.Equal(t, r.number("fromPort"), r.number("toPort"))
			require.NotEmpty(t, r.text("description"))
			require.Empty(t, r.text("cidrIpv6"))
			require.NotEqual(t, r.text("securityGroupId"), r.text("referencedSecurityGroupId"), "no group reaches itself")
			if strings.Contains(r.name, "-proxies-resolver-") {
				require.Equal(t, tokenEgress, r.token)
				require.Contains(t, r.text("securityGroupId"), "-fence-proxies")
				asked = append(asked, fmt.Sprintf("%s %s:%d", r.text("ipProtocol"), r.text("cidrIpv4"), r.number("fromPort")))
				continue
			}
			require.Equal(t, "tcp", r.text("ipProtocol"))
			cidr := r.text("cidrIpv4")
			switch {
			case r.token == tokenEgress && cidr != "":
				group := r.text("securityGroupId")
				group = group[strings.LastIndexByte(group, '-')+1:]
				ports := packet.On(packet.Span[uint8]{First: packet.TCP, Last: packet.TCP}, packet.Span[uint16]{
					First: uint16(r.number("fromPort")), Last: uint16(r.number("toPort")),
				})
				outside[group] = outside[group].Union(packet.To(netip.MustParsePrefix(cidr)).Intersect(ports))
			case cidr != "":
				require.Equal(t, args.AWS.AgentsCIDR.String(), cidr, "who comes through PrivateLink has an address and no group")
				require.Contains(t, r.text("securityGroupId"), "-fence-balancer")
			}
		}
		var resolvers []string
		for _, r := range args.Plan.Resolvers {
			ap := netip.MustParseAddrPort(r)
			resolvers = append(resolvers, fmt.Sprintf("udp %s/32:%d", ap.Addr(), ap.Port()), fmt.Sprintf("tcp %s/32:%d", ap.Addr(), ap.Port()))
		}
		require.ElementsMatch(t, resolvers, asked)
		require.True(t, same(outside["proxies"], to(443, 8443)), "the ports of the policy")
		delete(outside, "proxies")
		if args.controlGoesOut() {
			require.True(t, same(outside["control"], to(443)))
			delete(outside, "control")
		}
		require.Empty(t, outside)
		// The proxies are reached from the load balancer and from nobody else.
		proxies := g.one(t, tokenGroup, "-fence-proxies").id()
		balancer := g.one(t, "aws:lb/loadBalancer:LoadBalancer", "").texts("securityGroups")
		require.Len(t, balancer, 1)
		for _, r := range g.of(tokenIngress) {
			if r.text("securityGroupId") == proxies {
				require.Equal(t, balancer[0], r.text("referencedSecurityGroupId"))
			}
		}
	})
}

// The defaults of both networks hold nothing.
func TestDefaultsAreEmptied(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		vpcs := len(g.of(tokenVPC))
		for token, keys := range map[string][]resource.PropertyKey{
			"aws:ec2/defaultRouteTable:DefaultRouteTable": {"routes"}, "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": {"ingress", "egress"},
			"aws:ec2/defaultNetworkAcl:DefaultNetworkAcl": {"ingress", "egress"},
		} {
			require.Len(t, g.of(token), vpcs)
			for _, r := range g.of(token) {
				for _, key := range keys {
					v, ok := r.inputs[key]
					require.True(t, ok, "%s of %s: what is not said is left as it is", key, r.name)
					require.Empty(t, v.ArrayValue(), "%s of %s", key, r.name)
				}
			}
		}
		associated := map[string]bool{}
		for _, r := range g.of("aws:ec2/networkAclAssociation:NetworkAclAssociation") {
			associated[r.text("subnetId")] = true
		}
		for _, r := range g.of(tokenSubnet) {
			require.True(t, associated[r.id()], "%s: the default network ACL lets nothing through", r.name)
			require.False(t, r.inputs["mapPublicIpOnLaunch"].BoolValue())
			require.False(t, r.inputs["assignIpv6AddressOnCreation"].BoolValue())
		}
		numbers := map[string]bool{}
		for _, r := range g.of("aws:ec2/networkAclRule:NetworkAclRule") {
			key := r.text("networkAclId") + r.inputs["egress"].String() + r.inputs["ruleNumber"].String()
			require.False(t, numbers[key], "%s: two rules with a number", r.name)
			numbers[key] = true
			if strings.Contains(r.text("networkAclId"), "network-agents") {
				require.Equal(t, "tcp", r.text("protocol"))
				require.NotEqual(t, "0.0.0.0/0", r.text("cidrBlock"), "the second layer holds too")
			}
		}
	})
}

// An agent's machine is nobody, and has nothing worth stealing.
func TestAgentsAreNobody(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, a := range args.AWS.Agents {
			if a.Compute == cloud.ComputeFargate {
				require.NotContains(t, g.one(t, tokenTask, "agent-"+a.Name+"-task").inputs, resource.PropertyKey("taskRoleArn"))
				continue
			}
			m := g.one(t, tokenLaunch, "agent-"+a.Name+"-machine")
			for _, never := range []resource.PropertyKey{"iamInstanceProfile", "keyName", "securityGroupNames", "vpcSecurityGroupIds"} {
				require.NotContains(t, m.inputs, never)
			}
			group := g.one(t, "aws:autoscaling/group:Group", "agent-"+a.Name+"-machine")
			require.Len(t, group.texts("vpcZoneIdentifiers"), len(args.AWS.Zones))
			for _, subnet := range group.texts("vpcZoneIdentifiers") {
				require.Contains(t, subnet, "-network-agents-")
			}
			if a.Metadata == cloud.MetadataDisabled {
				require.NotContains(t, m.inputs, resource.PropertyKey("userData"), "nobody could read it")
				continue
			}
			data, err := base64.StdEncoding.DecodeString(m.text("userData"))
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(data), "#cloud-config\n"))
			require.NotRegexp(t, `(?i)secret|token|password|PRIVATE KEY|AKIA`, string(data))
		}
		for _, r := range g.of(tokenLaunch) {
			options := r.inputs["metadataOptions"].ObjectValue()
			require.Equal(t, "required", options["httpTokens"].StringValue())
			require.Equal(t, 1, int(options["httpPutResponseHopLimit"].NumberValue()))
			require.Equal(t, "disabled", options["httpProtocolIpv6"].StringValue())
			interfaces := r.inputs["networkInterfaces"].ArrayValue()
			require.Len(t, interfaces, 1)
			require.Equal(t, "false", interfaces[0].ObjectValue()["associatePublicIpAddress"].StringValue())
			for _, disk := range r.inputs["blockDeviceMappings"].ArrayValue() {
				require.Equal(t, "true", disk.ObjectValue()["ebs"].ObjectValue()["encrypted"].StringValue())
			}
		}
	})
}

// Only the control plane's task has a role, and every role has the boundary, one
// policy, and nothing attached.
func TestRoles(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		boundary := "arn:aws:policy:eu-west-1:123456789012:Policy/prod-boundary"
		policies, attached := map[string]int{}, map[string]bool{}
		for _, r := range g.of("aws:iam/rolePoliciesExclusive:RolePoliciesExclusive") {
			policies[r.text("roleName")] = len(r.texts("policyNames"))
		}
		for _, r := range g.of("aws:iam/rolePolicyAttachmentsExclusive:RolePolicyAttachmentsExclusive") {
			attached[r.text("roleName")] = len(r.texts("policyArns")) == 0
		}
		for _, r := range g.of(tokenRole) {
			require.Equal(t, boundary, r.text("permissionsBoundary"), r.name)
			require.Equal(t, 1, policies[r.name], r.name)
			require.True(t, attached[r.name], r.name)
			require.Equal(t, "/postern/prod/", r.text("path"))
		}
		for _, r := range g.of(tokenTask) {
			role, execution := r.text("taskRoleArn"), r.text("executionRoleArn")
			require.NotEmpty(t, execution)
			require.NotEqual(t, role, execution)
			if strings.HasSuffix(r.name, "-control-task") {
				require.Contains(t, role, "control-task")
			} else {
				require.Empty(t, role, r.name)
			}
		}
		require.Empty(t, g.of("aws:iam/user:User"))
		require.Empty(t, g.of("aws:iam/rolePolicyAttachment:RolePolicyAttachment"))
	})
}

// What has to be a wildcard, by the statement's name: with its reason in package document.
var wildcards = map[string]bool{
	"Registry": true, "Look": true, "Administrators": true, "Logs": true, "Alarms": true,
}

// Nobody is allowed anything that has no name, and no resource trusts everybody.
func TestPoliciesAreNarrow(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for at, p := range g.policies(t) {
			require.Equal(t, "2012-10-17", p.Version)
			sids := map[string]bool{}
			for _, s := range p.Statement {
				require.False(t, sids[s.Sid], "%s: two statements %s", at, s.Sid)
				sids[s.Sid] = true
				if s.Effect == document.Deny {
					continue
				}
				require.Equal(t, document.Allow, s.Effect)
				for _, action := range s.Action {
					require.False(t, strings.Contains(action, "*") && s.Sid != "Administrators", "%s: %s", at, action)
				}
				if slices.Contains(s.Resource, "*") {
					require.True(t, wildcards[s.Sid], "%s: %s is about every resource", at, s.Sid)
				}
				if s.Principal == nil {
					continue
				}
				if slices.Contains(s.Principal.AWS, "*") {
					require.Contains(t, at, tokenEndpoint, "%s: %s is for everybody", at, s.Sid)
					require.NotEmpty(t, s.Condition, "%s: %s is for everybody", at, s.Sid)
				}
				if len(s.Principal.Service) > 0 && !strings.Contains(strings.Join(s.Principal.Service, " "), "ec2.amazonaws.com") {
					require.NotEmpty(t, s.Condition, "%s: %s is for a service, for whomever it works", at, s.Sid)
				}
			}
		}
		for _, r := range g.of(tokenEndpoint) {
			if strings.HasPrefix(r.text("serviceName"), "com.amazonaws.") {
				require.NotEmpty(t, r.text("policy"), "%s: the default policy allows everything to everybody", r.name)
			}
		}
	})
}

// The control plane reads the secrets that the policy names, and no other.
func TestControlPlaneReadsNamedSecrets(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		var names []string
		for _, r := range g.of("aws:secretsmanager/secret:Secret") {
			names = append(names, r.text("name"))
		}
		require.ElementsMatch(t, []string{"postern/prod/ca-key", "postern/prod/fleet-ca-key", "postern/prod/join-token", "postern/prod/join-tokens", "prod/api", "prod/other"}, names)
		policies := g.policies(t)
		control := policies["aws:iam/rolePolicy:RolePolicy|prod-control-task|policy"]
		var read []string
		elsewhere := false
		for _, s := range control.Statement {
			if s.Effect == document.Deny {
				elsewhere = len(s.Condition) > 0
				continue
			}
			if s.Sid == "Secrets" {
				for _, x := range s.Resource {
					read = append(read, string(x))
				}
			}
			require.NotContains(t, s.Action, "secretsmanager:PutSecretValue")
		}
		require.Equal(t, []string{"arn:aws:secret:eu-west-1:123456789012:Secret/prod/api", "arn:aws:secret:eu-west-1:123456789012:Secret/prod/other"}, trimmed(read))
		require.True(t, elsewhere, "not from elsewhere")
		require.Len(t, g.of("aws:secretsmanager/secretPolicy:SecretPolicy"), len(names), "each says who reads it")
		for _, r := range g.all {
			require.NotContains(t, strings.ToLower(r.token), "secretversion", "Pulumi never has a value")
		}
	})
}

func trimmed(arns []string) []string {
	out := slices.Clone(arns)
	for i := range out {
		out[i] = strings.Replace(out[i], "Secret/prod-secrets-", "Secret/", 1)
	}
	return out
}

// What must not be lost is protected, encrypted and kept.
func TestAuditIsKept(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		log := g.one(t, "aws:s3/bucketV2:BucketV2", "-audit-log")
		locks := g.of("aws:s3/bucketObjectLockConfigurationV2:BucketObjectLockConfigurationV2")
		require.Equal(t, args.AWS.Audit.Lock > 0, log.inputs["objectLockEnabled"].BoolValue())
		if args.AWS.Audit.Lock > 0 {
			require.Len(t, locks, 1)
			retention := locks[0].inputs["rule"].ObjectValue()["defaultRetention"].ObjectValue()
			require.Equal(t, "COMPLIANCE", retention["mode"].StringValue())
			require.Equal(t, args.AWS.Audit.Lock, int(retention["days"].NumberValue()))
		} else {
			require.Empty(t, locks)
		}
		for _, token := range []string{
			"aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", "aws:s3/bucketPolicy:BucketPolicy", "aws:s3/bucketVersioningV2:BucketVersioningV2",
			"aws:s3/bucketServerSideEncryptionConfigurationV2:BucketServerSideEncryptionConfigurationV2",
		} {
			require.Len(t, g.of(token), len(g.of("aws:s3/bucketV2:BucketV2")))
		}
		for _, r := range g.of("aws:cloudwatch/logGroup:LogGroup") {
			require.NotEmpty(t, r.text("kmsKeyId"))
			require.Equal(t, args.AWS.Audit.Retention, r.number("retentionInDays"))
		}
		for _, r := range g.of("aws:kms/key:Key") {
			require.True(t, r.inputs["enableKeyRotation"].BoolValue())
			require.Equal(t, args.AWS.Protect, r.protect)
		}
		require.Equal(t, args.AWS.Protect, log.protect)
		require.Equal(t, args.AWS.Protect, g.one(t, "aws:secretsmanager/secret:Secret", "ca-key").protect)
		require.Len(t, g.of("aws:ec2/flowLog:FlowLog"), len(g.of(tokenVPC)))
		require.Len(t, g.of("aws:route53/resolverQueryLogConfigAssociation:ResolverQueryLogConfigAssociation"), len(g.of(tokenVPC)))
		require.GreaterOrEqual(t, len(g.of("aws:cloudwatch/metricAlarm:MetricAlarm")), 5)
	})
}

// Where there is a resolver, it answers to what is listed and to nothing else.
func TestResolversFailClosed(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		// Where the resolver is the proxies' too, what an allowed name is an alias
		// of is for its owner to say; for the names of AWS's own nothing follows.
		aliases := map[string]string{"ALLOW": "INSPECT_REDIRECTION_DOMAIN", "BLOCK": "INSPECT_REDIRECTION_DOMAIN"}
		if args.AWS.Mode == cloud.ModeShared {
			aliases["ALLOW"] = "TRUST_REDIRECTION_DOMAIN"
		}
		lists := map[string][]string{}
		for _, r := range g.of("aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList") {
			lists[r.id()] = r.texts("domains")
		}
		last, blocks := 0, false
		for _, r := range g.of("aws:route53/resolverFirewallRule:ResolverFirewallRule") {
			require.Equal(t, aliases[r.text("action")], r.text("firewallDomainRedirectionAction"))
			if r.number("priority") > last {
				last, blocks = r.number("priority"), r.text("action") == "BLOCK" && slices.Equal(lists[r.text("firewallDomainListId")], []string{"*."})
			}
			if r.text("action") == "ALLOW" {
				for _, name := range lists[r.text("firewallDomainListId")] {
					require.NotContains(t, []string{"*", "*.", "*.com.", "*.amazonaws.com."}, name)
				}
			}
		}
		require.True(t, blocks, "the last rule blocks everything")
		require.Equal(t, "DISABLED", g.one(t, "aws:route53/resolverFirewallConfig:ResolverFirewallConfig", "").text("firewallFailOpen"))
		require.Equal(t, map[bool]string{true: "ENABLED", false: "DISABLED"}[args.AWS.Protect],
			g.one(t, "aws:route53/resolverFirewallRuleGroupAssociation:ResolverFirewallRuleGroupAssociation", "").text("mutationProtection"), "destroy cannot take off what is protected")
	})
}

// The load balancer serves each agent on its port, tells the proxies who
// connects, and sends nobody to a proxy that is not ready.
func TestBalancer(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		b := g.one(t, "aws:lb/loadBalancer:LoadBalancer", "")
		require.True(t, b.inputs["internal"].BoolValue())
		require.Equal(t, "on", b.text("enforceSecurityGroupInboundRulesOnPrivateLinkTraffic"))
		require.Equal(t, args.AWS.Protect, b.inputs["enableDeletionProtection"].BoolValue())
		require.Len(t, g.of("aws:lb/listener:Listener"), len(args.AWS.Agents))
		for _, r := range g.of("aws:lb/targetGroup:TargetGroup") {
			require.True(t, r.inputs["proxyProtocolV2"].BoolValue())
			health := r.inputs["healthCheck"].ObjectValue()
			require.Equal(t, "/readyz", health["path"].StringValue())
			require.NotEqual(t, "traffic-port", health["port"].StringValue())
			// A proxy under load keeps its tunnels.
			states := r.inputs["targetHealthStates"].ArrayValue()
			require.Len(t, states, 1)
			require.False(t, states[0].ObjectValue()["enableUnhealthyConnectionTermination"].BoolValue())
			require.Equal(t, 300, int(states[0].ObjectValue()["unhealthyDrainingInterval"].NumberValue()))
			require.GreaterOrEqual(t, int(health["unhealthyThreshold"].NumberValue()), 3)
		}
	})
}

// Whoever finds a resource in the account knows whose it is.
func TestTagsTellStackAndRole(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, r := range g.all {
			tags, ok := r.inputs["tags"]
			if !ok || !tags.IsObject() {
				continue
			}
			require.Equal(t, "prod", tags.ObjectValue()["postern:stack"].StringValue(), r.name)
			require.NotEmpty(t, tags.ObjectValue()["postern:role"].StringValue(), r.name)
			require.NotEmpty(t, tags.ObjectValue()["Name"].StringValue(), r.name)
			for key, value := range args.AWS.Tags {
				require.Equal(t, value, tags.ObjectValue()[resource.PropertyKey(key)].StringValue())
			}
		}
		names := map[string]bool{}
		for _, r := range g.all {
			require.False(t, names[r.id()], "two resources %s", r.id())
			names[r.id()] = true
			if strings.HasPrefix(r.token, "aws:") {
				require.NotEmpty(t, r.parent, r.name)
			}
		}
	})
}

func TestSingletonsOnlyIfAsked(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		block := g.of("aws:ec2/vpcBlockPublicAccessOptions:VpcBlockPublicAccessOptions")
		require.Len(t, block, map[bool]int{true: 1}[args.AWS.Singletons])
		for _, r := range block {
			require.True(t, r.retain, "destroy opens no other network")
			for _, zone := range args.AWS.Zones {
				require.Contains(t, strings.Join(r.dependencies, " "), "unblocked-"+zone[len(zone)-1:],
					"the proxies' way out is not cut")
			}
		}
		for _, r := range g.of("aws:ec2/vpcBlockPublicAccessExclusion:VpcBlockPublicAccessExclusion") {
			require.Contains(t, r.text("subnetId"), "-network-public-")
			require.Equal(t, "allow-egress", r.text("internetGatewayExclusionMode"))
		}
	})
}
