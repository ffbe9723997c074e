package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// rolePath returns the path of a stack's roles and policies. It belongs to no other stack: no stack's
// name has a slash.
func rolePath(stack string) string { return "/postern/" + stack + "/" }

const (
	ecsTasks = "ecs-tasks.amazonaws.com"
	ec2Host  = "ec2.amazonaws.com"
)

// roles declares roles that carry the stack's boundary.
type roles struct{ boundary *iam.Policy }

func newBoundary(s *scope, a *auditLog, bundles pulumi.StringInput, v *vault) *roles {
	in := []pulumi.StringInput{bundles, a.bucket.arn, a.key.arn, v.key.arn}
	fixed := len(in)
	in = append(in, v.arns()...)
	return &roles{boundary: add(s, iam.NewPolicy, "boundary", &iam.PolicyArgs{
		Path:        pulumi.String(rolePath(s.stack)),
		Description: pulumi.String("The most that any role of stack " + s.stack + " can be allowed"),
		Policy: written(func(v []string) string {
			return document.Boundary(s.args.place(), arns(v[:2]), arns(v[fixed:]), arns(v[2:fixed]), logPrefix(s.stack)).Text()
		}, in...),
		Tags: s.tags("boundary"),
	})}
}

// role declares a role for a service, with exactly one policy. Whatever is added by hand is drift,
// which the next `up` removes.
func (r *roles) role(s *scope, suffix, service, description string, policy pulumi.StringInput, sources ...document.ARN) (*iam.Role, *iam.RolePolicy) {
	role := add(s, iam.NewRole, suffix, &iam.RoleArgs{
		Path: pulumi.String(rolePath(s.stack)), Description: pulumi.String(description),
		AssumeRolePolicy:    pulumi.String(document.Trust(s.args.place(), service, sources...).Text()),
		PermissionsBoundary: r.boundary.Arn, MaxSessionDuration: pulumi.Int(3600), Tags: s.tags(suffix),
	})
	only := add(s, iam.NewRolePolicy, suffix, &iam.RolePolicyArgs{Role: role.Name, Policy: policy})
	add(s, iam.NewRolePoliciesExclusive, suffix, &iam.RolePoliciesExclusiveArgs{RoleName: role.Name, PolicyNames: pulumi.StringArray{only.Name}})
	add(s, iam.NewRolePolicyAttachmentsExclusive, suffix, &iam.RolePolicyAttachmentsExclusiveArgs{RoleName: role.Name, PolicyArns: pulumi.StringArray{}})
	return role, only
}

// execution is the role with which ECS starts the tasks of one image.
func (r *roles) execution(
	s *scope, image, group, key pulumi.StringInput, secrets ...pulumi.StringInput,
) *iam.Role {
	place := s.args.place()
	policy := written(func(v []string) string {
		return document.Execution{
			Place: place, Image: v[0], Group: v[1], Key: document.ARN(v[2]), Secrets: arns(v[3:]),
		}.Policy().Text()
	}, append([]pulumi.StringInput{image, group, key}, secrets...)...)
	role, _ := r.role(s, "execution", ecsTasks, "How ECS starts the tasks; no task has it", policy, place.ARN("ecs", "*"))
	return role
}
