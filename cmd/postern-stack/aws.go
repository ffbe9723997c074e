package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	awsprovider "github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws"
	"github.com/postern/postern/engine"
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

// next prints what a person needs after an `up`, and notes where to publish: a
// place that somebody has chosen there stays.
func (d *driver) next(sum *engine.Summary) error {
	for _, key := range slices.Sorted(maps.Keys(sum.Outputs)) {
		switch v := sum.Outputs[key].(type) {
		case string:
			fmt.Fprintf(d.out, "  %-15s %s\n", key, v)
		case []any:
			fmt.Fprintf(d.out, "  %-15s %s\n", key, strings.Trim(fmt.Sprint(v), "[]"))
		}
	}
	if store, ok := sum.Outputs["store"].(string); ok {
		if err := os.MkdirAll(d.home.OperatorDir(), 0o700); err != nil {
			return fmt.Errorf("note where to publish: %w", err)
		}
		f, err := os.OpenFile(d.home.StoreFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, store)
			if closed := f.Close(); err == nil {
				err = closed
			}
		}
		if err != nil && !os.IsExist(err) {
			return fmt.Errorf("note where to publish: %w", err)
		}
	}
	fmt.Fprintf(d.out, "  the fleet serves when its secrets have values (postern secret list -s %s) and a policy is published: docs/aws.md\n", d.name)
	return nil
}
