package aws

import (
	"regexp"
	"strings"

	"github.com/postern/postern/graph"
)

// naming holds AWS's rules for a name.
type naming struct {
	kind, property string
	low, high      int
	form           *regexp.Regexp
	what           string // the form in words
}

var (
	prefix      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*$`)
	balancer    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)
	identity    = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]+$`)
	bucket      = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*[a-z0-9]$`)
	description = regexp.MustCompile(`^[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]*$`) // no ', ", < and >
	group       = regexp.MustCompile(`^[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]+$`)
	logGroup    = regexp.MustCompile(`^[A-Za-z0-9_./#-]+$`)
	simple      = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	dotted      = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	template    = regexp.MustCompile(`^[A-Za-z0-9()./_-]+$`)
	alias       = regexp.MustCompile(`^alias/[A-Za-z0-9/_-]+$`)
	secret      = regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]+$`)
	resolver    = regexp.MustCompile(`^[A-Za-z0-9_. -]+$`)
)

const (
	hyphens  = "letters, digits and hyphens, not first or last"
	letters  = "letters, digits, hyphens and underscores"
	iamWords = "letters, digits and +=,.@_-"
	sgWords  = "letters, digits, spaces and ._-:/()#,@[]+=&;{}!$*"
)

var namings = []naming{
	{"lb/loadBalancer", "name", 1, 32, balancer, hyphens},
	{"lb/loadBalancer", "namePrefix", 1, 6, prefix, "letters, digits and hyphens, not first"},
	{"lb/targetGroup", "name", 1, 32, balancer, hyphens},
	{"lb/targetGroup", "namePrefix", 1, 6, prefix, "letters, digits and hyphens, not first"},
	{"iam/role", "name", 1, 64, identity, iamWords},
	{"iam/role", "namePrefix", 1, 38, identity, iamWords},
	{"iam/role", "description", 0, 1000, nil, ""},
	{"iam/policy", "name", 1, 128, identity, iamWords},
	{"iam/rolePolicy", "name", 1, 128, identity, iamWords},
	{"iam/instanceProfile", "name", 1, 128, identity, iamWords},
	{"s3/bucketV2", "bucket", 3, 63, bucket, "lower-case letters, digits, hyphens and dots, a letter or digit first and last"},
	{"s3/bucketV2", "bucketPrefix", 1, 37, regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`), "lower-case letters, digits, hyphens and dots"},
	{"ec2/securityGroup", "name", 1, 255, group, sgWords},
	{"ec2/securityGroup", "description", 1, 255, description, sgWords},
	{"vpc/securityGroupEgressRule", "description", 0, 255, description, sgWords},
	{"vpc/securityGroupIngressRule", "description", 0, 255, description, sgWords},
	{"ec2/launchTemplate", "name", 3, 128, template, "letters, digits and ()./_-"},
	{"autoscaling/group", "name", 1, 255, nil, ""},
	{"cloudwatch/logGroup", "name", 1, 512, logGroup, "letters, digits and _./#-"},
	{"cloudwatch/logStream", "name", 1, 512, nil, ""},
	{"cloudwatch/metricAlarm", "name", 1, 255, nil, ""},
	{"kinesis/firehoseDeliveryStream", "name", 1, 64, dotted, "letters, digits and _.-"},
	{"kms/alias", "name", 7, 256, alias, "alias/ and then letters, digits and /_-"},
	{"secretsmanager/secret", "name", 1, 512, secret, "letters, digits and /_+=.@-"},
	{"ecs/cluster", "name", 1, 255, simple, letters},
	{"ecs/service", "name", 1, 255, simple, letters},
	{"ecs/taskDefinition", "family", 1, 255, simple, letters},
	{"sns/topic", "name", 1, 256, simple, letters},
	{"route53/resolverFirewallRuleGroup", "name", 1, 64, resolver, "letters, digits, spaces and _.-"},
	{"route53/resolverFirewallDomainList", "name", 1, 64, resolver, "letters, digits, spaces and _.-"},
	{"route53/resolverQueryLogConfig", "name", 1, 64, resolver, "letters, digits, spaces and _.-"},
	{"route53/resolverFirewallRule", "name", 1, 64, resolver, "letters, digits, spaces and _.-"},
}

// generated are the types whose name, if none is given, Pulumi makes of the
// resource's own and a hyphen with seven random characters (autonaming).
var generated = map[string]string{
	"lb/loadBalancer": "name", "lb/targetGroup": "name", "iam/role": "name", "iam/policy": "name", "iam/rolePolicy": "name", "iam/instanceProfile": "name",
	"s3/bucketV2": "bucket", "ec2/securityGroup": "name", "ec2/launchTemplate": "name", "autoscaling/group": "name", "cloudwatch/logGroup": "name",
	"kinesis/firehoseDeliveryStream": "name", "secretsmanager/secret": "name", "ecs/cluster": "name", "ecs/service": "name", "sns/topic": "name",
}

func (c *checker) names(r *graph.Resource) {
	for _, n := range namings {
		if !is(r, n.kind) {
			continue
		}
		property, text := n.property, r.String(n.property)
		if text == "" {
			if generated[n.kind] != n.property || set(r, n.property) || set(r, n.property+"Prefix") {
				continue
			}
			property, text = "its generated "+n.property, r.Name+"-1234567"
		}
		switch {
		case len(text) < n.low || len(text) > n.high:
			c.report(r, property, "shorten or lengthen it", "%q has %d characters; it may have from %d to %d", text, len(text), n.low, n.high)
		case n.form != nil && !n.form.MatchString(text):
			c.report(r, property, "write "+n.what, "%q has other characters than AWS takes", text)
		case is(r, "lb/loadBalancer") && strings.HasPrefix(text, "internal-"):
			c.report(r, property, "choose another name", "%q begins with internal-, which AWS keeps for itself", text)
		case is(r, "ec2/securityGroup") && n.property == "name" && strings.HasPrefix(text, "sg-"):
			c.report(r, property, "choose another name", "%q begins with sg-, as only IDs do", text)
		case n.form == bucket && (strings.Contains(text, "..") || strings.HasPrefix(text, "xn--") || strings.HasSuffix(text, "-s3alias")):
			c.report(r, property, "choose another name", "S3 does not take %q", text)
		}
	}
	tags, _ := r.Inputs["tags"].(map[string]any)
	if len(tags) > 50 {
		c.report(r, "tags", "remove some", "there are %d, AWS takes 50", len(tags))
	}
	for _, k := range sortedKeys(tags) {
		v, _ := tags[k].(string)
		switch {
		case k == "" || len(k) > 128 || strings.HasPrefix(strings.ToLower(k), "aws:"):
			c.report(r, "tags", "rename it", "%q cannot name a tag: 1 to 128 characters, not beginning with aws:", k)
		case len(v) > 256:
			c.report(r, "tags."+k, "shorten it", "it has %d characters, AWS takes 256", len(v))
		}
	}
}
