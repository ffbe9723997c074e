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
)

// changed is the reference environment, in which a test makes somebody's mistakes.
type changed struct {
	t testing.TB
	*graph.Graph
}

// reference returns the network that the components declare: components/aws holds it to that.
func reference(t testing.TB, name string) *changed {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	defer f.Close()
	g, err := graph.Decode(f)
	require.NoError(t, err)
	return &changed{t, g}
}

// get returns the resource of a type (ec2/vpc) whose name has that end.
func (c *changed) get(kind, end string) *graph.Resource {
	c.t.Helper()
	for i := range c.Resources {
		if r := &c.Resources[i]; strings.HasPrefix(r.Type, "aws:"+kind+":") && strings.HasSuffix(r.Name, end) {
			return r
		}
	}
	require.Failf(c.t, "no such resource", "%s %s", kind, end)
	return nil
}

// ref is an input that refers to a resource.
type ref struct{ kind, end string }

// add declares another resource.
func (c *changed) add(kind, name string, inputs map[string]any) {
	c.t.Helper()
	last := kind[strings.LastIndexByte(kind, '/')+1:]
	token := "aws:" + kind + ":" + strings.ToUpper(last[:1]) + last[1:]
	r := graph.Resource{
		URN: "urn:pulumi:prod::postern::" + token + "::" + name, Type: token, Name: name, Role: "other", Custom: true,
		Inputs: map[string]any{}, PropertyDependencies: map[string][]string{},
	}
	for key, v := range inputs {
		if to, ok := v.(ref); ok {
			r.PropertyDependencies[key] = []string{c.get(to.kind, to.end).URN}
			v = graph.Unknown
		}
		r.Inputs[key] = v
	}
	c.Resources = append(c.Resources, r)
	slices.SortFunc(c.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
}

// lose removes the resource of a type whose name has that end.
func (c *changed) lose(kind, end string) {
	urn := c.get(kind, end).URN
	c.Resources = slices.DeleteFunc(c.Resources, func(r graph.Resource) bool { return r.URN == urn })
}

// allow opens an agent's group and the ACL of the agents for a network.
func (c *changed) allow(cidr, protocol string) {
	group, acl, out := "cidrIpv4", "cidrBlock", map[string]any{}
	if strings.Contains(cidr, ":") {
		group, acl = "cidrIpv6", "ipv6CidrBlock"
	}
	if protocol != "-1" {
		out["fromPort"], out["toPort"] = 443.0, 443.0
	}
	rule := map[string]any{
		"securityGroupId": ref{"ec2/securityGroup", "-fence-agent-coder"},
		"ipProtocol":      protocol, group: cidr,
	}
	entry := map[string]any{
		"networkAclId": ref{"ec2/networkAcl", "-network-agents"}, "egress": true,
		"ruleNumber": 50.0, "ruleAction": "allow", "protocol": protocol, acl: cidr,
	}
	for k, v := range out {
		rule[k], entry[k] = v, v
	}
	name := strings.NewReplacer("/", "-", ":", "-").Replace(cidr)
	c.add("vpc/securityGroupEgressRule", "mistake-group-"+name, rule)
	c.add("ec2/networkAclRule", "mistake-acl-"+name, entry)
}

// route adds a route to the agents' table.
func (c *changed) route(to string, via string, target any) {
	key := "destinationCidrBlock"
	if strings.Contains(to, ":") {
		key = "destinationIpv6CidrBlock"
	}
	if via == "natGatewayId" {
		c.openEgress()
	}
	c.add("ec2/route", "mistake-route-"+via, map[string]any{"routeTableId": ref{
		"ec2/routeTable",
		"-network-agents",
	}, key: to, via: target})
}

// closed gives a subnet an ACL that lets nothing through.
func (c *changed) closed(subnet, acl string) {
	c.get("ec2/networkAclAssociation", subnet).PropertyDependencies["networkAclId"] = []string{
		c.get("ec2/defaultNetworkAcl", acl).URN,
	}
}

// openEgress opens the ACL behind which the NAT gateway is: in the shared mode it refuses agents.
func (c *changed) openEgress() {
	for _, out := range []bool{false, true} {
		c.add("ec2/networkAclRule", fmt.Sprint("mistake-egress-", out), map[string]any{
			"networkAclId": ref{"ec2/networkAcl", "-network-egress"}, "egress": out, "ruleNumber": 1.0,
			"ruleAction": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0",
		})
	}
}

// open adds a rule for TCP to a group.
func (c *changed) open(kind, group, cidr string, port float64) {
	c.add("vpc/securityGroup"+kind, "mistake-group", map[string]any{
		"securityGroupId": ref{"ec2/securityGroup", group}, "cidrIpv4": cidr, "ipProtocol": "tcp",
		"fromPort": port, "toPort": port,
	})
}

func (c *changed) openControl(kind, cidr string) { c.open(kind, "-fence-control", cidr, 443) }

// join leads a table to another network.
func (c *changed) join(table, via string) {
	c.add("ec2/route", "mistake-join", map[string]any{
		"routeTableId": ref{"ec2/routeTable", table}, "destinationCidrBlock": "10.99.0.0/16", via: graph.Unknown,
	})
}

// port returns an agent's port.
func (c *changed) port(agent string) float64 {
	n, ok := c.get("lb/listener", "-proxies-"+agent).Number("port")
	require.True(c.t, ok)
	return n
}

// renumber writes another port wherever the plan has the old one.
func (c *changed) renumber(from, to float64) {
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case float64:
			if v == from {
				return to
			}
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = walk(v[k])
			}
		}
		return v
	}
	for i := range c.Resources {
		walk(c.Resources[i].Inputs)
	}
}
