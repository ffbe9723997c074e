// Package aws declares the environment of a stack with `target: aws`: networks without a way out,
// the fleet of proxies that is the only way out, the control plane, the agents, their identities,
// and the audit log.
//
// docs/aws.md has the picture and the reason for every part. The package keeps three rules. Each
// rule, route and association is one resource, so that the planned graph says exactly what depends
// on what. No property has the value of a secret. Policies are typed values, see package document.
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
	// Plan is the stack's policy. Its credentials determine the secrets and their readers. Its
	// ports determine what the proxies' firewall lets out.
	Plan *plan.Plan
}

// Environment is the environment of one stack.
type Environment struct {
	pulumi.ResourceState

	// Gates are the addresses at which agents reach the proxies, one for each zone.
	Gates pulumi.StringArrayOutput `pulumi:"gates"`
	// Addresses are the public addresses from which the proxies connect.
	Addresses pulumi.StringArrayOutput `pulumi:"addresses"`
	// Store is the URL of the bundle store, to which `postern push` publishes.
	Store pulumi.StringOutput `pulumi:"store"`
	// Secrets are the names of the secrets that need a value.
	Secrets pulumi.StringArrayOutput `pulumi:"secrets"`
	// Events is the log group of the audit events. AuditBucket is the bucket that keeps them.
	Events      pulumi.StringOutput `pulumi:"events"`
	AuditBucket pulumi.StringOutput `pulumi:"auditBucket"`
	// OperatorPolicy is the ARN of the policy for people who push and audit.
	OperatorPolicy pulumi.StringOutput `pulumi:"operatorPolicy"`
}

// NewEnvironment declares the environment under the given name. opts must give a provider of the
// account and region in args.
func NewEnvironment(ctx *pulumi.Context, name string, args *EnvironmentArgs, opts ...pulumi.ResourceOption) (env *Environment, err error) {
	if err := args.check(); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	env = &Environment{}
	if err := ctx.RegisterComponentResource("postern:aws:Environment", name, env, opts...); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	defer declared(&err)
	s := &scope{ctx: ctx, args: args, stack: args.Plan.Stack, prefix: name, role: "environment", parent: env, silent: map[string]bool{}, order: &order{}}

	env.declare(s)
	return env, nil
}

// declare puts the parts together, in the order in which they need each other. What runs comes last.
func (env *Environment) declare(s *scope) {
	set := s.args.AWS
	log, logs := newAuditLog(s)
	store := s.component("Bundles", "bundles")
	bundles, _ := newBucket(store, "store", bucket{kept: true}, pulumi.Protect(set.Protect))
	store.outputs(pulumi.Map{"bucket": bundles.Bucket})
	n := newNetwork(s)
	newDNS(s, n, log)
	newFlowLogs(logs, n, log)
	f := newFence(s, n)
	v := newVault(s)
	r := newBoundary(s, log, bundles.Arn, v)
	e := newEndpoints(s, n, f, log, v, bundles)
	c := newControl(s, n, f, log, v, r, bundles)
	p := newProxies(s, n, f, log, v, r, c.cluster)
	v.restrict(n, e, c.role, c.execution, p.reader)
	if set.Mode == cloud.ModeIsolated {
		newGate(s, n, f, p.balancer)
	}
	for _, a := range set.Agents {
		newAgent(s, n, f.agents[a.Name], log, r, v, c.cluster, a)
	}
	log.ship(logs, r)
	log.alert(logs, p.balancer)
	operators := newOperators(s, log, bundles, v)
	s.order.begin()

	gates, addresses, secrets := pulumi.StringArray{}, pulumi.StringArray{}, pulumi.StringArray{}
	for i := range set.Zones {
		gates = append(gates, pulumi.String(set.Gate(i).String()))
	}
	for _, x := range n.addresses {
		addresses = append(addresses, x.PublicIp)
	}
	for _, x := range v.all() {
		secrets = append(secrets, x.Name)
	}
	env.Gates, env.Addresses, env.Secrets = gates.ToStringArrayOutput(), addresses.ToStringArrayOutput(), secrets.ToStringArrayOutput()
	env.Store = bundles.Bucket.ApplyT(func(name string) string { return storeURL(name, set.Region) }).(pulumi.StringOutput)
	env.Events, env.AuditBucket, env.OperatorPolicy = log.groups[groupProxies].Name, log.bucket.Bucket, operators.Arn
	s.outputs(pulumi.Map{
		"gates": env.Gates, "addresses": env.Addresses, "store": env.Store, "secrets": env.Secrets,
		"events": env.Events, "auditBucket": env.AuditBucket, "operatorPolicy": env.OperatorPolicy,
	})
	s.complete()
}

// check refuses arguments that do not belong together: our mistake, not the user's.
func (a *EnvironmentArgs) check() error {
	if a == nil || a.AWS == nil || a.Plan == nil {
		return errors.New("arguments are missing")
	}
	if n := len(a.AWS.Zones); n < 1 || n > cloud.MaxZones {
		return fmt.Errorf("%d zones", n)
	}
	if slices.ContainsFunc(a.AWS.Agents, func(x cloud.Agent) bool { return !cloud.AgentPort(x.Port) }) {
		return errors.New("an agent has a port that is not for agents")
	}
	var names, described []string
	for _, x := range a.Plan.Agents {
		names = append(names, x.Name)
	}
	for _, x := range a.AWS.Agents {
		described = append(described, x.Name)
	}
	if !slices.Equal(names, described) {
		return fmt.Errorf("the policy is about agents %q, the settings about %q", names, described)
	}
	return nil
}
