package aws

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/packet"
	"github.com/postern/postern/policies/reach"
)

// plan makes a graph of lines "name type role {inputs}". In the inputs, "@name" refers to the
// resource of an earlier line, "@name=text" to it by a text, and "?" is not known yet.
func planned(t *testing.T, lines string) *graph.Graph {
	t.Helper()
	g := &graph.Graph{Format: graph.Format, Stack: "prod"}
	urns := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		words := strings.SplitN(strings.TrimSpace(line), " ", 4)
		require.Len(t, words, 4, line)
		last := words[1][strings.IndexByte(words[1], '/')+1:]
		r := graph.Resource{
			Name: words[0], Type: "aws:" + words[1] + ":" + strings.ToUpper(last[:1]) + last[1:], Role: words[2],
			Custom: true, PropertyDependencies: map[string][]string{},
		}
		r.URN = "urn:pulumi:prod::postern::" + r.Type + "::" + r.Name
		urns[r.Name] = r.URN
		require.NoError(t, json.Unmarshal([]byte(words[3]), &r.Inputs), line)
		for property, v := range r.Inputs {
			r.Inputs[property] = referred(t, v, urns, func(urn string) {
				r.PropertyDependencies[property] = append(r.PropertyDependencies[property], urn)
			})
		}
		g.Resources = append(g.Resources, r)
	}
	slices.SortFunc(g.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	return g
}

func referred(t *testing.T, v any, urns map[string]string, refer func(urn string)) any {
	t.Helper()
	switch v := v.(type) {
	case string:
		if name, ok := strings.CutPrefix(v, "@"); ok {
			name, text, known := strings.Cut(name, "=")
			require.Contains(t, urns, name)
			refer(urns[name])
			if known {
				return text
			}
			return graph.Unknown
		}
		if v == "?" {
			return graph.Unknown
		}
	case []any:
		for i := range v {
			v[i] = referred(t, v[i], urns, refer)
		}
	case map[string]any:
		for k := range v {
			v[k] = referred(t, v[k], urns, refer)
		}
	}
	return v
}

// boxes writes a set: source>destination protocols ports. 4 and 6 are all of a version of IP.
func boxes(s packet.Set) string {
	addresses := func(span packet.Span[netip.Addr]) string {
		switch text := fmt.Sprintf("%s-%s", span.First, span.Last); text {
		case "0.0.0.0-255.255.255.255":
			return "4"
		case "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff":
			return "6"
		default:
			return text
		}
	}
	var out []string
	for _, b := range s {
		out = append(out, fmt.Sprintf("%s>%s %d-%d %d-%d", addresses(b.Source), addresses(b.Destination),
			b.Protocol.First, b.Protocol.Last, b.Port.First, b.Port.Last))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func unsure(is bool) string {
	if is {
		return " (unsure)"
	}
	return ""
}

// show writes a network, a line for each thing in it that says something.
func show(n *reach.Network) []string {
	var out []string
	seen := map[any]bool{}
	add := func(of any, format string, a ...any) {
		if !seen[of] {
			out = append(out, strings.TrimSpace(fmt.Sprintf(format, a...)))
		}
	}
	for _, i := range n.Interfaces {
		text := fmt.Sprintf("%s %s", i.Kind, i.Name)
		for _, f := range []struct {
			is  bool
			say string
		}{
			{i.Agent != "", " of " + i.Agent},
			{i.Unfiltered, " unfiltered"},
			{i.Public, " public"},
			{i.Forwards, " forwards"},
			{i.Pinned, " pinned"},
			{len(i.Admin) > 0, fmt.Sprint(" admin ", i.Admin)},
			{len(i.Addresses) > 0, fmt.Sprint(" at ", i.Addresses)},
		} {
			if f.is {
				text += f.say
			}
		}
		if m := i.Metadata; m != nil {
			text += fmt.Sprintf(" metadata %s off=%t role=%t", m.Address, m.Off, m.Role)
		}
		add(i, "%s", text)
		for _, l := range i.Listeners {
			to := ""
			for _, x := range l.To {
				to += " " + x.Name
			}
			add(l, "listener %s of %s: %d to%s %v direct=%t asked=%t", l.Name, i.Name, l.Port, to, l.Ports, l.Direct,
				l.Asked)
		}
		for _, g := range i.Groups {
			for dir, rules := range map[string][]*reach.GroupRule{"in": g.In, "out": g.Out} {
				for _, r := range rules {
					peer := ""
					if r.Peer != nil {
						peer = " peer " + r.Peer.Name
					}
					add(r, "group %s %s %s%s: %s%s", g.Name, dir, r.Name, peer, boxes(r.Packets), unsure(r.Unsure))
					seen[r] = true
				}
			}
			if !seen[g] && len(g.In)+len(g.Out) == 0 {
				add(g, "group %s has no rule", g.Name)
			}
			seen[g] = true
		}
		for _, s := range i.Subnets {
			add(s, "subnet %s of %s %v table %s acl %s", s.Name, s.VPC.Name, s.Prefixes, s.Table.Name, s.ACL.Name)
			seen[s] = true
			for _, r := range s.Table.Routes {
				nat := ""
				if r.NAT != nil {
					nat = " " + r.NAT.Name
				}
				add(r, "route %s %s: %s by %s%s%s", s.Table.Name, r.Name, r.To, r.Via, nat, unsure(r.Unsure))
				seen[r] = true
			}
			for dir, rules := range map[string][]*reach.ACLRule{"in": s.ACL.In, "out": s.ACL.Out} {
				for k, r := range rules {
					add(r, "acl %s %s %d %s: allow=%t %s%s", s.ACL.Name, dir, k, r.Name, r.Allow, boxes(r.Packets),
						unsure(r.Unsure))
					seen[r] = true
				}
			}
			add(s.VPC, "vpc %s %v resolver=%t", s.VPC.Name, s.VPC.Prefixes, s.VPC.Resolver)
			if f := s.VPC.Firewall; f != nil {
				add(f, "firewall %s closed=%t names=%q aliases=%t", f.Name, f.Closed, f.Names, f.Aliases)
				seen[f] = true
			}
			seen[s.VPC] = true
		}
	}
	for _, u := range n.Unknown {
		out = append(out, fmt.Sprintf("unknown %s %s: %s", u.Type, u.Resource, u.Why))
	}
	slices.Sort(out)
	return out
}

// base is a network with one machine, whose subnet has a table and an ACL of its own.
const base = `
	v ec2/vpc - {"cidrBlock":"10.0.0.0/16","enableDnsSupport":false}
	s ec2/subnet - {"vpcId":"@v","cidrBlock":"10.0.1.0/24"}
	t ec2/routeTable - {"vpcId":"@v"}
	ta ec2/routeTableAssociation - {"subnetId":"@s","routeTableId":"@t"}
	a ec2/networkAcl - {"vpcId":"@v"}
	aa ec2/networkAclAssociation - {"subnetId":"@s","networkAclId":"@a"}
	g ec2/securityGroup - {"vpcId":"@v"}
	m ec2/instance - {"subnetId":"@s","vpcSecurityGroupIds":["@g"],"metadataOptions":{"httpEndpoint":"disabled"},` +
	`"tags":{"postern:role":"other"}}
`

// baseShown is what base is read as.
var baseShown = []string{
	"group g has no rule",
	"stranger m metadata 169.254.169.254 off=true role=false",
	"subnet s of v [10.0.1.0/24] table t acl a",
	"vpc v [10.0.0.0/16] resolver=false",
}

// TestReadAdds: what a resource, next to those of base, adds to the network that is proved.
func TestReadAdds(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/read.txt")
	require.NoError(t, err)
	for _, block := range strings.Split(string(text), "\n== ")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		resources, adds, ok := strings.Cut("\n"+rest, "\n--\n")
		require.True(t, ok, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := slices.Clone(baseShown)
			want = slices.DeleteFunc(want, func(line string) bool { // there is more of it
				return strings.Contains(adds, "group g ") && strings.HasPrefix(line, "group g ") ||
					strings.Contains(adds, "subnet s ") && strings.HasPrefix(line, "subnet s ")
			})
			for line := range strings.Lines(adds) {
				if line = strings.TrimSpace(line); line != "" {
					want = append(want, line)
				}
			}
			slices.Sort(want)
			require.Equal(t, want, show(Read(planned(t, base+resources), nil)))
		})
	}
}

// TestAgentsOfOneComponent: a component of somebody's is not an agent.
func TestAgentsOfOneComponent(t *testing.T) {
	t.Parallel()
	for parent, want := range map[string]int{"web:index:Platform": 2, "postern:aws:AgentPool": 1} {
		g := planned(t, base+`
			m1 ec2/instance agents {"subnetId":"@s","vpcSecurityGroupIds":["@g"]}
			m2 ec2/instance agents {"subnetId":"@s","vpcSecurityGroupIds":["@g"]}
		`)
		for i := range g.Resources {
			g.Resources[i].Parent = "urn:a"
		}
		g.Resources = append([]graph.Resource{{URN: "urn:a", Type: parent, Name: "platform"}}, g.Resources...)
		names := map[string]bool{}
		for _, i := range Read(g, nil).Interfaces {
			if i.Kind == reach.Agent {
				names[i.Agent] = true
			}
		}
		require.Len(t, names, want, parent)
	}
}
