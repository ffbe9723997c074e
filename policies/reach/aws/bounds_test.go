package aws

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTooMany: a plan with more rules than AWS takes is not proved, wherever it has them: a proof
// would take as long as somebody wants. One that has as many as AWS takes is read.
func TestTooMany(t *testing.T) {
	t.Parallel()
	const group, acl, table = "aws:ec2/securityGroup:SecurityGroup", "aws:ec2/networkAcl:NetworkAcl",
		"aws:ec2/routeTable:RouteTable"
	for name, c := range map[string]struct {
		resource string
		// line has LIST in place of items, or # for the number of each resource.
		line, item string
	}{
		"rules in a group": {
			group + " x", `x ec2/securityGroup - {"vpcId":"@v","egress":LIST}`, `{"protocol":"-1","self":true}`,
		},
		"networks in a rule": {
			group + " x", `x ec2/securityGroup - {"vpcId":"@v","egress":[{"protocol":"-1","cidrBlocks":LIST}]}`,
			`"10.0.0.0/8"`,
		},
		"IPv6 networks in a rule": {
			group + " x", `x ec2/securityGroup - {"vpcId":"@v","ingress":[{"protocol":"-1","ipv6CidrBlocks":LIST}]}`,
			`"::/0"`,
		},
		"prefix lists in a rule": {
			group + " x", `x ec2/securityGroup - {"vpcId":"@v","egress":[{"protocol":"-1","prefixListIds":LIST}]}`,
			`"pl-1"`,
		},
		"groups in a rule": {
			group + " x", `x ec2/securityGroup - {"vpcId":"@v","egress":[{"protocol":"-1","securityGroups":LIST}]}`,
			`"@g"`,
		},
		"rules of a group": {
			group + " g",
			`r# vpc/securityGroupEgressRule - {"securityGroupId":"@g","ipProtocol":"-1","cidrIpv4":"10.0.0.0/8"}`, "",
		},
		"what a group takes": {
			group + " g",
			`r# vpc/securityGroupIngressRule - {"securityGroupId":"@g","ipProtocol":"-1","cidrIpv4":"10.0.0.0/8"}`, "",
		},
		"rules in an ACL": {
			acl + " x", `x ec2/networkAcl - {"vpcId":"@v","egress":LIST}`,
			`{"ruleNo":1,"action":"allow","protocol":"-1","cidrBlock":"0.0.0.0/0"}`,
		},
		"rules of an ACL": {
			acl + " a",
			`r# ec2/networkAclRule - {"networkAclId":"@a","ruleNumber":#,"protocol":"-1","cidrBlock":"0.0.0.0/0"}`, "",
		},
		"routes in a table": {
			table + " x", `x ec2/routeTable - {"vpcId":"@v","routes":LIST}`,
			`{"cidrBlock":"10.9.0.0/16","gatewayId":"vgw-1"}`,
		},
		"routes of a table": {
			table + " t",
			`r# ec2/route - {"routeTableId":"@t","destinationCidrBlock":"10.9.0.0/16","gatewayId":"vgw-1"}`, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := func(n int) string {
				lines := base
				if c.item != "" {
					list := strings.TrimSuffix(strings.Repeat(c.item+",", n), ",")
					lines += strings.ReplaceAll(c.line, "LIST", "["+list+"]")
				} else {
					for i := range n {
						lines += strings.ReplaceAll(c.line, "#", strconv.Itoa(i)) + "\n"
					}
				}
				var all []string
				for _, u := range Read(planned(t, lines), nil).Unknown {
					all = append(all, u.Type+" "+u.Resource+": "+u.Why)
				}
				return strings.Join(all, "\n")
			}
			require.NotContains(t, said(1000), "AWS takes no more")
			require.Equal(t, c.resource+": it has 1001 rules, and AWS takes no more than 1000", said(1001))
		})
	}
}
