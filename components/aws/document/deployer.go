package document

import "github.com/postern/postern/graph"

// Deployer is the policy of the pipeline or person that brings stacks up and down. No stack
// declares it, because it must exist before.
type Deployer struct {
	Place Place
	Stack string
}

// deployed are all actions, within a region, of the services of which a stack is made.
var deployed = []string{
	"application-autoscaling:*", "autoscaling:*", "cloudwatch:*", "ec2:*", "ecs:*", "elasticloadbalancing:*",
	"firehose:*", "kms:*", "logs:*", "route53resolver:*",
	"secretsmanager:*", "servicediscovery:*", "sns:*",
}

// looked are the actions of these services that only look, and show no secret and no event.
var looked = []string{
	"application-autoscaling:Describe*", "application-autoscaling:ListTagsForResource", "autoscaling:Describe*",
	"cloudwatch:Describe*", "cloudwatch:ListTagsForResource",
	"ec2:Describe*", "ec2:GetInstanceTypesFromInstanceRequirements", "ec2:GetManagedPrefixListEntries",
	"ecs:Describe*", "ecs:List*", "elasticloadbalancing:Describe*",
	"firehose:Describe*", "firehose:List*", "kms:Describe*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
	"kms:List*", "logs:Describe*", "logs:GetLogDelivery",
	"logs:List*", "route53resolver:Get*", "route53resolver:List*", "secretsmanager:DescribeSecret",
	"secretsmanager:GetResourcePolicy", "secretsmanager:ListSecrets",
	"servicediscovery:Get*", "servicediscovery:List*", "sns:Get*", "sns:List*",
}

// unowned are the actions on what can have no tag and no name of the stack's.
var unowned = []string{
	"ec2:ModifyVpcBlockPublicAccessOptions", "ecs:DeregisterTaskDefinition", "logs:CreateLogDelivery",
	"logs:DeleteLogDelivery", "logs:DeleteQueryDefinition",
	"logs:DeleteResourcePolicy", "logs:PutQueryDefinition", "logs:PutResourcePolicy",
	"route53resolver:UpdateFirewallConfig", "servicediscovery:UntagResource", "sns:Unsubscribe",
}

// linked are the services that make a role of their own in an account, with the permissions of
// whoever uses them first.
var linked = []string{
	"autoscaling.amazonaws.com", "ecs.amazonaws.com", "ecs.application-autoscaling.amazonaws.com",
	"elasticloadbalancing.amazonaws.com", "route53resolver.amazonaws.com",
}

// assumed are the services to which roles of a stack are passed.
var assumed = []string{"ec2.amazonaws.com", "ecs-tasks.amazonaws.com", "firehose.amazonaws.com", "logs.amazonaws.com"}

// own is what names of the stack's own begin with. No stack's name has a slash.
func (d Deployer) own() string { return "postern/" + d.Stack + "/" }

// Policy returns the identity's policy for everything but IAM. It changes what has the stack's
// tag or name, and reads no secret.
func (d Deployer) Policy() Policy {
	p, own := d.Place, d.own()
	here := func(key string, values ...string) Condition {
		c := Condition{"StringEquals": {"aws:RequestedRegion": {p.Region}}}
		if key != "" {
			c["StringEquals"][key] = values
		}
		return c
	}
	tag := "aws:ResourceTag/" + graph.TagStack
	// What belongs to another stack is not made ours by a tag.
	made := here("aws:RequestTag/"+graph.TagStack, d.Stack)
	made["StringEqualsIfExists"] = map[string][]string{tag: {d.Stack}}
	untagged := map[string][]string{tag: {"true"}}
	keys := []ARN{p.ARN("kms", "key/*")}
	var buckets []ARN
	for _, name := range Buckets(d.Stack) {
		buckets = append(buckets, p.Bucket(name+"-???????"), p.Bucket(name+"-???????/*"))
	}
	names := Namespace(d.Stack)
	return NewPolicy(
		Statement{Sid: "Look", Effect: Allow, Action: looked, Resource: Everything, Condition: here("")},
		Statement{
			Sid: "Own", Effect: Allow, Action: deployed,
			Resource:  Everything,
			Condition: here(tag, d.Stack),
		},
		Statement{
			Sid: "Make", Effect: Allow, Action: deployed,
			Resource:  Everything,
			Condition: made,
		},
		Statement{Sid: "Named", Effect: Allow, Action: []string{"cloudwatch:*", "kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias", "logs:*"}, Resource: []ARN{
			p.ARN("cloudwatch", "alarm:postern-"+d.Stack+"/*"), p.ARN("kms", "alias/"+own+"*"), p.LogGroup("/" + own + "*"),
		}},
		Statement{Sid: "Unowned", Effect: Allow, Action: unowned, Resource: Everything, Condition: here("")},
		// A machine's image may be of anybody.
		Statement{Sid: "Images", Effect: Allow, Action: []string{"ec2:RunInstances"}, Resource: []ARN{
			ARN("arn:" + p.Partition + ":ec2:" + p.Region + "::image/*"), ARN("arn:" + p.Partition + ":ec2:" + p.Region + "::snapshot/*"),
		}},
		// The ACL that a new network comes with is emptied before it has tags.
		Statement{
			Sid: "DefaultACL", Effect: Allow, Action: []string{"ec2:DeleteNetworkAclEntry"},
			Resource:  []ARN{p.ARN("ec2", "network-acl/*")},
			Condition: Condition{"Null": untagged},
		},
		// KMS sees the tags of a new key up to five minutes later.
		Statement{
			Sid: "NewKeys", Effect: Allow, Action: []string{"kms:CreateAlias", "kms:EnableKeyRotation"},
			Resource: keys, Condition: Condition{"Null": untagged},
		},
		Statement{
			Sid: "StreamKeys", Effect: Allow, Action: []string{"kms:CreateGrant"}, Resource: keys,
			Condition: Condition{"Null": untagged, "StringEquals": {"kms:ViaService": {"firehose." + p.Region + ".amazonaws.com"}}},
		},
		// Auto Scaling makes alarms without tags in the name of the caller.
		Statement{
			Sid: "Scaling", Effect: Allow, Action: []string{"cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm"},
			Resource: []ARN{p.ARN("cloudwatch", "alarm:TargetTracking-*")},
		},
		// Names of buckets have no region. Cloud Map's zone and those of endpoints have none
		// either.
		Statement{Sid: "Buckets", Effect: Allow, Action: []string{"s3:*"}, Resource: buckets},
		Statement{Sid: "Zones", Effect: Allow, Action: []string{
			"route53:DeleteHostedZone", "route53:GetChange", "route53:GetHostedZone",
			"route53:ListHostedZonesByName", "route53:ListResourceRecordSets",
		}, Resource: Everything},
		Statement{Sid: "PrivateZones", Effect: Allow, Action: []string{
			"route53:AssociateVPCWithHostedZone", "route53:CreateHostedZone", "route53:DisassociateVPCFromHostedZone",
		}, Resource: Everything, Condition: Condition{"Null": {"route53:VPCs": {"false"}}}},
		Statement{Sid: "Records", Effect: Allow, Action: []string{"route53:ChangeResourceRecordSets"}, Resource: Everything, Condition: Condition{
			"ForAllValues:StringLike": {"route53:ChangeResourceRecordSetsNormalizedRecordNames": {names, "*." + names}},
			"Null":                    {"route53:ChangeResourceRecordSetsNormalizedRecordNames": {"false"}},
		}},
		Statement{
			Sid: "NoSecretValues", Effect: Deny, Action: []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"},
			Resource: Everything,
		},
	)
}

// State returns the identity's policy for the bucket with Pulumi's state, which the deployer did
// not make.
func (d Deployer) State(bucket string) Policy {
	at := d.Place.Bucket(bucket)
	return NewPolicy(
		Statement{Sid: "Find", Effect: Allow, Action: []string{"s3:ListBucket"}, Resource: []ARN{at}},
		Statement{
			Sid: "Keep", Effect: Allow, Action: []string{"s3:DeleteObject", "s3:GetObject", "s3:PutObject"},
			Resource: []ARN{at.Below("/.pulumi/*")},
		},
	)
}

// Identities returns the identity's policy for IAM. It makes no role without the stack's
// boundary. The two policies together are longer than one may be.
func (d Deployer) Identities() Policy {
	p, own := d.Place, d.own()
	iam := func(resource string) ARN { return ARN("arn:" + p.Partition + ":iam::" + p.Account + ":" + resource) }
	roles := []ARN{p.Role(own + "*")}
	bounded := Condition{"ArnLike": {"iam:PermissionsBoundary": {string(p.Policy(own + d.Stack + "-boundary-*"))}}}
	return NewPolicy(
		Statement{
			Sid: "MakeRoles", Effect: Allow, Action: []string{"iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"},
			Resource:  roles,
			Condition: bounded,
		},
		Statement{Sid: "ChangeRoles", Effect: Allow, Action: []string{
			"iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:GetRole",
			"iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole",
			"iam:ListRolePolicies", "iam:ListRoleTags", "iam:TagRole", "iam:UntagRole",
			"iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:UpdateRoleDescription",
		}, Resource: roles},
		Statement{Sid: "Policies", Effect: Allow, Action: []string{
			"iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeletePolicyVersion",
			"iam:GetPolicy", "iam:GetPolicyVersion", "iam:ListEntitiesForPolicy",
			"iam:ListPolicyVersions", "iam:TagPolicy", "iam:UntagPolicy",
		}, Resource: []ARN{p.Policy(own + "*")}},
		Statement{Sid: "Profiles", Effect: Allow, Action: []string{
			"iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:DeleteInstanceProfile",
			"iam:GetInstanceProfile", "iam:RemoveRoleFromInstanceProfile",
			"iam:TagInstanceProfile", "iam:UntagInstanceProfile",
		}, Resource: []ARN{iam("instance-profile/" + own + "*")}},
		Statement{
			Sid: "PassRoles", Effect: Allow, Action: []string{"iam:PassRole"},
			Resource:  roles,
			Condition: Condition{"StringEquals": {"iam:PassedToService": assumed}},
		},
		Statement{
			Sid: "LinkedRoles", Effect: Allow, Action: []string{"iam:CreateServiceLinkedRole"},
			Resource:  []ARN{iam("role/aws-service-role/*")},
			Condition: Condition{"StringEquals": {"iam:AWSServiceName": linked}},
		},
		Statement{
			Sid: "NoUnboundRoles", Effect: Deny, Action: []string{"iam:DeleteRolePermissionsBoundary"},
			Resource: Everything,
		},
	)
}

// Buckets returns what the names of a stack's buckets begin with. Seven characters that Pulumi
// chooses follow. Nobody else's buckets have such names by chance.
func Buckets(stack string) []string {
	return []string{"postern-" + stack + "-audit-flows", "postern-" + stack + "-audit-log", "postern-" + stack + "-bundles-store"}
}

// Namespace returns the domain of a stack inside its egress network.
func Namespace(stack string) string { return stack + ".postern.internal" }
