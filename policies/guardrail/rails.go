package guardrail

import "slices"

// Rails are the guardrails that every check has, by what they are about.
var Rails = slices.Concat(networkRails, groupRails, accessRails, computeRails, recordRails, tierRails,
	faultRails)

// harmless are types of which no guardrail asks anything: prefixes. Others are reported.
var harmless = []string{
	"postern:local:CertificateAuthority", "aws:ec2/networkAclAssociation:",
	"aws:kms/alias:", "aws:cloudwatch/logMetricFilter:",
	"aws:cloudwatch/logSubscriptionFilter:", "aws:cloudwatch/queryDefinition:",
	"aws:cloudwatch/logStream:", "aws:autoscaling/", "aws:appautoscaling/",
	"aws:ecs/cluster:",
	"aws:servicediscovery/", "aws:sns/topic", "aws:iam/instanceProfile:", "aws:iam/rolePoliciesExclusive:",
	"aws:iam/rolePolicyAttachmentsExclusive:",
}
