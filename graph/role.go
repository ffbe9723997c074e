package graph

import "strings"

// Roles are the parts of an environment, in the order in which people read them.
var Roles = []string{"network", "fence", "proxies", "control", "agents", "iam", "secrets", "audit", "other"}

// roleOfComponent is the role of what a component groups, by words in the last
// part of its type, the more telling first.
var roleOfComponent = []struct{ word, role string }{
	{"fence", "fence"},
	{"firewall", "fence"},
	{"prox", "proxies"},
	{"control", "control"},
	{"agent", "agents"},
	{"audit", "audit"},
	{"secret", "secrets"},
	{"credential", "secrets"},
	{"iam", "iam"},
	{"identit", "iam"},
	{"network", "network"},
	{"certificateauthority", "secrets"},
	{"bundle", "control"},
	{"node", "proxies"},
}

// fences are the types that refuse traffic, whichever component declares them.
var fences = []string{
	"aws:ec2/securityGroup:", "aws:vpc/securityGroup", "aws:ec2/networkAcl", "aws:ec2/defaultSecurityGroup:",
	"aws:ec2/defaultNetworkAcl:", "aws:ec2/vpcBlockPublicAccess", "aws:route53/resolverFirewall",
}

// RoleOf is the role of a resource of this type and these tags, whose parent
// has the role parent ("" if it has none).
func RoleOf(token string, inputs map[string]any, parent string) string {
	if tags, ok := inputs["tags"].(map[string]any); ok {
		if role, ok := tags[TagRole].(string); ok {
			if known := roleNamed(role); known != "" {
				return known
			}
		}
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
	if !strings.HasPrefix(token, "aws:") {
		last := token[strings.LastIndexByte(token, ':')+1:]
		if role := roleNamed(last); role != "" {
			return role
		}
	}
	if parent != "" {
		return parent
	}
	return "other"
}

func roleNamed(name string) string {
	name = strings.ToLower(name)
	for _, r := range roleOfComponent {
		if strings.Contains(name, r.word) {
			return r.role
		}
	}
	return ""
}
