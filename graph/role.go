package graph

import (
	"slices"
	"strings"
)

// Roles are the parts of an environment, in the order in which people read them.
var Roles = []string{"network", "fence", "proxies", "control", "agents", "iam", "secrets", "audit", "other"}

// roleOfComponent has the role of what each of our components groups.
var roleOfComponent = map[string]string{
	"postern:aws:AgentPool":        "agents",
	"postern:aws:Audit":            "audit",
	"postern:aws:Bundles":          "control",
	"postern:aws:ControlPlane":     "control",
	"postern:aws:Fence":            "fence",
	"postern:aws:FenceDNS":         "fence",
	"postern:aws:Network":          "network",
	"postern:aws:NetworkEndpoints": "network",
	"postern:aws:NetworkGate":      "network",
	"postern:aws:Proxies":          "proxies",
	"postern:aws:Secrets":          "secrets",

	"postern:local:Bundle":               "control",
	"postern:local:CertificateAuthority": "secrets",
	"postern:local:ControlPlane":         "control",
	"postern:local:Node":                 "proxies",
}

// fences are the types that refuse traffic, whichever component declares them.
var fences = []string{
	"aws:ec2/securityGroup:", "aws:vpc/securityGroup", "aws:ec2/networkAcl", "aws:ec2/defaultSecurityGroup:",
	"aws:ec2/defaultNetworkAcl:", "aws:ec2/vpcBlockPublicAccess", "aws:route53/resolverFirewall",
}

// RoleOf returns the role of a resource of this type with these tags, whose parent has the role
// parent ("" if there is no parent).
func RoleOf(token string, inputs map[string]any, parent string) string {
	if role := Tagged(inputs); slices.Contains(Roles, role) {
		return role
	}
	switch {
	case strings.HasPrefix(token, "pulumi:"):
		return "other"
	case strings.HasPrefix(token, "aws:iam/"):
		return "iam"
	}
	for _, prefix := range fences {
		if strings.HasPrefix(token, prefix) {
			return "fence"
		}
	}
	if role, ok := roleOfComponent[token]; ok {
		return role
	}
	if parent != "" {
		return parent
	}
	return "other"
}

// Tagged returns what the tags in the inputs say is the role, whether or not there is such a role,
// or "".
func Tagged(inputs map[string]any) string {
	tags, _ := inputs["tags"].(map[string]any)
	role, _ := tags[TagRole].(string)
	list, _ := inputs["tags"].([]any) // of an Auto Scaling group
	for _, item := range list {
		if tag, _ := item.(map[string]any); tag["key"] == TagRole {
			role, _ = tag["value"].(string)
		}
	}
	return role
}

// starts has the types of what runs, with the inputs that say what is started.
var starts = map[string][]string{
	"aws:autoscaling/group:Group": {"launchTemplate", "mixedInstancesPolicy"},
	"aws:ec2/instance:Instance":   {"launchTemplate"},
	"aws:ecs/service:Service":     {"taskDefinition"},
}

// started gives what workloads are made of their role. What an agent and somebody else is made of
// is the agent's.
func (g *Graph) started() {
	tiers := []string{"agents", "proxies", "control"}
	for i := range g.Resources {
		x := &g.Resources[i]
		for _, property := range starts[x.Type] {
			for _, urn := range x.PropertyDependencies[property] {
				of := g.ByURN(urn)
				if of == nil || of.Type != "aws:ec2/launchTemplate:LaunchTemplate" &&
					of.Type != "aws:ecs/taskDefinition:TaskDefinition" {
					continue
				}
				if x.Role == "agents" || slices.Contains(tiers, x.Role) && !slices.Contains(tiers, of.Role) {
					of.Role = x.Role
				}
			}
		}
	}
}
