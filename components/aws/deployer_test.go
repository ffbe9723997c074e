package aws

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
)

// services are what IAM calls the services of the provider's modules, where it
// does not call them so.
var services = map[string]string{
	"appautoscaling": "application-autoscaling", "kinesis": "firehose", "lb": "elasticloadbalancing", "vpc": "ec2", "cloudwatch": "logs", "route53": "route53resolver",
}

// Whoever has the deployers' policy can make what a stack declares, passes its
// roles to whom they are for, and makes none without the boundary.
func TestDeployerMay(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		policy := document.Deployer{Place: args.place(), Stack: "prod"}.Policy()
		allowed, passed := []string{}, []string{}
		for _, s := range policy.Statement {
			if s.Effect == document.Deny {
				continue
			}
			for _, action := range s.Action {
				service, _, _ := strings.Cut(action, ":")
				allowed = append(allowed, service)
			}
			if s.Sid == "PassRoles" {
				passed = s.Condition["StringEquals"]["iam:PassedToService"]
			}
			if slices.Contains(s.Action, "iam:CreateRole") || slices.Contains(s.Action, "iam:PutRolePolicy") {
				require.Equal(t, []string{"arn:aws:iam::123456789012:policy/postern/prod-boundary-*"}, s.Condition["ArnLike"]["iam:PermissionsBoundary"])
			}
		}
		for _, r := range g.all {
			module, ok := strings.CutPrefix(r.token, "aws:")
			if !ok {
				continue
			}
			module, _, _ = strings.Cut(module, "/")
			if service, known := services[module]; known {
				module = service
			}
			require.Contains(t, allowed, module, r.name)
			if r.token == tokenRole || r.token == "aws:iam/policy:Policy" || r.token == "aws:iam/instanceProfile:InstanceProfile" {
				require.Equal(t, "/postern/", r.text("path"))
				require.True(t, strings.HasPrefix(r.name, "prod-"), r.name)
			}
			if strings.HasPrefix(r.token, "aws:s3/bucketV2:") {
				require.True(t, strings.HasPrefix(r.name, "prod-"), r.name)
			}
		}
		for at, p := range g.policies(t) {
			if strings.HasSuffix(at, "|assumeRolePolicy") {
				for _, s := range p.Statement {
					require.Subset(t, passed, s.Principal.Service, at)
				}
			}
		}
	})
}
