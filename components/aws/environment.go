// Package aws declares the environment of a stack with `target: aws`: networks without a way out,
// the fleet of proxies that is the only way out, the control plane, the agents, their identities,
// and the audit log.
//
// [NewEnvironment] declares all of it. A program that brings a part of its own puts it together from
// [NewNetwork], [NewFleet] and [NewAgentPool]; the folder examples has such programs.
//
// docs/aws.md has the picture and the reason for every part. The package keeps three rules. Each
// rule, route and association is one resource, so that the planned graph says exactly what depends
// on what. No property has the value of a secret. Policies are typed values, see package document.
package aws

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan/cloud"
)

// Environment is the environment of one stack.
type Environment struct {
	pulumi.ResourceState

	// Network, Fleet and Pools, by agent, are its parts.
	Network *Network
	Fleet   *Fleet
	Pools   map[string]*AgentPool

	// Gates are the addresses at which agents reach the proxies, one for each zone.
	Gates pulumi.StringArrayOutput `pulumi:"gates"`
	// Addresses are the public addresses from which the proxies connect.
	Addresses pulumi.StringArrayOutput `pulumi:"addresses"`
}

// NewEnvironment declares the environment under the given name. opts must give a provider of the
// account and region in args.
func NewEnvironment(ctx *pulumi.Context, name string, args *EnvironmentArgs, opts ...pulumi.ResourceOption) (env *Environment, err error) {
	if err := args.check(false); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	defer declared(&err)
	env = &Environment{Pools: map[string]*AgentPool{}}
	s := open(ctx, name, args).part("Environment", name, env, settings(args), opts...)
	env.Network = newNetwork(s, name+"-network")
	env.Fleet = newFleet(s, name+"-fleet", env.Network.network)
	for _, a := range args.AWS.Agents {
		if a.Compute == cloud.ComputeElsewhere {
			continue
		}
		pool, err := (&AgentPoolArgs{Fleet: env.Fleet, Agent: a.Name}).declare(s, name+"-agent-"+a.Name)
		if err != nil {
			return nil, fmt.Errorf("declare environment %s: %w", name, err)
		}
		env.Pools[a.Name] = pool
	}
	s.order.begin()
	env.Gates, env.Addresses = env.Network.Gates, env.Network.Addresses
	outputs := env.Fleet.outputs()
	for key, v := range env.Network.outputs() {
		outputs[key] = v
	}
	s.outputs(outputs)
	s.complete()
	return env, nil
}
