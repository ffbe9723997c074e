package aws

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan/cloud"
)

// needsOf returns all that a resource depends on, in whatever way, by URN.
func needsOf(g *graph.Graph, r *graph.Resource) map[string]bool {
	byURN := map[string]*graph.Resource{}
	for i := range g.Resources {
		byURN[g.Resources[i].URN] = &g.Resources[i]
	}
	seen := map[string]bool{}
	var visit func(r *graph.Resource)
	visit = func(r *graph.Resource) {
		needs := slices.Clone(r.Dependencies)
		for _, urns := range r.PropertyDependencies {
			needs = append(needs, urns...)
		}
		for _, urn := range needs {
			if next := byURN[urn]; next != nil && !seen[urn] {
				seen[urn] = true
				visit(next)
			}
		}
	}
	visit(r)
	return seen
}

// kindOf is ec2/route for aws:ec2/route:Route.
func kindOf(r *graph.Resource) string {
	_, kind, _ := strings.Cut(r.Type, ":")
	kind, _, _ = strings.Cut(kind, ":")
	return kind
}

// starting are the kinds of what runs, and scaling those of what only makes more or less of it
// run.
var (
	starting = []string{"ecs/service", "autoscaling/group"}
	scaling  = []string{"appautoscaling/target", "appautoscaling/policy", "autoscaling/policy"}
)

// TestNothingStartsBeforeWhatItNeeds: what runs begins when all else is there, and ends before
// anything of it goes: the way to registry and secrets, every layer of the fence, the policies of
// roles, secrets and endpoints, the firewall of the resolver, and the way of the events into the
// log.
func TestNothingStartsBeforeWhatItNeeds(t *testing.T) {
	t.Parallel()
	needed := []string{
		"ec2/vpcEndpoint", "ec2/route", "ec2/natGateway", "ec2/routeTableAssociation",
		"ec2/networkAclAssociation", "ec2/networkAclRule",
		"vpc/securityGroupEgressRule", "vpc/securityGroupIngressRule", "iam/rolePolicy",
		"secretsmanager/secretPolicy", "lb/listener",
		"route53/resolverFirewallRule", "route53/resolverFirewallConfig",
		"route53/resolverFirewallRuleGroupAssociation",
		"cloudwatch/logSubscriptionFilter", "s3/bucketPolicy", "ec2/flowLog",
	}
	for name := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, args := captured(t, name)
			started, kinds := 0, map[string]bool{}
			for i := range g.Resources {
				r := &g.Resources[i]
				kinds[kindOf(r)] = true
				if !slices.Contains(starting, kindOf(r)) {
					continue
				}
				started++
				needs := needsOf(g, r)
				for j := range g.Resources {
					other := &g.Resources[j]
					if slices.Contains(starting, kindOf(other)) || slices.Contains(scaling, kindOf(other)) ||
						!other.Custom || strings.HasPrefix(other.Type, "pulumi:") {
						continue
					}
					require.Contains(t, needs, other.URN, "%s does not wait for %s %s", r.Name, other.Type, other.Name)
				}
			}
			require.Equal(t, 2+len(args.AWS.Agents), started)
			for _, kind := range needed {
				require.Contains(t, kinds, kind, "the test is about these")
			}
			if args.AWS.Mode == cloud.ModeIsolated {
				require.Contains(t, kinds, "ec2/vpcEndpointConnectionAccepter")
			}
		})
	}
}

// TestPolicyComesFirst: what AWS tries when it is made is allowed by then, and a firewall has its
// rules before a network has the firewall.
func TestPolicyComesFirst(t *testing.T) {
	t.Parallel()
	for name := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, _ := captured(t, name)
			policies := map[string]string{} // of roles
			for i := range g.Resources {
				if r := &g.Resources[i]; kindOf(r) == "iam/rolePolicy" {
					policies[g.Refers(r, "role", "aws:iam/role:Role").URN] = r.URN
				}
			}
			checked := map[string]int{}
			for i := range g.Resources {
				r := &g.Resources[i]
				var needs []string
				switch kindOf(r) {
				case "cloudwatch/logSubscriptionFilter", "kinesis/firehoseDeliveryStream":
					for _, urns := range r.PropertyDependencies {
						for _, urn := range urns {
							if p := policies[urn]; p != "" {
								needs = append(needs, p)
							}
						}
					}
				case "route53/resolverFirewallRuleGroupAssociation":
					for j := range g.Resources {
						if kindOf(&g.Resources[j]) == "route53/resolverFirewallRule" {
							needs = append(needs, g.Resources[j].URN)
						}
					}
				default:
					continue
				}
				require.NotEmpty(t, needs, r.Name)
				checked[kindOf(r)]++
				there := needsOf(g, r)
				for _, urn := range needs {
					require.Contains(t, there, urn, "%s comes before it", r.Name)
				}
			}
			require.Equal(t, map[string]int{
				"cloudwatch/logSubscriptionFilter": 2, "kinesis/firehoseDeliveryStream": 1, "route53/resolverFirewallRuleGroupAssociation": 1,
			}, checked)
		})
	}
}

// sealing are the actions on a resource that is encrypted with a key of ours, and what the caller
// needs of the key for each.
var sealing = map[string][]string{
	"firehose:PutRecord": {"kms:Decrypt", "kms:GenerateDataKey"}, "firehose:PutRecordBatch": {"kms:Decrypt", "kms:GenerateDataKey"},
	"secretsmanager:GetSecretValue": {"kms:Decrypt"}, "secretsmanager:PutSecretValue": {"kms:Decrypt", "kms:GenerateDataKey"},
	"s3:PutObject": {"kms:Decrypt", "kms:GenerateDataKey"}, "s3:GetObject": {"kms:Decrypt"},
	"sns:Publish": {"kms:Decrypt", "kms:GenerateDataKey"},
}

// TestWhoUsesWhatIsSealedHasTheKey: every identity that may use an encrypted resource may use its
// key, and so may every service that the resource's own policy lets in.
func TestWhoUsesWhatIsSealedHasTheKey(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		keys := map[string]string{} // of resources, by ARN
		for _, r := range g.all {
			kind := r.token[strings.LastIndexByte(r.token, ':')+1:]
			arn := "arn:aws:" + strings.ToLower(kind) + ":eu-west-1:123456789012:" + kind + "/" + r.name
			switch r.token {
			case "aws:kinesis/firehoseDeliveryStream:FirehoseDeliveryStream":
				keys[arn] = r.inputs["serverSideEncryption"].ObjectValue()["keyArn"].StringValue()
			case "aws:secretsmanager/secret:Secret":
				keys[arn] = r.text("kmsKeyId")
			case "aws:sns/topic:Topic":
				keys[arn] = r.text("kmsMasterKeyId")
			case "aws:s3/bucketServerSideEncryptionConfigurationV2:BucketServerSideEncryptionConfigurationV2":
				of := r.inputs["rules"].ArrayValue()[0].ObjectValue()["applyServerSideEncryptionByDefault"].ObjectValue()
				if key, ok := of["kmsMasterKeyId"]; ok {
					keys["arn:aws:bucketv2:eu-west-1:123456789012:BucketV2/"+r.name] = key.StringValue()
				}
			}
		}
		for arn, key := range keys {
			require.NotEmpty(t, key, arn)
		}
		uses := map[string]int{}
		for at, p := range g.policies(t) {
			identity := strings.HasPrefix(at, "aws:iam/") && !strings.Contains(at, "|assumeRolePolicy")
			if !identity {
				continue
			}
			allowed := map[string]bool{} // action and key
			for _, s := range p.Statement {
				for _, action := range s.Action {
					for _, r := range s.Resource {
						allowed[action+" "+string(r)] = s.Effect == document.Allow
					}
				}
			}
			for _, s := range p.Statement {
				for _, action := range s.Action {
					for _, r := range s.Resource {
						for arn, key := range keys {
							// The operators' secrets are those with the stack's tag.
							every := strings.HasSuffix(string(r), ":secret:*") && strings.HasPrefix(arn, "arn:aws:secret:")
							if s.Effect != document.Allow || arn != strings.TrimSuffix(string(r), "/*") && !every {
								continue
							}
							for _, need := range sealing[action] {
								uses[action]++
								require.True(t, allowed[need+" "+key], "%s: %s of %s needs %s of %s", at, action, r, need, key)
							}
						}
					}
				}
			}
		}
		for _, action := range []string{
			"firehose:PutRecordBatch", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "s3:PutObject", "s3:GetObject",
		} {
			require.NotZero(t, uses[action], "%s: the test sees it", action)
		}
		// The topic's caller is a service, which the key's own policy lets in.
		topic := g.one(t, "aws:sns/topic:Topic", "").text("kmsMasterKeyId")
		require.Contains(t, topic, "audit-key")
		require.NotNil(t, g.statement(t, "aws:kms/key:Key|prod-audit-key|policy", "Alarms"))
		require.NotNil(t, g.statement(t, "aws:kms/key:Key|prod-audit-key|policy", "Logs"))
	})
}

// TestNamesOfTasksGo: Cloud Map deletes no service with instances, and ECS removes them some time
// after their tasks.
func TestNamesOfTasksGo(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		name := g.one(t, "aws:servicediscovery/service:Service", "-control-name")
		require.True(t, name.inputs["forceDestroy"].BoolValue())
		require.Equal(t, 1, int(name.inputs["healthCheckCustomConfig"].ObjectValue()["failureThreshold"].NumberValue()))
	})
}

// TestWaitsForAPolicy: before there is a policy, and before the secrets have values, nothing is
// replaced for ever, and nothing gives up.
func TestWaitsForAPolicy(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, r := range g.of("aws:ecs/service:Service") {
			breaker, ok := r.inputs["deploymentCircuitBreaker"]
			require.False(t, ok && breaker.ObjectValue()["enable"].BoolValue(), "%s: ECS gives up on a first deployment", r.name)
			if !strings.Contains(r.name, "-agent-") {
				require.Equal(t, 100, r.number("deploymentMinimumHealthyPercent"), "%s: a deployment that fails stops nobody", r.name)
			}
			if _, balanced := r.inputs["loadBalancers"]; balanced {
				require.GreaterOrEqual(t, r.number("healthCheckGracePeriodSeconds"), 7*24*3600, r.name)
			}
		}
		for _, r := range g.of("aws:autoscaling/group:Group") {
			require.Equal(t, "EC2", r.text("healthCheckType"), "%s: no proxy is ready without a policy", r.name)
		}
	})
}

// TestEndpointsHaveFixedAddresses: where somebody counts on an address, AWS chooses none.
func TestEndpointsHaveFixedAddresses(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		taken := map[string]string{}
		for i := range args.AWS.Zones {
			taken[args.AWS.Gate(i).String()] = "the gate"
		}
		ranges := map[string]netip.Prefix{}
		for _, r := range g.of(tokenSubnet) {
			ranges[r.id()] = netip.MustParsePrefix(r.text("cidrBlock"))
		}
		for _, r := range g.of(tokenEndpoint) {
			subnets := r.texts("subnetIds")
			if len(subnets) == 0 || !strings.Contains(subnets[0], "-network-gate-") {
				continue
			}
			fixed := r.inputs["subnetConfigurations"]
			require.True(t, fixed.IsArray(), "%s: AWS may choose the gate's address", r.name)
			require.Len(t, fixed.ArrayValue(), len(subnets), r.name)
			for _, x := range fixed.ArrayValue() {
				address, subnet := x.ObjectValue()["ipv4"].StringValue(), ranges[x.ObjectValue()["subnetId"].StringValue()]
				host := netip.MustParseAddr(address)
				require.True(t, subnet.Contains(host))
				offset := int(host.As4()[3]) - int(subnet.Addr().As4()[3])
				require.True(t, offset >= 4 && offset <= 14, "%s: AWS keeps %s", r.name, address)
				if strings.HasSuffix(r.name, "-gate-endpoint") {
					require.Equal(t, "the gate", taken[address])
					continue
				}
				require.Empty(t, taken[address], "%s has %s too", r.name, address)
				taken[address] = r.name
			}
		}
		platform := map[bool]int{true: 4}[args.AWS.FargateAgents()]
		require.Len(t, taken, len(args.AWS.Zones)*(1+platform))
	})
}

// TestRulesSayWhatTheyAreFor: a zone, a resolver or an agent on Fargate that comes or goes leaves
// every other rule of a network ACL as it is: no name means another rule, and no rule has another
// number.
func TestRulesSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	agent := func(compute string) string {
		return `
  agents:
    coder: {image: ` + repo + `coder` + digest + compute + `}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0}`
	}
	machine := agent(`, ami: ami-0123456789abcdef0`)
	for name, change := range map[string][2]string{
		"a zone more":         {"\n  zones: [a, b]" + machine, "\n  zones: [a, b, c]" + machine},
		"a zone less":         {"\n  zones: [a, b, c]" + machine, "\n  zones: [a, c]" + machine},
		"another order":       {"\n  zones: [a, b]" + machine, "\n  zones: [b, a]" + machine},
		"shared, a zone more": {"\n  mode: shared\n  zones: [b, c]" + machine, "\n  mode: shared\n  zones: [a, b, c]" + machine},
		"first on fargate":    {"\n  zones: 3" + machine, "\n  zones: 3" + agent(", compute: fargate")},
		"first resolver":      {"\n  zones: 3" + machine, "\n  zones: 3" + machine + "\nproxies: {resolvers: [\"192.0.2.53:53\"]}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, after := declareAll(t, load(t, change[0])), declareAll(t, load(t, change[1]))
			rules := map[string]*declaredResource{}
			for _, r := range before.of(tokenACLRule) {
				rules[r.name] = r
			}
			same := 0
			for _, r := range after.of(tokenACLRule) {
				if old := rules[r.name]; old != nil {
					require.Equal(t, old.inputs, r.inputs, r.name)
					same++
				}
			}
			require.Greater(t, same, 10)
			subnets := map[string]string{}
			for _, r := range before.of(tokenSubnet) {
				subnets[r.name] = r.text("cidrBlock") + r.text("availabilityZone")
			}
			for _, r := range after.of(tokenSubnet) {
				if old := subnets[r.name]; old != "" {
					require.Equal(t, old, r.text("cidrBlock")+r.text("availabilityZone"), r.name)
				}
			}
		})
	}
}

// lets reports whether a network ACL lets a packet through: to or from an address, to a port.
func (g *declarations) lets(acl string, egress bool, protocol string, there netip.Addr, port int) bool {
	for _, r := range g.inOrder() {
		if !strings.HasSuffix(r.text("networkAclId"), acl) || r.inputs["egress"].BoolValue() != egress {
			continue
		}
		p := r.text("protocol")
		if p != "-1" && (p != protocol || port < r.number("fromPort") || port > r.number("toPort")) {
			continue
		}
		if netip.MustParsePrefix(r.text("cidrBlock")).Contains(there) {
			return r.text("ruleAction") == "allow"
		}
	}
	return false
}

// TestResolversAreReached: a question to a resolver of the policy passes every border on its way,
// over the NAT gateway, and so does the answer.
func TestResolversAreReached(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		const client, egress = 40000, "-network-egress"
		proxy := args.AWS.Subnet(cloud.TierProxies, 0).Addr().Next()
		for _, r := range cloud.Resolvers(args.Plan) {
			there, port := r.Addr(), int(r.Port())
			for _, protocol := range []string{"udp", "tcp"} {
				require.True(t, g.lets(egress, true, protocol, there, port), "out of the proxies' subnet")
				require.True(t, g.lets(egress, false, protocol, proxy, port), "into the NAT gateway's subnet: the packet is still the proxy's")
				require.True(t, g.lets(egress, true, protocol, there, port), "out to the internet")
				require.True(t, g.lets(egress, false, protocol, there, client), "the answer to the NAT gateway")
				require.True(t, g.lets(egress, true, protocol, proxy, client), "the answer out of the NAT gateway's subnet")
				require.True(t, g.lets(egress, false, protocol, there, client), "the answer into the proxies' subnet")
			}
			require.False(t, g.lets(egress, true, "udp", there, port+1))
		}
		if len(cloud.Resolvers(args.Plan)) == 0 {
			require.False(t, g.lets(egress, true, "udp", netip.MustParseAddr("192.0.2.53"), 53), "none was named")
		}
	})
}

// TestBucketsOfThePolicyAreReached: what the policy allows leaves by the NAT gateways. The
// endpoint of S3, whose policy allows the stack's own buckets only, is the control plane's.
func TestBucketsOfThePolicyAreReached(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		all := g.of("aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation")
		require.Len(t, all, len(args.AWS.Zones))
		for _, r := range all {
			require.Contains(t, r.text("routeTableId"), "-network-control-", r.name)
		}
	})
}

// TestAgentsHaveNoPortOfOurs: neither the stack file nor the name of an agent makes a port of the
// proxies or the control plane an agent's identity, and no program does that declares it itself.
func TestAgentsHaveNoPortOfOurs(t *testing.T) {
	t.Parallel()
	args := load(t, variants["minimal"])
	var taken []int
	for _, c := range []document.Container{document.Proxy{}.Container(), document.Controller{}.Container()} {
		for _, p := range c.PortMappings {
			taken = append(taken, int(p.ContainerPort))
		}
	}
	require.Equal(t, []int{18080, 18000}, taken)
	for _, port := range append(taken, 9901, 443, 0) {
		args.AWS.Agents[0].Port = uint16(port)
		require.ErrorContains(t, args.check(false), "is not for agents")
	}
	args.AWS.Agents[0].Port, args.Plan.Agents[0].Port = 18001, 18001
	require.NoError(t, args.check(false))
}
