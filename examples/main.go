// Command examples has three Pulumi programs that use Postern's components. The stack's name
// selects one: beside, pool or everything. To use one, copy its file, and its stack file.
//
// Each program reads a stack file as the commands do, so that `postern push` and the
// other commands know the same policy. It clears the settings that come from other
// resources, and gives these as inputs.
package main

import (
	"fmt"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/stacks"
)

func main() { pulumi.Run(program) }

var programs = map[string]func(*pulumi.Context, *stacks.Stack, *aws.Provider) error{
	"beside": beside, "pool": pool, "everything": everything,
}

func program(ctx *pulumi.Context) error {
	declare, ok := programs[ctx.Stack()]
	if !ok {
		return fmt.Errorf("there is no example %q: use the stack beside, pool or everything", ctx.Stack())
	}
	stack, err := stacks.Load(ctx.Stack() + ".yaml")
	if err != nil {
		return err
	}
	// Whoever's credentials these are: nothing is made in another account.
	provider, err := aws.NewProvider(ctx, "account", &aws.ProviderArgs{
		Region: pulumi.String(stack.AWS.Region), AllowedAccountIds: pulumi.ToStringArray([]string{stack.AWS.Account}),
	})
	if err != nil {
		return err
	}
	return declare(ctx, stack, provider)
}
