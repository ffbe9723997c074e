package aws

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

const (
	egressRule  = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
	ingressRule = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
)

// passage describes the traffic that one rule of a security group lets through.
type passage struct {
	group    string
	egress   bool
	protocol string
	from, to int32
	peer     string
}

func (p passage) describe(d *differ) string {
	direction := "in from"
	if p.egress {
		direction = "out to"
	}
	var what string
	switch {
	case p.protocol == "-1":
		what = "everything"
	case p.from == p.to:
		what = fmt.Sprintf("%s %d", p.protocol, p.from)
	default:
		what = fmt.Sprintf("%s %d to %d", p.protocol, p.from, p.to)
	}
	return fmt.Sprintf("%s %s %s", what, direction, d.called(p.peer))
}

// rules compares what every security group lets through.
func (d *differ) rules() {
	planned := map[passage]bool{}
	for _, token := range []string{egressRule, ingressRule} {
		for _, r := range d.g.OfType(token) {
			if p := d.passage(r, token == egressRule); p.group != "" {
				planned[p] = false
			}
		}
	}
	for _, rule := range d.live.rules {
		p := livePassage(rule)
		if _, ok := planned[p]; ok {
			planned[p] = true
			continue
		}
		made := "the rule is not in the plan"
		if d.planned[p.group] == nil {
			made = "the group is not in the plan"
		}
		risk := worst(p.egress)
		if d.planned[p.group] == nil && !d.used(p.group) {
			risk = cloud.Medium // it applies to nobody
		}
		d.report(risk, p.group, "revoke rule "+aws.ToString(rule.SecurityGroupRuleId), "a rule lets %s: %s", p.describe(d), made)
	}
	for p, there := range planned {
		if !there {
			d.report(cloud.Medium, p.group, again, "the rule that lets %s is missing", p.describe(d))
		}
	}
	for _, g := range d.live.groups {
		if id := aws.ToString(g.GroupId); d.planned[id] == nil && d.used(id) {
			d.report(cloud.High, id, "find out who made it, and remove it", "security group %q is in use and not in the plan", aws.ToString(g.GroupName))
		}
	}
}

// used reports whether a network interface has the security group.
func (d *differ) used(group string) bool {
	for _, i := range d.live.interfaces {
		if slices.ContainsFunc(i.Groups, func(g types.GroupIdentifier) bool { return aws.ToString(g.GroupId) == group }) {
			return true
		}
	}
	return false
}

func (d *differ) passage(r *graph.Resource, egress bool) passage {
	p := passage{group: d.idOf(r, "securityGroupId"), egress: egress, protocol: r.String("ipProtocol"), from: -1, to: -1}
	if n, ok := r.Number("fromPort"); ok {
		p.from = int32(n)
	}
	if n, ok := r.Number("toPort"); ok {
		p.to = int32(n)
	}
	switch {
	case r.Inputs["referencedSecurityGroupId"] != nil:
		p.peer = d.idOf(r, "referencedSecurityGroupId")
	case r.Inputs["prefixListId"] != nil:
		p.peer = r.String("prefixListId")
		if endpoint := d.g.Refers(r, "prefixListId", "aws:ec2/vpcEndpoint:VpcEndpoint"); endpoint != nil {
			p.peer = d.live.lists[endpoint.String("serviceName")]
		}
	default:
		p.peer = r.String("cidrIpv4") + r.String("cidrIpv6")
	}
	return p
}

func livePassage(r types.SecurityGroupRule) passage {
	p := passage{
		group: aws.ToString(r.GroupId), egress: aws.ToBool(r.IsEgress), protocol: aws.ToString(r.IpProtocol), from: -1, to: -1,
		peer: aws.ToString(r.CidrIpv4) + aws.ToString(r.CidrIpv6) + aws.ToString(r.PrefixListId),
	}
	if p.protocol != "-1" {
		p.from, p.to = aws.ToInt32(r.FromPort), aws.ToInt32(r.ToPort)
	}
	if r.ReferencedGroupInfo != nil {
		p.peer = aws.ToString(r.ReferencedGroupInfo.GroupId)
	}
	return p
}

// protocolNumbers are the names of protocols in network ACLs.
var protocolNumbers = map[string]string{"tcp": "6", "udp": "17", "icmp": "1", "icmpv6": "58", "all": "-1"}

// lastRule denies what no other rule of a network ACL matches. AWS adds it.
const lastRule = 32767

// entry is one rule of a network ACL.
type entry struct {
	number       int32
	egress       bool
	action       string
	protocol     string
	cidr         string
	from, to     int32
	hasPortRange bool
}

func (e entry) String() string {
	direction := "in from"
	if e.egress {
		direction = "out to"
	}
	protocol := e.protocol
	for name, number := range protocolNumbers {
		if number == e.protocol {
			protocol = name
		}
	}
	ports := ""
	if e.hasPortRange {
		ports = fmt.Sprintf(" %d to %d", e.from, e.to)
	}
	return fmt.Sprintf("%d: %s %s%s %s %s", e.number, e.action, protocol, ports, direction, e.cidr)
}

// acls compares the network ACLs: their rules, and their subnets.
func (d *differ) acls() {
	for _, a := range d.live.acls {
		id := aws.ToString(a.NetworkAclId)
		r := d.planned[id]
		if r == nil {
			if len(a.Associations) > 0 {
				d.report(cloud.High, id, "find out who made it, and remove it", "a network ACL in use in %s is not in the plan", d.called(aws.ToString(a.VpcId)))
			}
			continue
		}
		planned := map[entry]bool{}
		for _, rule := range d.g.OfType("aws:ec2/networkAclRule:NetworkAclRule") {
			if slices.Contains(rule.PropertyDependencies["networkAclId"], r.URN) {
				planned[plannedEntry(rule)] = false
			}
		}
		for _, e := range a.Entries {
			got := liveEntry(e)
			if got.number >= lastRule {
				continue
			}
			if _, ok := planned[got]; ok {
				planned[got] = true
				continue
			}
			risk := cloud.Medium
			if got.action == "allow" {
				risk = cloud.High
			}
			d.report(risk, id, "delete it", "rule %s is not planned", got)
		}
		for e, there := range planned {
			if !there {
				risk := cloud.Medium
				if e.action == "deny" {
					risk = cloud.High
				}
				d.report(risk, id, again, "rule %s is missing", e)
			}
		}
		d.covered(a)
	}
}

// covered reports subnets that have another network ACL than planned.
func (d *differ) covered(a types.NetworkAcl) {
	id := aws.ToString(a.NetworkAclId)
	for _, association := range a.Associations {
		subnet := aws.ToString(association.SubnetId)
		want := ""
		for _, p := range d.g.OfType("aws:ec2/networkAclAssociation:NetworkAclAssociation") {
			if d.idOf(p, "subnetId") == subnet {
				want = d.idOf(p, "networkAclId")
			}
		}
		for _, p := range d.g.OfType("aws:ec2/networkAcl:NetworkAcl") {
			if r := d.planned[subnet]; r != nil && slices.Contains(p.PropertyDependencies["subnetIds"], r.URN) {
				want = d.ids[p.URN]
			}
		}
		if want != "" && want != id {
			d.report(cloud.High, subnet, again, "it has network ACL %s, planned is %s", d.called(id), d.called(want))
		}
	}
}

func plannedEntry(r *graph.Resource) entry {
	n, _ := r.Number("ruleNumber")
	egress, _ := r.Inputs["egress"].(bool)
	e := entry{number: int32(n), egress: egress, action: strings.ToLower(r.String("ruleAction")), protocol: r.String("protocol"), cidr: r.String("cidrBlock") + r.String("ipv6CidrBlock")}
	if number := protocolNumbers[e.protocol]; number != "" {
		e.protocol = number
	}
	from, okFrom := r.Number("fromPort")
	to, okTo := r.Number("toPort")
	if okFrom && okTo && e.protocol != "-1" {
		e.from, e.to, e.hasPortRange = int32(from), int32(to), true
	}
	return e
}

func liveEntry(n types.NetworkAclEntry) entry {
	e := entry{
		number: aws.ToInt32(n.RuleNumber), egress: aws.ToBool(n.Egress), action: strings.ToLower(string(n.RuleAction)), protocol: aws.ToString(n.Protocol),
		cidr: aws.ToString(n.CidrBlock) + aws.ToString(n.Ipv6CidrBlock),
	}
	if number := protocolNumbers[e.protocol]; number != "" {
		e.protocol = number
	}
	if n.PortRange != nil && e.protocol != "-1" {
		e.from, e.to, e.hasPortRange = aws.ToInt32(n.PortRange.From), aws.ToInt32(n.PortRange.To), true
	}
	return e
}
