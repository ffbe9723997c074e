package aws

import (
	"fmt"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// DeclareStack declares all of the stack: the provider, the environment, and the outputs that tell
// a person where to publish, which secrets to fill, and whom to allow. The provider refuses every
// account besides the one in args.
func DeclareStack(ctx *pulumi.Context, name string, args *EnvironmentArgs) error {
	provider, err := aws.NewProvider(ctx, name+"-aws", &aws.ProviderArgs{
		Region:            pulumi.String(args.AWS.Region),
		AllowedAccountIds: pulumi.ToStringArray([]string{args.AWS.Account}),
	})
	if err != nil {
		return fmt.Errorf("declare provider: %w", err)
	}
	env, err := NewEnvironment(ctx, name, args, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	ctx.Export("store", env.Store)
	ctx.Export("secrets", env.Secrets)
	ctx.Export("operatorPolicy", env.OperatorPolicy)
	ctx.Export("addresses", env.Addresses)
	ctx.Export("gates", env.Gates)
	ctx.Export("events", env.Events)
	ctx.Export("auditBucket", env.AuditBucket)
	return nil
}
