package document

import "github.com/postern/postern/graph"

// pull are the actions for pulling an image.
var pull = []string{"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}

var read = []string{"secretsmanager:GetSecretValue"}

var ship = []string{"logs:CreateLogStream", "logs:PutLogEvents"}

// Execution is the role with which ECS starts a task: it reads the image and the task's secrets,
// and writes its log.
type Execution struct {
	Place   Place
	Image   string
	Group   string // log group
	Secrets []ARN  // may be empty
	Key     ARN    // encrypts the secrets
}

// Policy returns the policy of the execution role.
func (e Execution) Policy() Policy {
	p := NewPolicy(
		// The one action of ECR without a repository.
		Statement{
			Sid: "Registry", Effect: Allow, Action: []string{"ecr:GetAuthorizationToken"},
			Resource: Everything,
		},
		Statement{Sid: "Image", Effect: Allow, Action: pull, Resource: []ARN{e.Place.Repository(e.Image)}},
		Statement{Sid: "Log", Effect: Allow, Action: ship, Resource: []ARN{e.Place.LogStreams(e.Group)}},
	)
	if len(e.Secrets) > 0 {
		p.Statement = append(p.Statement, e.secrets()...)
	}
	return p
}

func (e Execution) secrets() []Statement {
	return []Statement{
		{Sid: "Secrets", Effect: Allow, Action: []string{"secretsmanager:GetSecretValue"}, Resource: e.Secrets},
		decrypt(e.Place, e.Key, "secretsmanager"),
	}
}

// decrypt lets a service, and nobody else, decrypt with a key on behalf of the caller.
func decrypt(p Place, key ARN, service string) Statement {
	return Statement{
		Sid: "Decrypt", Effect: Allow, Action: []string{"kms:Decrypt"}, Resource: []ARN{key},
		Condition: Condition{"StringEquals": {"kms:ViaService": {service + "." + p.Region + ".amazonaws.com"}}},
	}
}

// From says where calls must come from: through one endpoint, or through any endpoint of a VPC.
// With addresses, they may also come from the public addresses of that VPC's NAT gateways.
type From struct {
	Endpoint  string
	VPC       string
	Addresses []string
}

// elsewhere returns statements that refuse what comes from elsewhere. The caller adds the
// principals and the resources.
func (f From) elsewhere() []Statement {
	another := Statement{Sid: "FromElsewhere", Effect: Deny, Condition: Condition{"StringNotEquals": {"aws:SourceVpc": {f.VPC}}}}
	switch {
	case f.Endpoint != "":
		return []Statement{{Sid: "OnlyEndpoint", Effect: Deny, Condition: Condition{"StringNotEquals": {"aws:SourceVpce": {f.Endpoint}}}}}
	case len(f.Addresses) == 0:
		return []Statement{another} // without an endpoint the key is missing, so that is refused too
	}
	// What comes through any endpoint has a VPC and no public address.
	another.Sid, another.Condition["Null"] = "FromAnotherVPC", map[string][]string{"aws:SourceVpc": {"false"}}
	return []Statement{
		{Sid: "FromElsewhere", Effect: Deny, Condition: Condition{"NotIpAddress": {"aws:SourceIp": f.Addresses}, "Null": {"aws:SourceVpc": {"true"}}}},
		another,
	}
}

// deny returns the statements by which a role is refused everything from elsewhere. If a service
// asks another on behalf of the role, as Secrets Manager asks KMS, the request comes from neither
// place; but the role had to ask the service from here.
func (f From) deny() []Statement {
	out := f.elsewhere()
	for i := range out {
		out[i].Action, out[i].Resource = []string{"*"}, Everything
		out[i].Condition["Bool"] = map[string][]string{"aws:ViaAWSService": {"false"}}
	}
	return out
}

// Control is the role of the control plane. It reads publications, reports on itself, and reads
// the secrets of the stack file's credentials.
type Control struct {
	Place   Place
	Bundles ARN   // bucket
	Secrets []ARN // exactly those
	Key     ARN
	From    From
}

// Policy returns the policy of the control plane's role.
func (c Control) Policy() Policy {
	p := NewPolicy(
		Statement{
			Sid: "FindPublications", Effect: Allow, Action: []string{"s3:ListBucket"},
			Resource: []ARN{c.Bundles},
		},
		Statement{
			Sid: "ReadPublications", Effect: Allow, Action: []string{"s3:GetObject"},
			Resource: []ARN{c.Bundles.Below("/*")},
		},
		Statement{
			Sid: "Report", Effect: Allow, Action: []string{"s3:PutObject"},
			Resource: []ARN{c.Bundles.Below("/replicas/*")},
		},
	)
	if len(c.Secrets) > 0 {
		p.Statement = append(p.Statement,
			Statement{Sid: "Secrets", Effect: Allow, Action: read, Resource: c.Secrets},
			decrypt(c.Place, c.Key, "secretsmanager"))
	}
	p.Statement = append(p.Statement, c.From.deny()...)
	return p
}

// Machine is the role of a proxy on a machine of its own. It joins, and ships its log.
type Machine struct {
	Place Place
	Token ARN // the secret with the join token
	Key   ARN
	Group string
}

// Policy returns the policy of the machine's role.
func (m Machine) Policy() Policy {
	return NewPolicy(
		Statement{
			Sid: "Join", Effect: Allow, Action: []string{"secretsmanager:GetSecretValue"},
			Resource: []ARN{m.Token},
		},
		decrypt(m.Place, m.Key, "secretsmanager"),
		Statement{Sid: "Log", Effect: Allow, Action: ship, Resource: []ARN{m.Place.LogStreams(m.Group)}},
	)
}

// Delivery is the role of Firehose, which writes the audit log.
type Delivery struct {
	Place  Place
	Bucket ARN
	Key    ARN
	Group  string // where it reports its own errors
}

// Policy returns the policy of the stream's role.
func (d Delivery) Policy() Policy {
	return NewPolicy(
		Statement{
			Sid: "FindBucket", Effect: Allow, Action: []string{"s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"},
			Resource: []ARN{d.Bucket},
		},
		Statement{
			Sid: "Write", Effect: Allow, Action: []string{"s3:AbortMultipartUpload", "s3:PutObject"},
			Resource: []ARN{d.Bucket.Below("/*")},
		},
		Statement{
			Sid: "Encrypt", Effect: Allow, Action: []string{"kms:Decrypt", "kms:GenerateDataKey"},
			Resource: []ARN{d.Key},
		},
		Statement{
			Sid: "Errors", Effect: Allow, Action: []string{"logs:PutLogEvents"},
			Resource: []ARN{d.Place.LogStreams(d.Group)},
		},
	)
}

// Forward lets CloudWatch Logs hand events to the stream, which is encrypted with the key: the
// caller needs the key too.
func Forward(stream, key ARN) Policy {
	return NewPolicy(
		Statement{
			Sid: "Forward", Effect: Allow, Action: []string{"firehose:PutRecord", "firehose:PutRecordBatch"},
			Resource: []ARN{stream},
		},
		Statement{
			Sid: "Encrypt", Effect: Allow, Action: []string{"kms:Decrypt", "kms:GenerateDataKey"},
			Resource: []ARN{key},
		},
	)
}

// Operators is the policy of people who push policies, rotate secrets and read the audit log.
// They read no secret and delete nothing. Secrets are those with the stack's tag: a list of many
// would be longer than a policy may be.
type Operators struct {
	Place    Place
	Stack    string
	Bundles  ARN
	Key      ARN // of the secrets
	Groups   []string
	Audit    ARN // bucket
	AuditKey ARN
}

// Policy returns the policy of operators.
func (o Operators) Policy() Policy {
	var groups []ARN
	for _, g := range o.Groups {
		groups = append(groups, o.Place.LogGroup(g).Below("*")) // of the group and of its streams
	}
	secrets := []ARN{o.Place.ARN("secretsmanager", "secret:*")}
	own := Condition{"StringEquals": {"aws:ResourceTag/" + graph.TagStack: {o.Stack}}}
	return NewPolicy(
		Statement{Sid: "Find", Effect: Allow, Action: []string{"s3:ListBucket"}, Resource: []ARN{o.Bundles, o.Audit}},
		Statement{
			Sid: "Read", Effect: Allow, Action: []string{"s3:GetObject"},
			Resource: []ARN{o.Bundles.Below("/*"), o.Audit.Below("/*")},
		},
		Statement{
			Sid: "Publish", Effect: Allow, Action: []string{"s3:PutObject"},
			Resource: []ARN{o.Bundles.Below("/*")},
		},
		Statement{
			Sid: "RotateSecrets", Effect: Allow, Action: []string{"secretsmanager:DescribeSecret", "secretsmanager:GetResourcePolicy", "secretsmanager:PutSecretValue"},
			Resource: secrets, Condition: own,
		},
		Statement{
			Sid: "EncryptSecrets", Effect: Allow, Action: []string{"kms:Decrypt", "kms:GenerateDataKey"}, Resource: []ARN{o.Key},
			Condition: Condition{"StringEquals": {"kms:ViaService": {"secretsmanager." + o.Place.Region + ".amazonaws.com"}}},
		},
		Statement{
			Sid: "DecryptAudit", Effect: Allow, Action: []string{"kms:Decrypt"}, Resource: []ARN{o.AuditKey},
			Condition: Condition{"StringEquals": {"kms:ViaService": {"s3." + o.Place.Region + ".amazonaws.com", "logs." + o.Place.Region + ".amazonaws.com"}}},
		},
		Statement{
			Sid: "QueryLogs", Effect: Allow, Action: []string{"logs:FilterLogEvents", "logs:GetLogEvents", "logs:StartQuery"},
			Resource: groups,
		},
		// Of proxies and control plane: new tasks read the secrets again. How many tasks there are is
		// the operators' to change by the same call; what runs, and where, is not.
		Statement{
			Sid: "Redeploy", Effect: Allow, Action: []string{"ecs:UpdateService"}, Resource: []ARN{o.Place.ARN("ecs", "service/*")},
			Condition: Condition{
				"StringEquals": {"aws:ResourceTag/" + graph.TagStack: {o.Stack}, "aws:ResourceTag/" + graph.TagRole: {"control", "proxies"}},
				"Null":         {"ecs:enable-execute-command": {"true"}, "ecs:subnet": {"true"}, "ecs:task-definition": {"true"}},
			},
		},
		// Actions without a resource. They only read, for postern drift and postern prove --live.
		Statement{Sid: "Look", Effect: Allow, Resource: Everything, Action: []string{
			"autoscaling:DescribeAutoScalingGroups",
			"ec2:DescribeEgressOnlyInternetGateways", "ec2:DescribeInstances", "ec2:DescribeInternetGateways",
			"ec2:DescribeLaunchTemplateVersions", "ec2:DescribeManagedPrefixLists", "ec2:DescribeNatGateways",
			"ec2:DescribeNetworkAcls", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables",
			"ec2:DescribeSecurityGroupRules", "ec2:DescribeSecurityGroups",
			"ec2:DescribeSubnets", "ec2:DescribeTransitGatewayVpcAttachments", "ec2:DescribeVpcAttribute",
			"ec2:DescribeVpcBlockPublicAccessOptions", "ec2:DescribeVpcEndpointConnections",
			"ec2:DescribeVpcEndpointServiceConfigurations",
			"ec2:DescribeVpcEndpointServicePermissions", "ec2:DescribeVpcEndpoints",
			"ec2:DescribeVpcPeeringConnections", "ec2:DescribeVpcs", "ec2:DescribeVpnGateways",
			"ec2:GetManagedPrefixListEntries",
			"ecs:DescribeClusters", "ecs:DescribeServices", "ecs:DescribeTaskDefinition", "ecs:ListClusters",
			"ecs:ListServices", "elasticloadbalancing:DescribeListeners",
			"elasticloadbalancing:DescribeLoadBalancers", "elasticloadbalancing:DescribeRules",
			"elasticloadbalancing:DescribeTags", "elasticloadbalancing:DescribeTargetGroupAttributes",
			"elasticloadbalancing:DescribeTargetGroups", "elasticloadbalancing:DescribeTargetHealth",
			"iam:ListRoles", "kms:ListAliases", "logs:DescribeLogGroups", "logs:GetQueryResults",
			"route53profiles:ListProfileAssociations",
			"route53resolver:GetFirewallConfig", "route53resolver:ListFirewallDomains",
			"route53resolver:ListFirewallRuleGroupAssociations", "route53resolver:ListFirewallRules",
			"route53resolver:ListResolverRuleAssociations", "secretsmanager:ListSecrets",
		}},
		Statement{
			Sid: "LookAtKeys", Effect: Allow, Action: []string{"kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus"},
			Resource: []ARN{o.Key, o.AuditKey},
		},
		Statement{Sid: "LookAtRoles", Effect: Allow, Action: []string{
			"iam:GetInstanceProfile", "iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListRolePolicies",
			"iam:ListRoleTags",
		}, Resource: []ARN{o.Place.Role("postern/" + o.Stack + "/*"), o.Place.Profile("postern/" + o.Stack + "/*")}},
		Statement{
			Sid: "LookAtBoundary", Effect: Allow, Action: []string{"iam:GetPolicy", "iam:GetPolicyVersion"},
			Resource: []ARN{o.Place.Policy("postern/" + o.Stack + "/*")},
		},
		// The rest of the account is for other policies to decide about.
		Statement{Sid: "NoDeletion", Effect: Deny, Resource: append(groups, each([]ARN{o.Bundles, o.Audit})...), Action: []string{
			"logs:DeleteLogGroup", "logs:DeleteLogStream", "logs:PutRetentionPolicy", "s3:BypassGovernanceRetention",
			"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketObjectLockConfiguration",
			"s3:PutLifecycleConfiguration", "s3:PutObjectLegalHold",
			"s3:PutObjectRetention",
		}},
		Statement{
			Sid: "NoAuditWriting", Effect: Deny, Action: []string{"s3:PutObject"},
			Resource: []ARN{o.Audit.Below("/*")},
		},
		Statement{
			Sid: "NoSecretValues", Effect: Deny, Action: []string{"secretsmanager:GetSecretValue", "secretsmanager:BatchGetSecretValue"},
			Resource: secrets, Condition: own,
		},
	)
}

// Boundary returns the most that any role of the stack can ever be allowed, whatever policy
// somebody adds to it (IAM User Guide, "Permissions boundaries").
func Boundary(p Place, buckets []ARN, secrets []ARN, keys []ARN, prefix string) Policy {
	return NewPolicy(
		Statement{
			Sid: "Registry", Effect: Allow, Action: []string{"ecr:GetAuthorizationToken"},
			Resource: Everything,
		},
		Statement{Sid: "Images", Effect: Allow, Action: pull, Resource: []ARN{p.ARN("ecr", "repository/*")}},
		Statement{Sid: "Logs", Effect: Allow, Action: ship, Resource: []ARN{p.LogGroup(prefix + "/*")}},
		Statement{Sid: "Secrets", Effect: Allow, Action: read, Resource: secrets},
		Statement{Sid: "Keys", Effect: Allow, Action: []string{"kms:Decrypt", "kms:GenerateDataKey"}, Resource: keys},
		Statement{Sid: "Buckets", Effect: Allow, Action: []string{
			"s3:AbortMultipartUpload", "s3:GetBucketLocation", "s3:GetObject", "s3:ListBucket",
			"s3:ListBucketMultipartUploads", "s3:PutObject",
		}, Resource: each(buckets)},
		Statement{
			Sid: "Stream", Effect: Allow, Action: []string{"firehose:PutRecord", "firehose:PutRecordBatch"},
			Resource: []ARN{p.ARN("firehose", "deliverystream/*")},
		},
		Statement{
			Sid: "NoEscalation", Effect: Deny, Action: []string{"iam:*", "organizations:*", "sts:AssumeRole"},
			Resource: Everything,
		},
	)
}

// each returns the ARNs of the buckets and of their content.
func each(buckets []ARN) []ARN {
	var out []ARN
	for _, b := range buckets {
		out = append(out, b, b.Below("/*"))
	}
	return out
}
