package aws

import (
	"fmt"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan/cloud"
)

// FleetArgs say what agents reach the world through.
type FleetArgs struct {
	// Network is where the fleet is. Its settings and policy are the fleet's.
	Network *Network
	Inputs
}

// Fleet is the proxies, their control plane, the secrets, the audit log, and the agents' way to
// all of that: everything of an environment but networks and agents. For each agent of the settings
// it has a security group, which is the agent's identity, and a port.
type Fleet struct {
	pulumi.ResourceState

	// AgentGroups are the IDs of the agents' security groups, by agent. Whatever has such a group
	// is the agent: give it to nothing else.
	AgentGroups pulumi.StringMapOutput `pulumi:"agentGroups"`
	// EndpointService is the name of the PrivateLink service of the proxies, and Endpoint the ID of
	// its endpoint in the agents' network. Both are "" in the shared mode.
	EndpointService pulumi.StringOutput `pulumi:"endpointService"`
	Endpoint        pulumi.StringOutput `pulumi:"endpoint"`
	// Balancer is the ARN of the load balancer of the proxies.
	Balancer pulumi.StringOutput `pulumi:"balancer"`
	// Cluster is the ARN of the ECS cluster.
	Cluster pulumi.StringOutput `pulumi:"cluster"`
	// ControlHost is the name, in the egress network, at which nodes find the control plane.
	ControlHost pulumi.StringOutput `pulumi:"controlHost"`
	// Store is the URL of the bundle store, to which `postern push` publishes.
	Store pulumi.StringOutput `pulumi:"store"`
	// Secrets are the names of the secrets that need a value.
	Secrets pulumi.StringArrayOutput `pulumi:"secrets"`
	// SecretsKey and AuditKey are the ARNs of the keys of secrets and of the audit log.
	SecretsKey pulumi.StringOutput `pulumi:"secretsKey"`
	AuditKey   pulumi.StringOutput `pulumi:"auditKey"`
	// LogGroups are the ARNs of the log groups: proxies (the audit events), control, delivery, dns,
	// and, if there are such resolvers and agents, probes and agents.
	LogGroups pulumi.StringMapOutput `pulumi:"logGroups"`
	// Events is the name of the log group of the audit events. AuditBucket is the bucket that keeps
	// them. Alarms is the ARN of the SNS topic of the alarms.
	Events      pulumi.StringOutput `pulumi:"events"`
	AuditBucket pulumi.StringOutput `pulumi:"auditBucket"`
	Alarms      pulumi.StringOutput `pulumi:"alarms"`
	// OperatorPolicy is the ARN of the policy for people who push and audit. Boundary is the ARN of
	// the most that any role of the stack can be allowed.
	OperatorPolicy pulumi.StringOutput `pulumi:"operatorPolicy"`
	Boundary       pulumi.StringOutput `pulumi:"boundary"`

	scope   *scope
	network *network
	fence   *fence
	log     *auditLog
	vault   *vault
	roles   *roles
}

// Declared are the resources that the fleet and its network have declared. What a program starts
// itself has to depend on all of them. To depend on the fleet is not enough: the SDK knows the
// resources of a component only once it has begun to register them, some time after NewFleet.
func (f *Fleet) Declared() []pulumi.Resource { return slices.Clone(f.scope.order.made) }

// NewFleet declares the fleet under the given name. opts must give a provider of the account and
// region of the settings.
func NewFleet(ctx *pulumi.Context, name string, args *FleetArgs, opts ...pulumi.ResourceOption) (f *Fleet, err error) {
	if args == nil || args.Network == nil {
		return nil, fmt.Errorf("declare fleet %s: Network is needed", name)
	}
	defer declared(&err)
	s := args.Network.scope.again(ctx, name)
	all := *s.args
	all.Inputs = args.Inputs
	s.args = &all
	if err := all.check(false); err != nil {
		return nil, fmt.Errorf("declare fleet %s: %w", name, err)
	}
	f = newFleet(s, name, args.Network.network, opts...)
	s.order.begin()
	s.complete()
	return f, nil
}

// newFleet declares the parts in the order in which they need each other. What runs waits for the
// order to begin.
func newFleet(parent *scope, name string, n *network, opts ...pulumi.ResourceOption) *Fleet {
	prefix, set := parent.prefix, parent.args.AWS
	f := &Fleet{network: n, scope: parent}
	s := parent.part("Fleet", name, f, settings(parent.args), opts...)
	s.prefix = prefix
	log, logs := newAuditLog(s)
	bundles := newStore(s)
	newDNS(s, n, log)
	newFlowLogs(logs, n, log)
	f.fence, f.log = newFence(s, n), log
	f.vault = newVault(s)
	f.roles = newBoundary(s, log, bundles.arn, f.vault)
	e := newEndpoints(s, n, f.fence, log, f.vault, bundles)
	c := newControl(s, n, f.fence, log, f.vault, f.roles, bundles)
	p := newProxies(s, n, f.fence, log, f.vault, f.roles, c.cluster)
	f.vault.restrict(n, e, c.role, c.execution, p.reader)
	f.EndpointService, f.Endpoint = pulumi.String("").ToStringOutput(), pulumi.String("").ToStringOutput()
	if set.Mode == cloud.ModeIsolated {
		service, endpoint := newGate(s, n, f.fence, p.balancer)
		f.EndpointService, f.Endpoint = service.ServiceName, endpoint.ID().ToStringOutput()
	}
	log.ship(logs, f.roles)
	f.Alarms = log.alert(logs, p.balancer).Arn
	f.OperatorPolicy = newOperators(s, log, bundles, f.vault).Arn

	groups, logGroups, secrets := pulumi.StringMap{}, pulumi.StringMap{}, pulumi.StringArray{}
	for name, g := range f.fence.agents {
		groups[name] = g.ID().ToStringOutput()
	}
	for name, g := range log.groups {
		logGroups[name] = g.Arn
	}
	for _, x := range f.vault.all() {
		secrets = append(secrets, x.Name)
	}
	f.AgentGroups, f.LogGroups, f.Secrets = groups.ToStringMapOutput(), logGroups.ToStringMapOutput(),
		secrets.ToStringArrayOutput()
	f.Balancer, f.Cluster, f.Boundary = p.balancer.lb.Arn, c.cluster.Arn, f.roles.boundary.Arn
	f.ControlHost = pulumi.String(controlHost(s.stack)).ToStringOutput()
	f.Store = written(func(v []string) string { return storeURL(v[0], set.Region) }, bundles.name)
	f.SecretsKey, f.AuditKey = f.vault.key.arn.ToStringOutput(), log.key.arn.ToStringOutput()
	f.Events, f.AuditBucket = log.groups[groupProxies].Name, log.bucket.name.ToStringOutput()
	s.outputs(f.outputs())
	return f
}

func (f *Fleet) outputs() pulumi.Map {
	return pulumi.Map{
		"agentGroups": f.AgentGroups, "endpointService": f.EndpointService, "endpoint": f.Endpoint,
		"balancer": f.Balancer, "cluster": f.Cluster, "controlHost": f.ControlHost, "store": f.Store,
		"secrets": f.Secrets, "secretsKey": f.SecretsKey, "auditKey": f.AuditKey, "logGroups": f.LogGroups,
		"events": f.Events, "auditBucket": f.AuditBucket, "alarms": f.Alarms,
		"operatorPolicy": f.OperatorPolicy, "boundary": f.Boundary,
	}
}

// newStore declares the bucket for publications, unless there is one.
func newStore(parent *scope) held {
	if name := parent.args.Store; name != nil {
		return existing(parent.args.place(), name)
	}
	s := parent.component("Bundles", "bundles")
	bundles, _ := newBucket(s, "store", bucket{kept: true}, pulumi.Protect(s.args.AWS.Protect))
	s.outputs(pulumi.Map{"bucket": bundles.name})
	return bundles
}

// settings returns what the engine shows of a part's arguments.
func settings(a *EnvironmentArgs) pulumi.Map {
	agents := pulumi.IntMap{}
	for _, x := range a.AWS.Agents {
		agents[x.Name] = pulumi.Int(int(x.Port))
	}
	ports, resolvers := pulumi.IntArray{}, pulumi.StringArray{}
	for _, p := range cloud.Ports(a.Plan) {
		ports = append(ports, pulumi.Int(int(p)))
	}
	for _, r := range cloud.Resolvers(a.Plan) {
		resolvers = append(resolvers, pulumi.String(r.String()))
	}
	m := pulumi.Map{
		"stack": pulumi.String(a.Plan.Stack), "account": pulumi.String(a.AWS.Account),
		"region": pulumi.String(a.AWS.Region), "mode": pulumi.String(a.AWS.Mode),
		"zones": pulumi.ToStringArray(a.AWS.Zones), "protect": pulumi.Bool(a.AWS.Protect), "agents": agents,
		"ports": ports, "resolvers": resolvers,
		"controlOut": pulumi.Bool(cloud.ControlGoesOut(a.Plan)),
	}
	if a.Existing != nil {
		m["agentsVpc"] = a.Existing.VPC
	}
	for name, in := range map[string]pulumi.StringInput{
		"image": a.Image, "secretsKey": a.SecretsKey, "auditKey": a.AuditKey, "auditBucket": a.AuditBucket,
		"storeBucket": a.Store,
	} {
		if in != nil {
			m[name] = in
		}
	}
	return m
}
