package aws

import (
	"fmt"
	"strings"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/graph"
)

// DeclareStack declares all of the stack: the provider, the environment, and the outputs that tell
// a person where to publish, which secrets to fill, and whom to allow. The provider refuses every
// account besides the one in args.
//
// With fresh, the engine has no state of the stack: then DeclareStack refuses an account that has
// the stack's networks, before it declares anything else.
func DeclareStack(ctx *pulumi.Context, name string, args *EnvironmentArgs, fresh bool) error {
	provider, err := newProvider(ctx, name, args)
	if err != nil {
		return err
	}
	if fresh {
		if err := refuseOrphans(ctx, name, args, provider); err != nil {
			return err
		}
	}
	env, err := NewEnvironment(ctx, name, args, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	ctx.Export("store", env.Fleet.Store)
	ctx.Export("secrets", env.Fleet.Secrets)
	ctx.Export("operatorPolicy", env.Fleet.OperatorPolicy)
	ctx.Export("addresses", env.Addresses)
	ctx.Export("gates", env.Gates)
	ctx.Export("events", env.Fleet.Events)
	ctx.Export("auditBucket", env.Fleet.AuditBucket)
	return nil
}

// RefuseOrphans declares nothing besides the provider, and returns an error if the account has the
// networks of a stack of which the engine has no state.
func RefuseOrphans(ctx *pulumi.Context, name string, args *EnvironmentArgs) error {
	provider, err := newProvider(ctx, name, args)
	if err != nil {
		return err
	}
	return refuseOrphans(ctx, name, args, provider)
}

func newProvider(ctx *pulumi.Context, name string, args *EnvironmentArgs) (*aws.Provider, error) {
	provider, err := aws.NewProvider(ctx, name+"-aws", &aws.ProviderArgs{
		Region:            pulumi.String(args.AWS.Region),
		AllowedAccountIds: pulumi.ToStringArray([]string{args.AWS.Account}),
	})
	if err != nil {
		return nil, fmt.Errorf("declare provider: %w", err)
	}
	return provider, nil
}

func refuseOrphans(ctx *pulumi.Context, name string, args *EnvironmentArgs, provider *aws.Provider) error {
	found, err := ec2.GetVpcs(ctx, &ec2.GetVpcsArgs{Tags: map[string]string{graph.TagStack: name}}, pulumi.Provider(provider))
	if err != nil {
		return fmt.Errorf("ask whether the account has the stack already: %w", err)
	}
	if len(found.Ids) == 0 {
		return nil
	}
	return fmt.Errorf("account %s has the stack %s in %s already (%s with the tag %s=%s), and its Pulumi state is not here: "+
		"write the backend that has the state into the stack file (aws: {state: s3://BUCKET}), or name it in PULUMI_BACKEND_URL; "+
		"if the state is lost, import or remove what has the tag",
		args.AWS.Account, name, args.AWS.Region, strings.Join(found.Ids, ", "), graph.TagStack, name)
}
