package aws

import (
	"slices"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/cloudwatch"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/route53"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// A security group does not see what is asked of the resolver of a VPC, which
// answers at an address of its own: that is a way out. So the agents' network
// has no resolver, and behind that a firewall that would block every name.
// Where a resolver must be (Fargate, the shared mode) the firewall lets the
// names through that must be, and answers nothing to the rest.

// What an allowed name that is an alias of another one allows.
const (
	// inspect wants every name of the chain allowed.
	inspect = "INSPECT_REDIRECTION_DOMAIN"
	// trust allows what the owner of an allowed name makes it an alias of.
	trust = "TRUST_REDIRECTION_DOMAIN"
)

// newDNS declares the firewalls and logs of the resolvers.
func newDNS(parent *scope, n *network, a *auditLog) {
	s := parent.component("FenceDNS", "dns")
	names := platformNames(s.args)
	groups := []pulumi.StringInput{a.group(groupDNS)}
	outputs := pulumi.Map{}
	switch {
	case s.args.AWS.Mode == cloud.ModeShared:
		// Destinations are aliases of names of whoever serves them, which change:
		// buckets, networks that distribute content. Whom an alias leads to is up
		// to the owner of the allowed name, and not to the agent.
		outputs["firewall"] = firewall(s, "vpc", n.egress, append(names, policyNames(s.args)...), trust).Arn
	case s.args.Existing == nil:
		if !s.args.AWS.FargateAgents() {
			names = nil
		}
		outputs["firewall"] = firewall(s, "agents", n.agents, names, inspect).Arn
		groups = append(groups, a.group(groupProbes))
	}
	allowed := add(s, cloudwatch.NewLogResourcePolicy, "queries", &cloudwatch.LogResourcePolicyArgs{
		PolicyName: pulumi.String("postern-" + s.stack + "-queries"),
		PolicyDocument: written(func(v []string) string {
			return document.ResolverLogs(s.args.place(), v...).Text()
		}, groups...),
	})
	queries(s, "queries", n.egress, a.groups[groupDNS], allowed)
	if s.args.ownAgentsVPC() {
		queries(s, "probes", n.agents, a.groups[groupProbes], allowed)
	}
	s.outputs(outputs)
}

// queries logs what the resolver of a VPC is asked.
func queries(s *scope, suffix string, v pulumi.StringInput, group *cloudwatch.LogGroup, allowed pulumi.Resource) {
	config := add(s, route53.NewResolverQueryLogConfig, suffix, &route53.ResolverQueryLogConfigArgs{DestinationArn: group.Arn, Tags: s.tags(suffix)},
		pulumi.DependsOn([]pulumi.Resource{allowed}))
	add(s, route53.NewResolverQueryLogConfigAssociation, suffix, &route53.ResolverQueryLogConfigAssociationArgs{
		ResolverQueryLogConfigId: config.ID(), ResourceId: v.ToStringOutput(),
	})
}

// firewall answers only queries for names, and fails closed.
func firewall(
	s *scope, suffix string, v pulumi.StringInput, names []string, aliases string,
) *route53.ResolverFirewallRuleGroup {
	group := add(s, route53.NewResolverFirewallRuleGroup, suffix, &route53.ResolverFirewallRuleGroupArgs{Tags: s.tags(suffix)})
	list := func(name string, domains []string) *route53.ResolverFirewallDomainList {
		return add(s, route53.NewResolverFirewallDomainList, name, &route53.ResolverFirewallDomainListArgs{Domains: pulumi.ToStringArray(domains), Tags: s.tags(name)})
	}
	var rules []pulumi.Resource
	if len(names) > 0 {
		rules = append(rules, add(s, route53.NewResolverFirewallRule, suffix+"-allow", &route53.ResolverFirewallRuleArgs{
			FirewallRuleGroupId: group.ID(), FirewallDomainListId: list(suffix+"-allow", names).ID(),
			Priority: pulumi.Int(100), Action: pulumi.String("ALLOW"),
			FirewallDomainRedirectionAction: pulumi.String(aliases),
		}))
	}
	rules = append(rules, add(s, route53.NewResolverFirewallRule, suffix+"-block", &route53.ResolverFirewallRuleArgs{
		FirewallRuleGroupId: group.ID(), FirewallDomainListId: list(suffix+"-block", []string{"*."}).ID(),
		Priority: pulumi.Int(200), Action: pulumi.String("BLOCK"),
		BlockResponse: pulumi.String("NODATA"), FirewallDomainRedirectionAction: pulumi.String(inspect),
	}))
	// It cannot be taken off a network by mistake, until the stack may be taken down.
	mutation := "DISABLED"
	if s.args.AWS.Protect {
		mutation = "ENABLED"
	}
	add(s, route53.NewResolverFirewallRuleGroupAssociation, suffix, &route53.ResolverFirewallRuleGroupAssociationArgs{
		FirewallRuleGroupId: group.ID(), VpcId: v, Priority: pulumi.Int(101),
		MutationProtection: pulumi.String(mutation), Tags: s.tags(suffix),
	}, pulumi.DependsOn(rules))
	add(s, route53.NewResolverFirewallConfig, suffix,
		&route53.ResolverFirewallConfigArgs{ResourceId: v, FirewallFailOpen: pulumi.String("DISABLED")})
	return group
}

// platformNames are the names that ECS must resolve to start tasks.
func platformNames(args *EnvironmentArgs) []string {
	set := args.AWS
	suffix := "." + set.Region + ".amazonaws.com."
	names := []string{
		"api.ecr" + suffix, set.Registry() + ".", "logs" + suffix, "prod-" + set.Region + "-starport-layer-bucket.s3" + suffix,
	}
	if set.Mode == cloud.ModeShared { // the control plane and the proxies are here too
		names = append(names, "secretsmanager"+suffix, "s3"+suffix, "*.s3"+suffix, controlHost(args.Plan.Stack)+".")
	}
	return names
}

// policyNames returns the hosts of the policy. A host that `postern push` adds is resolved only
// after the next `up`: docs/aws.md says so.
func policyNames(args *EnvironmentArgs) []string {
	var names []string
	for _, a := range args.Plan.Agents {
		for _, r := range a.Rules {
			if !r.Deny {
				names = append(names, r.Host+".")
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
