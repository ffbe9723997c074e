package live

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/route53profiles"
	profile "github.com/aws/aws-sdk-go-v2/service/route53profiles/types"
	"github.com/aws/aws-sdk-go-v2/service/route53resolver"
	"github.com/aws/aws-sdk-go-v2/service/route53resolver/types"
)

// firewalls reads which names the resolver of each network answers, and whom it asks.
func (r *reader) firewalls() {
	client := route53resolver.NewFromConfig(r.cfg)
	profiles := route53profiles.NewFromConfig(r.cfg)
	groups := map[string]bool{}
	for _, vpc := range r.vpcs {
		for _, a := range every(r, "route53resolver:ListFirewallRuleGroupAssociations",
			route53resolver.NewListFirewallRuleGroupAssociationsPaginator(client,
				&route53resolver.ListFirewallRuleGroupAssociationsInput{VpcId: &vpc}),
			func(p *route53resolver.ListFirewallRuleGroupAssociationsOutput) []types.FirewallRuleGroupAssociation {
				return p.FirewallRuleGroupAssociations
			}) {
			if a.Status == types.FirewallRuleGroupAssociationStatusDeleting {
				continue
			}
			group := aws.ToString(a.FirewallRuleGroupId)
			r.add("aws:route53/resolverFirewallRuleGroupAssociation:ResolverFirewallRuleGroupAssociation",
				aws.ToString(a.Id), "", object{
					"vpcId": vpc, "firewallRuleGroupId": group, "priority": value(a.Priority),
				})
			if !groups[group] {
				groups[group] = true
				r.firewall(client, group)
			}
		}
		// A profile may have rule groups too, which may come first.
		for _, a := range every(r, "route53profiles:ListProfileAssociations",
			route53profiles.NewListProfileAssociationsPaginator(profiles,
				&route53profiles.ListProfileAssociationsInput{ResourceId: &vpc}),
			func(p *route53profiles.ListProfileAssociationsOutput) []profile.ProfileAssociation {
				return p.ProfileAssociations
			}) {
			r.add("aws:route53/profilesAssociation:ProfilesAssociation", aws.ToString(a.Id),
				aws.ToString(a.Name), object{})
		}
		out, err := client.GetFirewallConfig(r.ctx, &route53resolver.GetFirewallConfigInput{ResourceId: &vpc})
		if r.answered("route53resolver:GetFirewallConfig", err) && out.FirewallConfig != nil {
			r.add("aws:route53/resolverFirewallConfig:ResolverFirewallConfig", aws.ToString(out.FirewallConfig.Id), "",
				object{"resourceId": vpc, "firewallFailOpen": string(out.FirewallConfig.FirewallFailOpen)})
		}
		for _, a := range every(r, "route53resolver:ListResolverRuleAssociations",
			route53resolver.NewListResolverRuleAssociationsPaginator(client,
				&route53resolver.ListResolverRuleAssociationsInput{Filters: []types.Filter{{
					Name: aws.String("VPCId"), Values: []string{vpc},
				}}}),
			func(p *route53resolver.ListResolverRuleAssociationsOutput) []types.ResolverRuleAssociation {
				return p.ResolverRuleAssociations
			}) {
			// AWS's own rule says that the resolver resolves.
			if rule := aws.ToString(a.ResolverRuleId); !strings.HasPrefix(rule, "rslvr-autodefined-") {
				r.add("aws:route53/resolverRuleAssociation:ResolverRuleAssociation", aws.ToString(a.Id), "",
					object{"vpcId": vpc, "resolverRuleId": rule})
			}
		}
	}
}

// firewall reads a group of rules and the names that they are about.
func (r *reader) firewall(client *route53resolver.Client, group string) {
	r.add("aws:route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup", group, "", object{})
	for _, rule := range every(r, "route53resolver:ListFirewallRules",
		route53resolver.NewListFirewallRulesPaginator(client, &route53resolver.ListFirewallRulesInput{
			FirewallRuleGroupId: &group,
		}), func(p *route53resolver.ListFirewallRulesOutput) []types.FirewallRule { return p.FirewallRules }) {
		list := aws.ToString(rule.FirewallDomainListId)
		name := aws.ToString(rule.Name)
		in := object{
			"firewallRuleGroupId": group, "priority": value(rule.Priority), "action": string(rule.Action),
			"firewallDomainListId": value(rule.FirewallDomainListId), "qType": value(rule.Qtype),
			"firewallDomainRedirectionAction": string(rule.FirewallDomainRedirectionAction),
		}
		r.add("aws:route53/resolverFirewallRule:ResolverFirewallRule",
			group+" "+list+aws.ToString(rule.FirewallThreatProtectionId)+" "+aws.ToString(rule.Qtype), name, in)
		if list == "" || r.named[[2]string{tokenNames, list}] != nil {
			continue
		}
		r.add(tokenNames, list, "", object{"domains": every(r, "route53resolver:ListFirewallDomains",
			route53resolver.NewListFirewallDomainsPaginator(client, &route53resolver.ListFirewallDomainsInput{
				FirewallDomainListId: &list,
			}), func(p *route53resolver.ListFirewallDomainsOutput) []string { return p.Domains })})
	}
}

const tokenNames = "aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList"
