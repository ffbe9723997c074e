package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/cloudwatch"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/kms"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/s3"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// auditLog receives the events: a log group for searching, and a bucket in which nobody can change
// them.
type auditLog struct {
	key    key
	groups map[string]*cloudwatch.LogGroup
	bucket held
	flows  held
	// flowsPolicy lets flow logs be delivered.
	flowsPolicy *s3.BucketPolicy
}

// The log groups.
const (
	groupProxies  = "proxies"  // the audit events
	groupControl  = "control"  // the control plane's own log, and its audit events
	groupAgents   = "agents"   // output of agents on Fargate
	groupDNS      = "dns"      // queries to the resolver of the proxies' network
	groupProbes   = "probes"   // queries to that of an agents' network of its own
	groupDelivery = "delivery" // errors of Firehose
)

// logPrefix is below which all log groups of a stack are.
func logPrefix(stack string) string { return "/postern/" + stack }

// group is the name of a log group.
func (a *auditLog) group(name string) pulumi.StringInput { return a.groups[name].Name }

// newAuditLog declares what events are kept in. How they get there is declared
// by ship, when roles can be.
func newAuditLog(parent *scope) (*auditLog, *scope) {
	s := parent.component("Audit", "audit")
	place, set := s.args.place(), s.args.AWS
	a := &auditLog{groups: map[string]*cloudwatch.LogGroup{}}
	a.key = newKey(s, "key", "The audit log of stack "+s.stack,
		document.Key(place, document.KeyOfLogs(place, logPrefix(s.stack)), document.KeyOfAlarms(place)),
		s.args.AuditKey,
		pulumi.Protect(set.Protect), pulumi.RetainOnDelete(set.Audit.Lock > 0))
	names := []string{groupProxies, groupControl, groupDNS, groupDelivery}
	if s.args.ownAgentsVPC() {
		names = append(names, groupProbes)
	}
	if set.FargateAgents() {
		names = append(names, groupAgents)
	}
	for _, name := range names {
		a.groups[name] = add(s, cloudwatch.NewLogGroup, name, &cloudwatch.LogGroupArgs{
			Name: pulumi.String(logPrefix(s.stack) + "/" + name), KmsKeyId: a.key.arn,
			RetentionInDays: pulumi.Int(set.Audit.Retention), Tags: s.tags(name),
		}, pulumi.Protect(set.Protect && (name == groupProxies || name == groupControl)))
	}
	if set.FargateAgents() { // an agent may print what it has read
		add(s, cloudwatch.NewLogDataProtectionPolicy, groupAgents, &cloudwatch.LogDataProtectionPolicyArgs{
			LogGroupName: a.group(groupAgents).ToStringOutput(), PolicyDocument: pulumi.String(document.Masked()),
		})
	}
	if s.args.AuditBucket != nil {
		a.bucket = existing(place, s.args.AuditBucket)
	} else {
		a.bucket, _ = newBucket(s, "log",
			bucket{lock: set.Audit.Lock, expire: set.Audit.Expire, key: &a.key, kept: true},
			pulumi.Protect(set.Protect), pulumi.RetainOnDelete(set.Audit.Lock > 0)) // what is locked cannot be deleted
	}
	a.flows, a.flowsPolicy = newBucket(s, "flows", bucket{expire: set.Audit.Retention, more: func(arn document.ARN) []document.Statement {
		return document.FlowLogs(place, arn)
	}}, pulumi.RetainOnDelete(set.Audit.Lock > 0))
	s.outputs(pulumi.Map{"bucket": a.bucket.name, "flows": a.flows.name, "events": a.groups[groupProxies].Name})
	return a, s
}

// key is a key of KMS.
type key struct{ arn, id pulumi.StringInput }

// newKey declares a key that is renewed every year, unless there is one with the ARN in existing.
func newKey(
	s *scope, suffix, description string, policy document.Policy, existing pulumi.StringInput,
	opts ...pulumi.ResourceOption,
) key {
	if existing != nil {
		return key{existing, existing}
	}
	made := add(s, kms.NewKey, suffix, &kms.KeyArgs{
		Description: pulumi.String(description), EnableKeyRotation: pulumi.Bool(true), DeletionWindowInDays: pulumi.Int(30),
		Policy: pulumi.String(policy.Text()), Tags: s.tags(suffix),
	}, opts...)
	add(s, kms.NewAlias, suffix,
		&kms.AliasArgs{Name: pulumi.String("alias/postern/" + s.stack + "/" + s.role), TargetKeyId: made.KeyId})
	return key{made.Arn, made.KeyId}
}
