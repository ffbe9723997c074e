package document

// Deployer is the policy of the pipeline or person that brings stacks up and down. No stack
// declares it, because it must exist before.
type Deployer struct {
	Place Place
	Stack string
}

// deployed are all actions, within a region, of the services of which a stack is made.
var deployed = []string{
	"application-autoscaling:*", "autoscaling:*", "cloudwatch:*", "ec2:*", "ecs:*", "elasticloadbalancing:*", "firehose:*", "kms:*", "logs:*", "route53resolver:*",
	"secretsmanager:*", "servicediscovery:*", "sns:*",
}

// linked are the services that make a role of their own in an account, with the permissions of
// whoever uses them first.
var linked = []string{
	"autoscaling.amazonaws.com", "ecs.amazonaws.com", "ecs.application-autoscaling.amazonaws.com", "elasticloadbalancing.amazonaws.com", "route53resolver.amazonaws.com",
}

// assumed are the services to which roles of a stack are passed.
var assumed = []string{"ec2.amazonaws.com", "ecs-tasks.amazonaws.com", "firehose.amazonaws.com", "logs.amazonaws.com"}

// Policy returns the identity's policy. It makes no role without the stack's boundary, and reads no
// secret.
func (d Deployer) Policy() Policy {
	p := d.Place
	iam := func(resource string) ARN { return ARN("arn:" + p.Partition + ":iam::" + p.Account + ":" + resource) }
	roles := []ARN{p.Role("postern/" + d.Stack + "-*")}
	bounded := Condition{"ArnLike": {"iam:PermissionsBoundary": {string(p.Policy("postern/" + d.Stack + "-boundary-*"))}}}
	return NewPolicy(
		Statement{Sid: "Region", Effect: Allow, Action: deployed, Resource: Everything, Condition: Condition{"StringEquals": {"aws:RequestedRegion": {p.Region}}}},
		// Names of buckets have no region. Cloud Map's zone has none either.
		Statement{Sid: "Buckets", Effect: Allow, Action: []string{"s3:*"}, Resource: []ARN{p.Bucket(d.Stack + "-*"), p.Bucket(d.Stack + "-*/*")}},
		Statement{Sid: "Zone", Effect: Allow, Action: []string{
			"route53:ChangeResourceRecordSets", "route53:CreateHostedZone", "route53:DeleteHostedZone", "route53:GetChange", "route53:GetHostedZone", "route53:ListHostedZonesByName",
			"route53:ListResourceRecordSets",
		}, Resource: Everything},
		Statement{Sid: "MakeRoles", Effect: Allow, Action: []string{"iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"}, Resource: roles, Condition: bounded},
		Statement{Sid: "ChangeRoles", Effect: Allow, Action: []string{
			"iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole",
			"iam:ListRolePolicies", "iam:ListRoleTags", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:UpdateRoleDescription",
		}, Resource: roles},
		Statement{Sid: "Policies", Effect: Allow, Action: []string{
			"iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeletePolicyVersion", "iam:GetPolicy", "iam:GetPolicyVersion", "iam:ListEntitiesForPolicy",
			"iam:ListPolicyVersions", "iam:TagPolicy", "iam:UntagPolicy",
		}, Resource: []ARN{p.Policy("postern/" + d.Stack + "-*")}},
		Statement{Sid: "Profiles", Effect: Allow, Action: []string{
			"iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:DeleteInstanceProfile", "iam:GetInstanceProfile", "iam:RemoveRoleFromInstanceProfile",
			"iam:TagInstanceProfile", "iam:UntagInstanceProfile",
		}, Resource: []ARN{iam("instance-profile/postern/" + d.Stack + "-*")}},
		Statement{Sid: "PassRoles", Effect: Allow, Action: []string{"iam:PassRole"}, Resource: roles, Condition: Condition{"StringEquals": {"iam:PassedToService": assumed}}},
		Statement{Sid: "LinkedRoles", Effect: Allow, Action: []string{"iam:CreateServiceLinkedRole"}, Resource: []ARN{iam("role/aws-service-role/*")}, Condition: Condition{"StringEquals": {"iam:AWSServiceName": linked}}},
		Statement{Sid: "NoSecretValues", Effect: Deny, Action: []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"}, Resource: Everything},
		Statement{Sid: "NoUnboundRoles", Effect: Deny, Action: []string{"iam:DeleteRolePermissionsBoundary"}, Resource: Everything},
	)
}
