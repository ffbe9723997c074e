package guardrail

import (
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail/document"
	"github.com/postern/postern/stacks/hosting"
)

const bucketType = "aws:s3/bucketV2"

// describing returns the resource of a type that describes r, or nil.
func (c *checker) describing(r *graph.Resource, kind, property string) *graph.Resource {
	for _, x := range c.all(kind) {
		if slices.Contains(x.PropertyDependencies[property], r.URN) {
			return x
		}
	}
	return nil
}

// covered fails for each network without a resource of the kind that names it.
func covered(kind, property, what string) func(*checker) {
	return func(c *checker) {
		for _, v := range c.all("aws:ec2/vpc") {
			if c.describing(v, kind, property) == nil {
				c.fail(v, "", "%s", what)
			}
		}
	}
}

var recordRails = []Rail{
	{
		ID: "SEC-01", Severity: Error, Says: "The value of a secret is not in the program, and so not in its state.",
		Fix: "remove it, and use `postern secret put`",
		Types: []string{
			"aws:secretsmanager/secretVersion", "aws:ssm/parameter", "aws:iam/accessKey",
		},
		Each: func(c *checker, r *graph.Resource) { c.fail(r, "", "its value is kept in the state of Pulumi") },
	},
	{
		ID: "SEC-02", Severity: Error,
		Says:   "A secret has a key of the stack's own, and a policy that names its readers.",
		Fix:    "write kmsKeyId, and a secretPolicy",
		Others: []string{"CKV_AWS_149"},
		Needs:  []need{{types: []string{"aws:secretsmanager/secret"}, path: "kmsKeyId"}},
		Whole: func(c *checker) {
			for _, s := range c.all("aws:secretsmanager/secret") {
				other := c.describing(s, "aws:secretsmanager/secretPolicy", "secretArn")
				if other != nil && set(s, "policy") {
					c.fail(s, "policy", "%s is another policy of it: nobody knows which counts", other.Name)
				}
				if other == nil && !set(s, "policy") {
					c.fail(s, "policy", "every role of the account whose policy allows it reads the secret")
				}
			}
		},
	},
	{
		ID: "SEC-04", Severity: Error, Says: "Keys are rotated, and say who may use them.",
		Fix:    "write enableKeyRotation: true, and a policy",
		Others: []string{"CKV_AWS_7", "CKV_AWS_227", "CKV2_AWS_64"},
		Needs: []need{
			{types: []string{"aws:kms/key"}, path: "enableKeyRotation", is: []string{"true"}},
			{types: []string{"aws:kms/key"}, path: "policy"},
		},
	},
	{
		ID: "DNS-01", Severity: Error, Says: "The agents' network has no resolver, or a DNS firewall before it.",
		Fix: "write enableDnsSupport: false", Types: []string{"aws:ec2/vpc", "aws:ec2/vpcDhcpOptionsAssociation"},
		Each: func(c *checker, r *graph.Resource) {
			if !c.places.vpcs[agents][r] || r.Inputs["enableDnsSupport"] == false {
				return
			}
			if c.describing(r, "aws:route53/resolverFirewallRuleGroupAssociation", "vpcId") == nil {
				c.fail(r, "enableDnsSupport",
					"the resolver answers every name, and no group or ACL sees what it is asked")
			}
		},
	},
	{
		ID: "DNS-02", Severity: Error, Says: "A DNS firewall ends with a rule that blocks every name and every type.",
		Fix: `add a rule for the domain "*." with action BLOCK and no qType, behind all others`,
		Needs: []need{{
			types: []string{"aws:route53/resolverFirewallRule"}, path: "action", is: []string{"ALLOW", "BLOCK"},
		}},
		Types: []string{"aws:route53/resolverFirewallRuleGroup", "aws:route53/resolverFirewallDomainList"},
		Whole: func(c *checker) {
			for _, group := range c.all("aws:route53/resolverFirewallRuleGroup") {
				last := c.lastRule(group)
				switch {
				case last == nil:
					c.fail(group, "", "it has no rule")
				case last.String("action") != "BLOCK", set(last, "qType"), !slices.ContainsFunc(c.domains(last), all):
					c.fail(last, "action", "it is the last rule of %s, and does not block every name", group.Name)
				}
			}
		},
	},
	{
		ID: "DNS-03", Severity: Error,
		Says: "A DNS firewall that fails answers nothing, and cannot be taken off by mistake.",
		Fix:  `write firewallFailOpen: "DISABLED", and protect: true`,
		Needs: []need{{
			types: []string{"aws:route53/resolverFirewallConfig"}, path: "firewallFailOpen", is: []string{"DISABLED"},
		}},
		Types: []string{"aws:route53/resolverFirewallRuleGroupAssociation"},
		Whole: func(c *checker) {
			for _, a := range c.all("aws:route53/resolverFirewallRuleGroupAssociation") {
				for _, v := range c.places.to(a, "vpcId", "aws:ec2/vpc") {
					if c.describing(v, "aws:route53/resolverFirewallConfig", "resourceId") == nil {
						c.fail(v, "", "nothing says that its DNS firewall fails closed")
					}
				}
				if a.String("mutationProtection") != "ENABLED" && c.production {
					c.add(a, Fails, "mutationProtection", "it can be taken off its network by one call")
				}
			}
		},
	},
	{
		ID: "DNS-04", Severity: Error,
		Says: "A DNS firewall lets no other service's names through, and follows no alias of an agent's choice.",
		Fix:  "name the hosts; in the agents' own network write INSPECT_REDIRECTION_DOMAIN",
		Types: []string{
			"aws:route53/resolverFirewallDomainList", "aws:route53/resolverFirewallRule",
		},
		Whole: func(c *checker) {
			for _, r := range c.all("aws:route53/resolverFirewallRule") {
				if r.String("action") != "ALLOW" {
					continue
				}
				for _, name := range c.domains(r) {
					bare := strings.TrimSuffix(name, ".")
					below, wildcard := strings.CutPrefix(bare, "*.")
					_, registry := hosting.Below(below)
					if all(name) || wildcard && (registry || below == "amazonaws.com") {
						c.fail(r, "firewallDomainListId", "%s has names of strangers, who see what is asked", name)
					}
				}
				const aliases = "firewallDomainRedirectionAction"
				if r.String(aliases) == "TRUST_REDIRECTION_DOMAIN" && c.onlyAgents(r) {
					c.fail(r, aliases, "the owner of an allowed name decides which names are answered")
				}
			}
		},
	},
	{
		ID: "DNS-05", Severity: Error, Says: "What the resolver of each network is asked is logged.",
		Fix:   "add a resolverQueryLogConfigAssociation",
		Types: []string{"aws:route53/resolverQueryLogConfig", "aws:route53/resolverQueryLogConfigAssociation"},
		Whole: covered("aws:route53/resolverQueryLogConfigAssociation", "resourceId",
			"nobody sees what its resolver is asked"),
	},
	{
		ID: "DNS-06", Severity: Warning,
		Says:  "A DNS firewall before the proxies lets every host of the policy through.",
		Fix:   "add the names to its list: `postern up` does",
		Types: []string{"aws:route53/resolverFirewallRuleGroupAssociation"},
		Whole: func(c *checker) {
			for _, a := range c.all("aws:route53/resolverFirewallRuleGroupAssociation") {
				vpcs := c.places.to(a, "vpcId", "aws:ec2/vpc")
				if !slices.ContainsFunc(vpcs, func(v *graph.Resource) bool { return c.places.vpcs[proxies][v] }) {
					continue
				}
				if missing := c.unanswered(a); len(missing) > 0 {
					c.fail(a, "firewallRuleGroupId",
						"the proxies do not find %s (%d of the policy's hosts are not in its list)", missing[0],
						len(missing))
				}
			}
		},
	},
	{
		ID: "AUD-06", Severity: Warning, Says: "What an agent's task writes into a log of the account is masked.",
		Fix:   "add a logDataProtectionPolicy for the log group",
		Types: []string{"aws:cloudwatch/logDataProtectionPolicy", "aws:ecs/taskDefinition"},
		Each: func(c *checker, r *graph.Resource) {
			if r.Role != agents {
				return
			}
			of := c.places.to(r, "containerDefinitions", "aws:cloudwatch/logGroup")
			for _, group := range c.all("aws:cloudwatch/logGroup") {
				named := slices.Contains(of, group) || slices.ContainsFunc(c.containers(r), func(x container) bool {
					name := x.LogConfiguration.Options["awslogs-group"]
					return name != "" && name == group.String("name")
				})
				if named && c.describing(group, "aws:cloudwatch/logDataProtectionPolicy", "logGroupName") == nil {
					c.fail(group, "", "%s writes to it whatever the agent prints: whoever reads logs sees it", r.Name)
				}
			}
		},
	},
	{
		ID: "AUD-01", Severity: Error,
		Says:   "Logs are encrypted by the stack's own key, and kept for a year in production.",
		Fix:    "write kmsKeyId, and retentionInDays: 400 (audit: {retention: 400d})",
		Others: []string{"CKV_AWS_158", "CKV_AWS_66", "CKV_AWS_338"},
		Needs:  []need{{types: []string{"aws:cloudwatch/logGroup"}, path: "kmsKeyId"}},
		Whole: func(c *checker) {
			for _, r := range c.all("aws:cloudwatch/logGroup") {
				if days, ok := r.Number("retentionInDays"); c.production && ok && days != 0 && days < 365 {
					c.fail(r, "retentionInDays", "it is %v, less than 365", days)
				}
			}
		},
	},
	{
		ID: "AUD-02", Severity: Error,
		Says: "The audit log's bucket is versioned, private, by TLS only and, in production, locked.",
		Fix:  "declare what is missing next to the bucket (audit: {lock: 365d})",
		Others: []string{
			"CKV_AWS_143", "CKV_AWS_53", "CKV_AWS_54", "CKV_AWS_55", "CKV_AWS_56", "CKV_AWS_70", "CKV_AWS_300",
			"CKV_AWS_379", "CKV2_AWS_6", "CKV2_AWS_61", "CKV2_AWS_62", "CKV2_AWS_65",
		},
		Needs: []need{
			{
				types: []string{"aws:s3/bucketVersioningV2"}, path: "versioningConfiguration.status",
				is: []string{"Enabled"},
			},
			{types: []string{"aws:s3/bucketPublicAccessBlock"}, path: "blockPublicAcls", is: []string{"true"}},
			{types: []string{"aws:s3/bucketPublicAccessBlock"}, path: "blockPublicPolicy", is: []string{"true"}},
			{types: []string{"aws:s3/bucketPublicAccessBlock"}, path: "ignorePublicAcls", is: []string{"true"}},
			{types: []string{"aws:s3/bucketPublicAccessBlock"}, path: "restrictPublicBuckets", is: []string{"true"}},
			{
				types: []string{"aws:s3/bucketObjectLockConfigurationV2"}, path: "rule.defaultRetention.mode",
				is: []string{"COMPLIANCE"},
			},
		},
		Types: []string{
			bucketType, "aws:s3/bucketPolicy", "aws:s3/bucketOwnershipControls",
			"aws:s3/bucketLifecycleConfigurationV2",
			"aws:s3/bucketServerSideEncryptionConfigurationV2",
		},
		Each: func(c *checker, r *graph.Resource) {
			if !is(r, "aws:s3/bucketPolicy") {
				return
			}
			all := c.statements(r, "policy") // which says what is not known
			if !unsure(r.Value("policy")) && !slices.ContainsFunc(all, func(s document.Statement) bool {
				return s.Effect == "Deny" && s.Requires([]string{"Bool"}, "aws:securetransport")
			}) {
				c.fail(r, "policy", "it takes requests without TLS")
			}
		},
		Whole: func(c *checker) {
			locked := false
			for _, b := range c.all(bucketType) {
				for _, kind := range []string{
					"aws:s3/bucketVersioningV2", "aws:s3/bucketPublicAccessBlock", "aws:s3/bucketPolicy",
				} {
					if c.describing(b, kind, "bucket") == nil {
						c.fail(b, "", "it has no %s", strings.TrimPrefix(kind, "aws:s3/"))
					}
				}
				if c.production && b.Role == "audit" && b.Inputs["forceDestroy"] == true {
					c.fail(b, "forceDestroy", "with the stack, the log in it goes")
				}
				lock := c.describing(b, "aws:s3/bucketObjectLockConfigurationV2", "bucket")
				locked = locked || b.Role == "audit" && lock != nil
			}
			for _, stream := range c.all("aws:kinesis/firehoseDeliveryStream") {
				if stream.Role == "audit" && len(c.places.to(stream, "extendedS3Configuration", bucketType)) == 0 {
					c.fail(stream, "extendedS3Configuration", "it does not write to a bucket of the stack")
				}
				if stream.Role == "audit" && c.describing(stream, "aws:cloudwatch/logSubscriptionFilter",
					"destinationArn") == nil {
					c.fail(stream, "", "no log is sent to it")
				}
			}
			if c.production && !locked && len(c.all("aws:kinesis/firehoseDeliveryStream")) > 0 {
				c.fail(nil, "", "no bucket of the audit log has Object Lock: whoever takes the account over deletes it")
			}
		},
	},
	{
		ID: "AUD-03", Severity: Error,
		Says:   "Every network has flow logs of all traffic.",
		Fix:    `add a flow log with trafficType: "ALL"`,
		Others: []string{"CKV2_AWS_11"},
		Needs:  []need{{types: []string{"aws:ec2/flowLog"}, path: "trafficType", is: []string{"ALL"}}},
		Whole:  covered("aws:ec2/flowLog", "vpcId", "nobody sees what is sent in it"),
	},
	{
		ID: "AUD-04", Severity: Error,
		Says:   "A trail that the stack declares is of all regions, validated and encrypted.",
		Fix:    "write isMultiRegionTrail: true, enableLogFileValidation: true, and kmsKeyId",
		Others: []string{"CKV_AWS_35", "CKV_AWS_36", "CKV_AWS_67", "CKV_AWS_251", "CKV_AWS_252", "CKV2_AWS_10"},
		Needs: []need{
			{types: []string{"aws:cloudtrail/trail"}, path: "isMultiRegionTrail", is: []string{"true"}},
			{types: []string{"aws:cloudtrail/trail"}, path: "enableLogFileValidation", is: []string{"true"}},
			{types: []string{"aws:cloudtrail/trail"}, path: "kmsKeyId"},
		},
	},
	{
		ID: "AUD-05", Severity: Error, Says: "The audit log is encrypted on its way to the bucket.",
		Fix:    "write serverSideEncryption: {enabled: true, keyType: CUSTOMER_MANAGED_CMK}",
		Others: []string{"CKV_AWS_240", "CKV_AWS_241"},
		Needs: []need{
			{
				types: []string{"aws:kinesis/firehoseDeliveryStream"}, path: "serverSideEncryption.enabled",
				is: []string{"true"},
			},
			{
				types: []string{"aws:kinesis/firehoseDeliveryStream"}, path: "serverSideEncryption.keyType",
				is: []string{"CUSTOMER_MANAGED_CMK"},
			},
		},
	},
	{
		ID: "AUD-07", Severity: Warning, Says: "Every alarm tells somebody.",
		Fix:   "write alarmActions",
		Needs: []need{{types: []string{"aws:cloudwatch/metricAlarm"}, path: "alarmActions"}},
	},
	{
		ID: "AUD-08", Severity: Warning, Production: true, Says: "The load balancer cannot be deleted by one call.",
		Fix: "write enableDeletionProtection: true (protect: true)", Others: []string{"CKV_AWS_150"},
		Needs: []need{{types: []string{"aws:lb/loadBalancer"}, path: "enableDeletionProtection", is: []string{"true"}}},
	},
}

// unanswered returns the policy's hosts that a DNS firewall with this association lets nobody ask
// for, sorted. Whoever has a place of its own is not asked for.
func (c *checker) unanswered(association *graph.Resource) []string {
	var allowed, out []string
	for _, r := range c.all("aws:route53/resolverFirewallRule") {
		for _, group := range r.PropertyDependencies["firewallRuleGroupId"] {
			if r.String("action") == "ALLOW" && slices.Contains(
				association.PropertyDependencies["firewallRuleGroupId"], group) {
				allowed = append(allowed, c.domains(r)...)
			}
		}
	}
	for _, p := range c.plans {
		for i := 0; p != nil && i < len(p.Agents); i++ {
			for _, r := range p.Agents[i].Rules {
				if !r.Deny && (r.Upstream == nil || r.Upstream.Address == "") && !slices.ContainsFunc(allowed,
					func(name string) bool { return answers(name, r.Host) }) {
					out = append(out, r.Host)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// answers reports whether a name of a DNS firewall stands for a host, which may be a wildcard.
func answers(name, host string) bool {
	name = strings.TrimSuffix(name, ".")
	below, wildcard := strings.CutPrefix(name, "*")
	return all(name) || name == host || wildcard && strings.HasSuffix(host, below)
}

// all reports whether a name of a DNS firewall is every name.
func all(name string) bool { return name == "*" || name == "*." }

// domains returns the names of a firewall's rule.
func (c *checker) domains(rule *graph.Resource) []string {
	var out []string
	for _, list := range c.places.to(rule, "firewallDomainListId", "aws:route53/resolverFirewallDomainList") {
		out = append(out, c.texts(list, "domains.*")...)
	}
	return out
}

// lastRule returns the rule of a group that is asked last, or nil.
func (c *checker) lastRule(group *graph.Resource) *graph.Resource {
	var last *graph.Resource
	highest := 0.0
	for _, r := range c.all("aws:route53/resolverFirewallRule") {
		if !slices.Contains(r.PropertyDependencies["firewallRuleGroupId"], group.URN) {
			continue
		}
		n, ok := r.Number("priority")
		if !ok {
			c.unknown(r, "priority")
		}
		if last == nil || n > highest {
			last, highest = r, n
		}
	}
	return last
}

// onlyAgents reports whether a rule of a DNS firewall is for a network in which there are only
// agents.
func (c *checker) onlyAgents(rule *graph.Resource) bool {
	groups := c.places.to(rule, "firewallRuleGroupId", "aws:route53/resolverFirewallRuleGroup")
	if len(groups) != 1 {
		return true
	}
	for _, a := range c.all("aws:route53/resolverFirewallRuleGroupAssociation") {
		if !slices.Contains(a.PropertyDependencies["firewallRuleGroupId"], groups[0].URN) {
			continue
		}
		for _, v := range c.places.to(a, "vpcId", "aws:ec2/vpc") {
			if c.places.isolated(v) {
				return true
			}
		}
	}
	return false
}
