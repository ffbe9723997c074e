package main

import (
	"fmt"

	awsprovider "github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws"
	"github.com/postern/postern/stacks"
)

// declareAWS is the program of a stack with `target: aws`. Its provider refuses
// every other account than the one that the stack file names.
func declareAWS(ctx *pulumi.Context, stack *stacks.Stack) error {
	provider, err := awsprovider.NewProvider(ctx, stack.Name+"-aws", &awsprovider.ProviderArgs{
		Region:            pulumi.String(stack.AWS.Region),
		AllowedAccountIds: pulumi.ToStringArray([]string{stack.AWS.Account}),
	})
	if err != nil {
		return fmt.Errorf("declare provider: %w", err)
	}
	env, err := aws.NewEnvironment(ctx, stack.Name, &aws.EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	// What a person needs next: where to publish, what to fill, whom to allow.
	ctx.Export("store", env.Store)
	ctx.Export("secrets", env.Secrets)
	ctx.Export("operatorPolicy", env.OperatorPolicy)
	ctx.Export("addresses", env.Addresses)
	ctx.Export("gates", env.Gates)
	ctx.Export("events", env.Events)
	ctx.Export("auditBucket", env.AuditBucket)
	return nil
}
