package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// newOperators declares the policy for people who push policies, fill secrets and read the audit
// log. It does not attach the policy to anybody.
func newOperators(s *scope, a *auditLog, bundles held, v *vault) *iam.Policy {
	in := []pulumi.StringInput{
		bundles.arn, a.bucket.arn, v.key.arn, a.key.arn, a.group(groupProxies),
		a.group(groupControl), a.group(groupDNS),
	}
	return add(s, iam.NewPolicy, "operators", &iam.PolicyArgs{
		Path: pulumi.String(rolePath(s.stack)), Description: pulumi.String("Push policies, fill secrets, read the audit log of stack " + s.stack),
		Policy: written(func(x []string) string {
			return document.Operators{
				Place: s.args.place(), Stack: s.stack, Bundles: document.ARN(x[0]), Audit: document.ARN(x[1]), Key: document.ARN(x[2]), AuditKey: document.ARN(x[3]),
				Groups: x[4:],
			}.Policy().Text()
		}, in...),
		Tags: s.tags("operators"),
	})
}
