// Package aws declares the environment that a stack with `target: aws` gets:
// networks without a way out, the fleet of proxies that is the one way out, the
// control plane, the agents, their identities, and the audit log.
//
// docs/aws.md has the picture and the reason of every part. The rules that the
// package keeps: one resource for each rule, route and association, so that the
// planned graph says exactly what depends on what; no value of a secret in any
// property; policies are typed values, see [Policy].
package aws

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
)

// EnvironmentArgs say what to build.
type EnvironmentArgs struct {
	// AWS are the checked settings of the stack file.
	AWS *cloud.AWS
	// Plan is the stack's policy. Its credentials decide which secrets there
	// are and who reads them; its ports, what the proxies' firewall lets out.
	Plan *plan.Plan
}

// Environment is the environment of one stack.
type Environment struct {
	pulumi.ResourceState

	// Gates are the addresses at which agents reach the proxies, one for each zone.
	Gates pulumi.StringArrayOutput `pulumi:"gates"`
}

// NewEnvironment declares the environment, as name. The provider that opts give
// must be of the account and region in args.
func NewEnvironment(ctx *pulumi.Context, name string, args *EnvironmentArgs, opts ...pulumi.ResourceOption) (env *Environment, err error) {
	if err := args.check(); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	env = &Environment{}
	if err := ctx.RegisterComponentResource("postern:aws:Environment", name, env, opts...); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	defer declared(&err)
	s := &scope{ctx: ctx, args: args, stack: args.Plan.Stack, prefix: name, role: "environment", parent: env}

	newNetwork(s)

	gates := pulumi.StringArray{}
	for i := range args.AWS.Zones {
		gates = append(gates, pulumi.String(args.AWS.Gate(i).String()))
	}
	env.Gates = gates.ToStringArrayOutput()
	s.outputs(pulumi.Map{"gates": env.Gates})
	return env, nil
}

// check refuses arguments that do not belong together: our mistake, not the user's.
func (a *EnvironmentArgs) check() error {
	if a == nil || a.AWS == nil || a.Plan == nil {
		return errors.New("arguments are missing")
	}
	if n := len(a.AWS.Zones); n < 1 || n > cloud.MaxZones {
		return fmt.Errorf("%d zones", n)
	}
	agent := func(x cloud.Agent) string { return x.Name }
	var names, described []string
	for _, x := range a.Plan.Agents {
		names = append(names, x.Name)
	}
	for _, x := range a.AWS.Agents {
		described = append(described, agent(x))
	}
	if !slices.Equal(names, described) {
		return fmt.Errorf("the policy is about agents %q, the settings about %q", names, described)
	}
	return nil
}
