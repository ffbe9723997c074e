package live

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/postern/postern/graph"
)

const (
	tokenBalancer = "aws:lb/loadBalancer:LoadBalancer"
	tokenTarget   = "aws:lb/targetGroup:TargetGroup"
)

// balancers reads load balancers and where they lead. Those of the first generation are interfaces
// that the proof does not know.
func (r *reader) balancers() {
	client := elb.NewFromConfig(r.cfg)
	for _, b := range every(r, "elasticloadbalancing:DescribeLoadBalancers",
		elb.NewDescribeLoadBalancersPaginator(client, &elb.DescribeLoadBalancersInput{}), // it has no filter
		func(p *elb.DescribeLoadBalancersOutput) []types.LoadBalancer { return p.LoadBalancers }) {
		if !slices.Contains(r.vpcs, aws.ToString(b.VpcId)) {
			continue
		}
		in := object{
			"internal":         b.Scheme == types.LoadBalancerSchemeEnumInternal,
			"loadBalancerType": string(b.Type),
			"enforceSecurityGroupInboundRulesOnPrivateLinkTraffic": value(
				b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic),
		}
		if len(b.SecurityGroups) > 0 {
			in["securityGroups"] = b.SecurityGroups
		}
		var mappings []any
		for _, z := range b.AvailabilityZones {
			mapping := object{"subnetId": value(z.SubnetId)}
			for _, a := range z.LoadBalancerAddresses {
				mapping["privateIpv4Address"] = value(a.PrivateIPv4Address)
			}
			mappings = append(mappings, mapping)
		}
		in["subnetMappings"] = mappings
		x := r.add(tokenBalancer, aws.ToString(b.LoadBalancerArn),
			r.balancerName(client, b.LoadBalancerArn), in)
		r.listeners(client, x, b.Type)
	}
	for _, t := range every(r, "elasticloadbalancing:DescribeTargetGroups",
		elb.NewDescribeTargetGroupsPaginator(client, &elb.DescribeTargetGroupsInput{}),
		func(p *elb.DescribeTargetGroupsOutput) []types.TargetGroup { return p.TargetGroups }) {
		if slices.ContainsFunc(t.LoadBalancerArns, func(arn string) bool {
			return r.named[[2]string{tokenBalancer, arn}] != nil
		}) {
			r.target(client, &t)
		}
	}
}

// balancerName returns the tag Name of something that has its tags elsewhere.
func (r *reader) balancerName(client *elb.Client, arn *string) string {
	out, err := client.DescribeTags(r.ctx, &elb.DescribeTagsInput{ResourceArns: []string{aws.ToString(arn)}})
	if !r.answered("elasticloadbalancing:DescribeTags", err) {
		return ""
	}
	for _, d := range out.TagDescriptions {
		for _, t := range d.Tags {
			if aws.ToString(t.Key) == graph.TagName {
				return aws.ToString(t.Value)
			}
		}
	}
	return ""
}

func (r *reader) listeners(client *elb.Client, balancer *resource, kind types.LoadBalancerTypeEnum) {
	for _, l := range every(r, "elasticloadbalancing:DescribeListeners",
		elb.NewDescribeListenersPaginator(client, &elb.DescribeListenersInput{LoadBalancerArn: &balancer.ID}),
		func(p *elb.DescribeListenersOutput) []types.Listener { return p.Listeners }) {
		x := r.add("aws:lb/listener:Listener", aws.ToString(l.ListenerArn),
			r.balancerName(client, l.ListenerArn), object{
				"loadBalancerArn": balancer.ID, "port": value(l.Port), "protocol": string(l.Protocol),
				"defaultActions": pick(l.DefaultActions, action),
			})
		if kind == types.LoadBalancerTypeEnumNetwork {
			continue
		}
		for _, rule := range every(r, "elasticloadbalancing:DescribeRules",
			elb.NewDescribeRulesPaginator(client, &elb.DescribeRulesInput{ListenerArn: &x.ID}),
			func(p *elb.DescribeRulesOutput) []types.Rule { return p.Rules }) {
			if !aws.ToBool(rule.IsDefault) {
				r.add("aws:lb/listenerRule:ListenerRule", aws.ToString(rule.RuleArn), "", object{"listenerArn": x.ID})
			}
		}
	}
}

func action(a types.Action) object {
	out := object{"type": string(a.Type), "targetGroupArn": value(a.TargetGroupArn)}
	if a.ForwardConfig != nil {
		arn := func(t types.TargetGroupTuple) object { return object{"arn": value(t.TargetGroupArn)} }
		out["forward"] = object{"targetGroups": pick(a.ForwardConfig.TargetGroups, arn)}
	}
	return out
}

func (r *reader) target(client *elb.Client, t *types.TargetGroup) {
	in := object{
		"port": value(t.Port), "protocol": string(t.Protocol), "targetType": string(t.TargetType),
		"healthCheck": object{"port": value(t.HealthCheckPort)},
	}
	out, err := client.DescribeTargetGroupAttributes(r.ctx, &elb.DescribeTargetGroupAttributesInput{
		TargetGroupArn: t.TargetGroupArn,
	})
	if r.answered("elasticloadbalancing:DescribeTargetGroupAttributes", err) {
		for _, a := range out.Attributes {
			if aws.ToString(a.Key) == "proxy_protocol_v2.enabled" {
				in["proxyProtocolV2"] = aws.ToString(a.Value) == "true"
			}
		}
	}
	r.add(tokenTarget, aws.ToString(t.TargetGroupArn), r.balancerName(client, t.TargetGroupArn), in)
}

// targets reads what is registered with target groups. What a service or an Auto Scaling group has
// registered is known; anything else somebody has registered by hand.
func (r *reader) targets() {
	client := elb.NewFromConfig(r.cfg)
	for _, x := range slices.Clone(r.all) {
		if x.Type != tokenTarget {
			continue
		}
		out, err := client.DescribeTargetHealth(r.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &x.ID})
		if !r.answered("elasticloadbalancing:DescribeTargetHealth", err) {
			return
		}
		for _, d := range out.TargetHealthDescriptions {
			if d.Target == nil || r.registers(x.ID, aws.ToString(d.Target.Id)) {
				continue
			}
			r.add("aws:lb/targetGroupAttachment:TargetGroupAttachment",
				aws.ToString(d.Target.Id)+" in "+short(x.ID), "", object{
					"targetGroupArn": x.ID, "targetId": value(d.Target.Id),
				})
		}
	}
}

// short returns the part of an ARN that names the resource.
func short(arn string) string { return arn[strings.LastIndexByte(arn, ':')+1:] }

// registers reports whether a service or an Auto Scaling group registers the target: see
// [reader.members].
func (r *reader) registers(group, target string) bool {
	return slices.Contains(r.members[group], target)
}
