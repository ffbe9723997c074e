//go:build aws

package main

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
)

// With -tags aws this is postern-stack-aws: see become.
func init() {
	targets[stacks.TargetAWS] = func(ctx *pulumi.Context, stack *stacks.Stack, _ home.Folder, fresh bool) error {
		return aws.DeclareStack(ctx, stack.Name, &aws.EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan}, fresh)
	}
	orphans[stacks.TargetAWS] = func(ctx *pulumi.Context, stack *stacks.Stack) error {
		return aws.RefuseOrphans(ctx, stack.Name, &aws.EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan})
	}
}
