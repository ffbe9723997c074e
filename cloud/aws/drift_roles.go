package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

// role is one live role of the stack, with everything that says what it may do.
type role struct {
	name, path string
	trust      string
	boundary   string
	inline     map[string]string // document by name
	attached   []string          // ARNs
}

// readRoles reads the roles that have the stack's tags. It looks only at paths that the plan uses,
// because an account may have thousands of roles.
func (a *Account) readRoles(ctx context.Context, g *graph.Graph, l *live) error {
	paths := map[string]bool{}
	for _, r := range g.OfType("aws:iam/role:Role") {
		path := r.String("path")
		if path == "" {
			path = "/"
		}
		paths[path] = true
	}
	client := iam.NewFromConfig(a.cfg)
	for path := range paths {
		for p := iam.NewListRolesPaginator(client, &iam.ListRolesInput{PathPrefix: aws.String(path)}); p.HasMorePages(); {
			page, err := p.NextPage(ctx)
			if err != nil {
				return explain("list roles", err)
			}
			for _, r := range page.Roles {
				if aws.ToString(r.Path) == path {
					if err := readRole(ctx, client, g.Stack, r, l); err != nil {
						return explain("read role "+aws.ToString(r.RoleName), err)
					}
				}
			}
		}
	}
	return nil
}

func readRole(ctx context.Context, client *iam.Client, stack string, r types.Role, l *live) error {
	tags, err := client.ListRoleTags(ctx, &iam.ListRoleTagsInput{RoleName: r.RoleName})
	if err != nil {
		return err
	}
	has := map[string]string{}
	for _, t := range tags.Tags {
		has[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	if has[graph.TagStack] != stack {
		return nil
	}
	found := role{name: aws.ToString(r.RoleName), path: aws.ToString(r.Path), trust: aws.ToString(r.AssumeRolePolicyDocument), inline: map[string]string{}}
	whole, err := client.GetRole(ctx, &iam.GetRoleInput{RoleName: r.RoleName}) // lists have no boundary
	if err != nil {
		return err
	}
	if b := whole.Role.PermissionsBoundary; b != nil {
		found.boundary = aws.ToString(b.PermissionsBoundaryArn)
		if err := l.readBoundary(ctx, client, b.PermissionsBoundaryArn); err != nil {
			return err
		}
	}
	names, err := all(ctx, iam.NewListRolePoliciesPaginator(client, &iam.ListRolePoliciesInput{RoleName: r.RoleName}),
		func(p *iam.ListRolePoliciesOutput) []string { return p.PolicyNames })
	if err != nil {
		return err
	}
	for _, name := range names {
		out, err := client.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: r.RoleName, PolicyName: aws.String(name)})
		if err != nil {
			return err
		}
		found.inline[name] = aws.ToString(out.PolicyDocument)
	}
	attached, err := all(ctx, iam.NewListAttachedRolePoliciesPaginator(client, &iam.ListAttachedRolePoliciesInput{RoleName: r.RoleName}),
		func(p *iam.ListAttachedRolePoliciesOutput) []types.AttachedPolicy { return p.AttachedPolicies })
	if err != nil {
		return err
	}
	for _, policy := range attached {
		found.attached = append(found.attached, aws.ToString(policy.PolicyArn))
	}
	l.roles = append(l.roles, found)
	l.items["role"] = append(l.items["role"], item{id: found.name, name: has[graph.TagName]})
	return nil
}

// roles compares what every role may do, and who may assume it.
func (d *differ) roles() {
	for _, live := range d.live.roles {
		r := d.planned[live.name]
		if r == nil {
			d.report(cloud.High, live.name, "find out who made it, and remove it", "a role carries the stack's tags and is not in the plan")
			continue
		}
		if want, ok := r.Value("assumeRolePolicy").(string); ok && !samePolicy(want, live.trust) {
			d.report(cloud.High, live.name, again, "somebody else than planned may be it: %s", readable(live.trust))
		}
		d.boundary(r, live)
		planned := d.inline(r)
		for name, document := range live.inline {
			key, ok := matching(planned, name)
			switch {
			case !ok:
				d.report(cloud.High, live.name, "delete it", "policy %s was added: %s", name, readable(document))
			case planned[key] != "" && !samePolicy(planned[key], document):
				d.report(cloud.High, live.name, again, "policy %s is not as planned: %s", name, readable(document))
			}
			delete(planned, key)
		}
		for name := range planned {
			d.report(cloud.Medium, live.name, again, "policy %s is missing", strings.TrimSuffix(name, "-"))
		}
		d.attached(r, live)
	}
}

// inline returns the planned inline policies by name. A name that ends with "-" is the beginning of
// a name that Pulumi makes up.
func (d *differ) inline(r *graph.Resource) map[string]string {
	planned := map[string]string{}
	for _, p := range d.g.OfType("aws:iam/rolePolicy:RolePolicy") {
		if d.g.Refers(p, "role", r.Type) != r {
			continue
		}
		name := p.String("name")
		if name == "" {
			name = p.Name + "-"
		}
		planned[name], _ = p.Value("policy").(string)
	}
	return planned
}

func matching(planned map[string]string, name string) (string, bool) {
	if _, ok := planned[name]; ok {
		return name, true
	}
	i := strings.LastIndexByte(name, '-') + 1
	if _, ok := planned[name[:i]]; ok && len(name)-i == 7 {
		return name[:i], true
	}
	return "", false
}

func (d *differ) attached(r *graph.Resource, live role) {
	for _, arn := range live.attached {
		known := false
		for _, a := range d.g.OfType("aws:iam/rolePolicyAttachment:RolePolicyAttachment") {
			if d.g.Refers(a, "role", r.Type) != r {
				continue
			}
			want, _ := a.Value("policyArn").(string)
			known = known || want == arn || samePolicyName(want, arn)
		}
		if !known {
			d.report(cloud.High, live.name, "detach it", "policy %s was attached", arn)
		}
	}
}

// samePolicyName compares the ARN that the plan makes up for a policy of its
// own with a live one: both names have a random end.
func samePolicyName(example, live string) bool {
	want, random := cutLast(example, "-")
	got, end := cutLast(live, "-")
	return want == got && len(random) == len(end)
}

func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}

// readable returns a policy document of IAM without escapes.
func readable(doc string) string {
	if c, err := canonical(doc); err == nil {
		return c
	}
	return doc
}
