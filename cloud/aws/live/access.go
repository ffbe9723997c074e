package live

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	secret "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/postern/postern/graph"
)

const tokenProfile = "aws:iam/instanceProfile:InstanceProfile"

// profile returns the input for an instance profile, of which the ARN or the name is known, and has
// its role read.
func (r *reader) profile(arn, name *string) object {
	if aws.ToString(name) == "" {
		name = aws.String(last(aws.ToString(arn)))
	}
	if r.profiles[*name] == "" {
		r.profiles[*name] = aws.ToString(arn)
		out, err := r.iam().GetInstanceProfile(r.ctx, &iam.GetInstanceProfileInput{InstanceProfileName: name})
		if r.readable("iam:GetInstanceProfile", err) {
			r.profiles[*name] = aws.ToString(out.InstanceProfile.Arn)
			x := r.add(tokenProfile, *name, "", object{})
			x.Outputs["arn"] = r.profiles[*name]
			for _, role := range out.InstanceProfile.Roles {
				x.Inputs["role"] = value(role.RoleName)
				r.needsRole(aws.ToString(role.RoleName))
			}
		}
	}
	if arn := r.profiles[*name]; arn != "" {
		return object{"arn": arn}
	}
	return object{"name": *name}
}

func (r *reader) iam() *iam.Client { return iam.NewFromConfig(r.cfg) }

// readable reports whether AWS answered about a role or a policy. Without the answer the proof
// takes it that a role may do anything: nothing else depends on it, so the rest stays proved.
func (r *reader) readable(action string, err error) bool {
	unread := slices.Clone(r.unread)
	ok := r.answered(action, err)
	r.unread = unread
	return ok
}

func (r *reader) needsRole(name string) { r.wanted[name] = true }

// roles reads the roles of workloads, and those of the stack.
func (r *reader) roles() {
	if r.path != "" {
		for _, role := range every(r, "iam:ListRoles",
			iam.NewListRolesPaginator(r.iam(), &iam.ListRolesInput{PathPrefix: &r.path}),
			func(p *iam.ListRolesOutput) []types.Role { return p.Roles }) {
			r.needsRole(aws.ToString(role.RoleName))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.wanted)) {
		r.role(name)
	}
}

// role reads a role with everything that it may do. One that cannot be read whole is only there.
func (r *reader) role(name string) {
	x := r.add("aws:iam/role:Role", name, "", object{})
	x.External = true
	client := r.iam()
	out, err := client.GetRole(r.ctx, &iam.GetRoleInput{RoleName: &name})
	if !r.readable("iam:GetRole", err) {
		return
	}
	in := object{
		"name": name, "path": value(out.Role.Path), "assumeRolePolicy": document(out.Role.AssumeRolePolicyDocument),
	}
	x.Outputs["arn"] = value(out.Role.Arn)
	if b := out.Role.PermissionsBoundary; b != nil {
		in["permissionsBoundary"] = value(b.PermissionsBoundaryArn)
		r.policy(client, b.PermissionsBoundaryArn, r.answered)
	}
	for p := iam.NewListRolePoliciesPaginator(client, &iam.ListRolePoliciesInput{RoleName: &name}); p.HasMorePages(); {
		page, err := p.NextPage(r.ctx)
		if !r.readable("iam:ListRolePolicies", err) {
			return
		}
		for _, policy := range page.PolicyNames {
			out, err := client.GetRolePolicy(r.ctx, &iam.GetRolePolicyInput{RoleName: &name, PolicyName: &policy})
			if !r.readable("iam:GetRolePolicy", err) {
				return
			}
			r.add("aws:iam/rolePolicy:RolePolicy", name+":"+policy, "", object{
				"role": name, "policy": document(out.PolicyDocument),
			})
		}
	}
	attached := iam.NewListAttachedRolePoliciesPaginator(client, &iam.ListAttachedRolePoliciesInput{RoleName: &name})
	for attached.HasMorePages() {
		page, err := attached.NextPage(r.ctx)
		if !r.readable("iam:ListAttachedRolePolicies", err) {
			return
		}
		for _, policy := range page.AttachedPolicies {
			r.policy(client, policy.PolicyArn, r.readable)
			r.add("aws:iam/rolePolicyAttachment:RolePolicyAttachment", name+":"+aws.ToString(policy.PolicyArn), "",
				object{"role": name, "policyArn": value(policy.PolicyArn)})
		}
	}
	x.External, x.Inputs = false, in
}

// policy reads a policy that is not part of a role. Without its answer a boundary would limit
// nothing, and what a workload must be able to do would be proved by that.
func (r *reader) policy(client *iam.Client, arn *string, answered func(string, error) bool) {
	if had := r.named[[2]string{"aws:iam/policy:Policy", aws.ToString(arn)}]; had != nil && !had.External {
		return
	}
	x := r.add("aws:iam/policy:Policy", aws.ToString(arn), "", object{})
	x.External = true
	about, err := client.GetPolicy(r.ctx, &iam.GetPolicyInput{PolicyArn: arn})
	if !answered("iam:GetPolicy", err) {
		return
	}
	out, err := client.GetPolicyVersion(r.ctx, &iam.GetPolicyVersionInput{
		PolicyArn: arn, VersionId: about.Policy.DefaultVersionId,
	})
	if answered("iam:GetPolicyVersion", err) {
		x.External, x.Inputs["policy"] = false, document(out.PolicyVersion.Document)
	}
}

// document returns a document of IAM, which escapes it.
func document(text *string) any {
	if text == nil {
		return nil
	}
	if plain, err := url.PathUnescape(*text); err == nil && strings.HasPrefix(*text, "%7B") {
		return plain
	}
	return *text
}

// secrets reads who may read the secrets of the stack, and never their values.
func (r *reader) secrets() {
	if r.path == "" { // somebody's own network
		return
	}
	client := secretsmanager.NewFromConfig(r.cfg)
	for _, s := range every(r, "secretsmanager:ListSecrets",
		secretsmanager.NewListSecretsPaginator(client, &secretsmanager.ListSecretsInput{Filters: []secret.Filter{
			{Key: secret.FilterNameStringTypeTagKey, Values: []string{graph.TagStack}},
		}}), func(p *secretsmanager.ListSecretsOutput) []secret.SecretListEntry { return p.SecretList }) {
		if !slices.ContainsFunc(s.Tags, func(t secret.Tag) bool {
			return aws.ToString(t.Key) == graph.TagStack && aws.ToString(t.Value) == r.stack
		}) || s.DeletedDate != nil {
			continue
		}
		x := r.add("aws:secretsmanager/secret:Secret", aws.ToString(s.ARN), aws.ToString(s.Name), object{
			"name": value(s.Name),
		})
		out, err := client.GetResourcePolicy(r.ctx, &secretsmanager.GetResourcePolicyInput{SecretId: s.ARN})
		if r.answered("secretsmanager:GetResourcePolicy", err) && aws.ToString(out.ResourcePolicy) != "" {
			r.add("aws:secretsmanager/secretPolicy:SecretPolicy", "policy of "+x.ID, "", object{
				"secretArn": x.ID, "policy": *out.ResourcePolicy,
			})
		}
	}
}
