package guardrail

import (
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail/document"
	"github.com/postern/postern/policies/reach/aws"
)

// identityPolicies are the types that say what an identity may do.
var identityPolicies = []string{
	"aws:iam/policy", "aws:iam/rolePolicy", "aws:iam/userPolicy", "aws:iam/groupPolicy",
}

// escalations let whoever may do them on everything become somebody else.
var escalations = []string{
	"iam:PassRole", "iam:CreateAccessKey", "iam:CreateLoginProfile", "iam:UpdateLoginProfile", "iam:AttachRolePolicy",
	"iam:AttachUserPolicy", "iam:PutRolePolicy", "iam:PutUserPolicy", "iam:UpdateAssumeRolePolicy",
	"iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion", "sts:AssumeRole", "lambda:CreateFunction",
}

// boundary reports whether a policy is the most that roles may be allowed, and allows nothing
// itself.
func (c *checker) boundary(r *graph.Resource) bool {
	for _, role := range c.all("aws:iam/role") {
		if slices.Contains(c.places.to(role, "permissionsBoundary", "aws:iam/policy"), r) {
			return true
		}
	}
	return false
}

// ofAWS matches the ARNs of policies that AWS manages, in each partition.
var ofAWS = regexp.MustCompile(`^arn:aws[a-z-]*:iam::aws:policy/`)

// wide reports statements that allow too much.
func (c *checker) wide(r *graph.Resource, property string, statements []document.Statement) {
	for _, s := range statements {
		if !s.Allows() {
			continue
		}
		if s.NotAction != nil {
			c.fail(r, property, "it allows all actions but some, and so what AWS adds tomorrow")
		}
		for _, a := range s.Actions {
			service, action, _ := strings.Cut(a, ":")
			if strings.Trim(service, "*?") == "" || strings.Trim(action, "*?") == "" {
				c.fail(r, property, "it allows %s", a)
			}
		}
		for _, e := range escalations {
			if s.Does(e) && s.NotAction == nil && (s.NotResource != nil || document.Everything(s.Resources)) {
				c.fail(r, property, "it allows %s on everything", e)
			}
		}
	}
}

var accessRails = []Rail{
	{
		ID: "IAM-01", Severity: Error, Says: "An agent's task has no role.", Fix: "remove taskRoleArn",
		Types: []string{"aws:ecs/taskDefinition"},
		Each: func(c *checker, r *graph.Resource) {
			if r.Role == agents && set(r, "taskRoleArn") {
				c.fail(r, "taskRoleArn", "the agent gets its credentials at 169.254.170.2")
			}
		},
	},
	{
		ID: "IAM-02", Severity: Error, Says: "No policy allows everything of a service, or to become somebody else.",
		Fix: "name the actions and the resources",
		Others: []string{
			"CKV_AWS_1", "CKV_AWS_49", "CKV_AWS_62", "CKV_AWS_63", "CKV_AWS_274", "CKV_AWS_275", "CKV_AWS_286",
			"CKV_AWS_287", "CKV_AWS_288", "CKV_AWS_289", "CKV_AWS_290", "CKV_AWS_355", "CKV_AWS_356", "CKV2_AWS_40",
			"CKV2_AWS_56",
		},
		Types: append([]string{
			"aws:iam/rolePolicyAttachment", "aws:iam/userPolicyAttachment", "aws:iam/groupPolicyAttachment",
			"aws:iam/policyAttachment", "aws:iam/rolePolicyAttachmentsExclusive", "aws:iam/role",
		}, identityPolicies...),
		Each: func(c *checker, r *graph.Resource) {
			for _, property := range []string{"policyArn", "policyArns", "managedPolicyArns"} {
				for _, arn := range c.texts(r, property) {
					if ofAWS.MatchString(arn) {
						c.fail(r, property, "%s is AWS's, and AWS changes it", arn)
					}
				}
			}
			if is(r, "aws:iam/role") {
				c.each(r, "inlinePolicies.*.policy", func(path string, v any) {
					c.wide(r, path, c.document(r, path, v))
				})
			} else if !strings.Contains(r.Type, "Attachment") && !c.boundary(r) {
				c.wide(r, "policy", c.statements(r, "policy"))
			}
		},
	},
	{
		ID: "IAM-03", Severity: Error, Says: "A role trusts one service, for resources of this account.",
		Fix:    "name the service, and require aws:SourceAccount or aws:SourceArn",
		Others: []string{"CKV_AWS_60", "CKV_AWS_61"}, Types: []string{"aws:iam/role"},
		Each: func(c *checker, r *graph.Resource) {
			trusted := map[string]bool{}
			for _, s := range c.statements(r, "assumeRolePolicy") {
				if !s.Allows() {
					continue
				}
				service := s.Service()
				trusted[strings.Join(s.Principals, " and ")] = true
				switch other := s.SourceBut(aws.Account(c.places.g)); {
				case s.Anybody():
					c.fail(r, "assumeRolePolicy", "everybody may take the role")
				case service == "":
					c.fail(r, "assumeRolePolicy", "%s may take the role", strings.Join(s.Principals, " and "))
				case other != "":
					c.fail(r, "assumeRolePolicy", "%s may take the role for %s", service, other)
				// EC2 sends neither when a machine asks for its role.
				case service != "ec2.amazonaws.com" &&
					!s.Limits(document.Matching, "aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid"):
					c.fail(r, "assumeRolePolicy", "%s may take the role for another account's resource", service)
				}
			}
			if len(trusted) > 1 {
				c.fail(r, "assumeRolePolicy", "%s may take the role", strings.Join(sortedKeys(trusted), " and "))
			}
		},
	},
	{
		ID: "IAM-04", Severity: Error, Says: "A role that reads secrets names each of them.",
		Fix:   "write the ARN of each secret, which may end with -??????",
		Types: append([]string{"aws:iam/role"}, identityPolicies...),
		Each: func(c *checker, r *graph.Resource) {
			if c.boundary(r) {
				return
			}
			check := func(path string, v any) {
				for _, s := range c.document(r, path, v) {
					if !s.Allows() || !s.Does("secretsmanager:GetSecretValue") {
						continue
					}
					for _, arn := range append(s.Resources, document.Texts(s.NotResource)...) {
						if strings.Contains(arn, "*") || s.NotResource != nil {
							c.fail(r, path, "it reads the secrets %s", arn)
						}
					}
				}
			}
			if is(r, "aws:iam/role") {
				c.each(r, "inlinePolicies.*.policy", check)
				return
			}
			check("policy", r.Value("policy"))
		},
	},
	{
		ID: "IAM-05", Severity: Error, Says: "A proxy's task has no role: what it needs, the control plane gives it.",
		Fix:   "remove taskRoleArn",
		Types: []string{"aws:ecs/taskDefinition"},
		Each: func(c *checker, r *graph.Resource) {
			if r.Role == proxies && set(r, "taskRoleArn") {
				c.fail(r, "taskRoleArn", "whoever takes a proxy over has it")
			}
		},
	},
	{
		ID: "IAM-06", Severity: Error, Says: "Every role has a permissions boundary.", Fix: "write permissionsBoundary",
		Types: []string{"aws:iam/role", "aws:iam/policy"},
		Needs: []need{{types: []string{"aws:iam/role"}, path: "permissionsBoundary"}},
		Each: func(c *checker, r *graph.Resource) {
			if is(r, "aws:iam/role") {
				if ofAWS.MatchString(r.String("permissionsBoundary")) {
					c.fail(r, "permissionsBoundary", "%s is AWS's, and AWS changes it", r.String("permissionsBoundary"))
				}
				return
			}
			bounds := c.boundary(r)
			if !bounds && len(c.all("aws:iam/role")) > 0 {
				return
			}
			// The engine's pack looks at a policy alone, too, when what it says is known.
			for _, s := range c.statements(r, "policy") {
				every := func(action string) bool { return strings.Trim(action, "*?:") == "" }
				if bounds && s.Allows() && len(s.Condition) == 0 && document.Everything(s.Resources) &&
					(s.NotAction != nil || slices.ContainsFunc(s.Actions, every)) {
					c.fail(r, "policy", "it allows everything, and so bounds nothing")
				}
			}
		},
	},
	{
		ID: "IAM-07", Severity: Warning, Says: "What reads secrets does so from its own network only.",
		Fix:   "deny it unless aws:SourceVpc, aws:SourceVpce or aws:SourceIp is the stack's own",
		Types: []string{"aws:secretsmanager/secretPolicy"},
		Each: func(c *checker, r *graph.Resource) {
			all := c.statements(r, "policy")
			if len(all) > 0 && !slices.ContainsFunc(all, func(s document.Statement) bool {
				return s.Requires(slices.Concat(document.Matching, document.Differing),
					"aws:sourcevpc", "aws:sourcevpce", "aws:sourceip")
			}) {
				c.fail(r, "policy", "a stolen credential of the reader works from everywhere")
			}
		},
	},
	{
		ID: "IAM-08", Severity: Warning, Says: "There are no users and no access keys.", Fix: "use roles",
		Others: []string{"CKV_AWS_273", "CKV_AWS_40"},
		Types:  []string{"aws:iam/user", "aws:iam/accessKey", "aws:iam/userLoginProfile", "aws:iam/groupMembership"},
		Each:   func(c *checker, r *graph.Resource) { c.fail(r, "", "it has credentials that do not end") },
	},
	{
		ID: "IAM-09", Severity: Error,
		Says: "The policy of a resource is not for everybody, nor for all but some; " +
			"of a key, secret or bucket, nor for another account.",
		Fix:    "name the principals and the actions, or write a condition",
		Others: []string{"CKV_AWS_33"},
		Types: []string{
			"aws:s3/bucketPolicy", "aws:kms/key", "aws:kms/keyPolicy", "aws:secretsmanager/secretPolicy",
			"aws:secretsmanager/secret", "aws:ec2/vpcEndpoint",
			"aws:ec2/vpcEndpointPolicy", "aws:ecr/repositoryPolicy", "aws:sns/topicPolicy", "aws:sqs/queuePolicy",
			"aws:cloudwatch/logResourcePolicy",
		},
		Each: func(c *checker, r *graph.Resource) {
			property := "policy"
			if is(r, "aws:cloudwatch/logResourcePolicy") {
				property = "policyDocument"
			}
			for _, s := range c.statements(r, property) {
				switch {
				case s.NotPrincipal != nil:
					c.fail(r, property, "NotPrincipal is everybody who was not thought of")
				case s.Allows() && s.NotAction != nil:
					c.fail(r, property, "it allows all actions but some, and so what AWS adds tomorrow")
				case s.Allows() && s.Anybody() && !s.Limits(document.Matching, document.Whom...) && !s.OfLayers():
					c.fail(r, property, "everybody in every account may do %s", strings.Join(s.Actions, ", "))
				}
				if own := aws.Account(c.places.g); s.Allows() && own != "" && slices.ContainsFunc([]string{
					"aws:kms/", "aws:secretsmanager/", "aws:s3/",
				}, func(kind string) bool { return strings.HasPrefix(r.Type, kind) }) {
					for _, p := range s.Principals {
						if other := document.AccountOf(p); other != "" && other != own {
							c.fail(r, property, "%s of another account may do %s", p, strings.Join(s.Actions, ", "))
						}
					}
				}
			}
		},
	},
	{
		ID: "EPT-01", Severity: Error,
		Says: "The agents' own network has an endpoint for the proxies, and what Fargate needs, only.",
		Fix:  "place it in the proxies' network", Types: []string{"aws:ec2/vpcEndpoint"},
		Each: func(c *checker, r *graph.Resource) {
			if v := c.agentsEndpoint(r); v != nil && !slices.Contains(fargateServices, c.service(r)) {
				c.fail(r, "serviceName", "it is in %s, in which there are only agents", v.Name)
			}
		},
	},
	{
		ID: "EPT-02", Severity: Error, Says: "No route table of agents has a gateway endpoint.",
		Fix:   "write the route tables of the proxies and the control plane",
		Types: []string{"aws:ec2/vpcEndpoint", "aws:ec2/vpcEndpointRouteTableAssociation"},
		Each: func(c *checker, r *graph.Resource) {
			for _, property := range []string{"routeTableIds", "routeTableId"} {
				for _, t := range c.places.to(r, property, "aws:ec2/routeTable") {
					if c.places.tables[agents][t] {
						c.fail(r, property, "agents use %s, and any bucket in the world is behind the endpoint", t.Name)
					}
				}
			}
		},
	},
	{
		ID: "EPT-03", Severity: Error,
		Says:   "The endpoint of a cloud's service has a policy that says who may do what.",
		Fix:    "write policy, with the accounts, actions and resources that are needed",
		Others: []string{"vpc_endpoint_connections_trust_boundaries"}, Types: []string{"aws:ec2/vpcEndpoint"},
		Each: func(c *checker, r *graph.Resource) {
			if c.ours(r) {
				return
			}
			if !set(r, "policy") {
				c.fail(r, "policy", "without a policy, everybody may do everything through the endpoint")
			}
			for _, s := range c.statements(r, "policy") {
				if s.Allows() && (s.NotAction != nil || slices.Contains(s.Actions, "*")) && s.Anybody() &&
					document.Everything(s.Resources) {
					c.fail(r, "policy", "it allows everybody everything")
				}
			}
		},
	},
	{
		ID: "EPT-04", Severity: Error,
		Says:  "The policy of an endpoint requires the account, so that a stranger's credentials are useless.",
		Fix:   "require aws:PrincipalAccount or aws:PrincipalOrgID by StringEquals",
		Types: []string{"aws:ec2/vpcEndpoint"},
		Each: func(c *checker, r *graph.Resource) {
			if c.ours(r) {
				return
			}
			for _, s := range c.statements(r, "policy") {
				pinned := s.Limits([]string{"StringEquals"}, "aws:principalaccount", "aws:principalorgid")
				if s.Allows() && !s.OfLayers() && (!pinned || s.Strangers(aws.Account(c.places.g))) {
					c.fail(r, "policy", "whoever has a key of another account may do %s", strings.Join(s.Actions, ", "))
				}
			}
		},
	},
	{
		ID: "EPT-06", Severity: Error,
		Says: "Agents' networks have no endpoint of a service that carries commands or messages.",
		Fix:  "remove it", Types: []string{"aws:ec2/vpcEndpoint"},
		Each: func(c *checker, r *graph.Resource) {
			name := c.service(r)
			for _, v := range c.places.to(r, "vpcId", "aws:ec2/vpc") {
				if c.places.vpcs[agents][v] && slices.Contains(messengers, name) {
					c.fail(r, "serviceName", "an agent can be commanded by another account through %s", name)
				}
			}
		},
	},
}

// fargateServices are those that Fargate needs in the network of a task.
var fargateServices = []string{"ecr.api", "ecr.dkr", "logs", "s3"}

// messengers are the services through which somebody else can tell a machine what to do.
var messengers = []string{
	"ssm", "ssmmessages", "ec2messages", "ec2", "execute-api", "lambda", "sqs", "sns", "ssm-contacts", "iot.data",
}

// ours reports whether the endpoint leads to a service of the stack's own, which takes no policy.
// Of one resource alone nobody says to what it refers: then every service of a network is.
func (c *checker) ours(r *graph.Resource) bool {
	return len(c.places.to(r, "serviceName", "aws:ec2/vpcEndpointService")) > 0 ||
		c.alone && strings.Contains(r.String("serviceName"), ".vpce-svc-")
}

// service is the part of an endpoint's service name behind the region, or the name itself.
func (c *checker) service(r *graph.Resource) string {
	name := r.String("serviceName")
	if name == "" && !c.ours(r) {
		c.unknown(r, "serviceName")
	}
	if parts := strings.SplitN(name, ".", 4); len(parts) == 4 && parts[0] == "com" {
		return parts[3]
	}
	return name
}

// agentsEndpoint returns the network of an endpoint that is not ours, if only agents are there.
func (c *checker) agentsEndpoint(r *graph.Resource) *graph.Resource {
	if c.ours(r) {
		return nil
	}
	for _, v := range c.places.to(r, "vpcId", "aws:ec2/vpc") {
		if c.places.isolated(v) {
			return v
		}
	}
	return nil
}
