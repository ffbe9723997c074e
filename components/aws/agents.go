package aws

import (
	"fmt"
	"net"
	"slices"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/autoscaling"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// AgentPoolArgs say where an agent runs. What runs, and how much of it, is in the fleet's settings.
type AgentPoolArgs struct {
	// Fleet is what the agent reaches the world through.
	Fleet *Fleet
	// Agent is the agent's name.
	Agent string
	// Cluster is the ARN of the ECS cluster for an agent on Fargate; nil means the fleet's.
	Cluster pulumi.StringInput
	// Subnets are those of the agent's machines or tasks; nil means all subnets of the network that
	// are for agents.
	Subnets pulumi.StringArrayInput
}

// AgentPool is the machines or tasks of one agent. They have no role, and no address that anybody
// else can reach.
type AgentPool struct {
	pulumi.ResourceState

	// Group is the ID of the agent's security group, which is its identity.
	Group pulumi.StringOutput `pulumi:"group"`
	// Gates are the addresses, address:port, at which the agent reaches the proxies.
	Gates pulumi.StringArrayOutput `pulumi:"gates"`
}

// NewAgentPool declares the machines or tasks of one agent of the fleet under the given name. They
// start when all of the fleet is there.
func NewAgentPool(
	ctx *pulumi.Context, name string, args *AgentPoolArgs, opts ...pulumi.ResourceOption,
) (p *AgentPool, err error) {
	if args == nil || args.Fleet == nil {
		return nil, fmt.Errorf("declare agents %s: Fleet is needed", name)
	}
	defer declared(&err)
	s := args.Fleet.scope.again(ctx, name)
	p, err = args.declare(s, name, opts...)
	if err != nil {
		return nil, fmt.Errorf("declare agents %s: %w", name, err)
	}
	s.order.begin()
	s.complete()
	return p, nil
}

func (args *AgentPoolArgs) declare(parent *scope, name string, opts ...pulumi.ResourceOption) (*AgentPool, error) {
	set := parent.args.AWS
	i := slices.IndexFunc(set.Agents, func(a cloud.Agent) bool { return a.Name == args.Agent })
	if i < 0 {
		return nil, fmt.Errorf("the fleet has no agent %q", args.Agent)
	}
	x, f := set.Agents[i], args.Fleet
	if x.Compute == cloud.ComputeElsewhere {
		return nil, fmt.Errorf("agent %s has compute %s: whatever has its security group is the agent", x.Name,
			x.Compute)
	}
	p := &AgentPool{}
	subnets := args.Subnets
	if subnets == nil {
		subnets = f.network.subnets[cloud.TierAgents]
	}
	s := parent.part("AgentPool", name, p, pulumi.Map{
		"agent": pulumi.String(x.Name), "compute": pulumi.String(x.Compute), "count": pulumi.Int(x.Count),
		"subnets": subnets,
	}, opts...)
	p.Group = f.fence.agents[x.Name].ID().ToStringOutput()
	p.Gates = pulumi.ToStringArray(s.args.gates(x.Port)).ToStringArrayOutput()
	s.outputs(pulumi.Map{"group": p.Group, "gates": p.Gates})
	if x.Compute == cloud.ComputeFargate {
		cluster := args.Cluster
		if cluster == nil {
			cluster = f.Cluster
		}
		agentTasks(s, f, p.Group, cluster, subnets, x)
		return p, nil
	}
	m := machine{ami: s.args.agentAMI(x), instance: x.Instance, disk: x.Disk, group: p.Group, metadata: x.Metadata}
	if x.Metadata != cloud.MetadataDisabled {
		m.data = written(func(v []string) string {
			return s.args.agentMachine(x, v[0]).CloudConfig().Base64()
		}, s.args.agentImage(x)).ToStringPtrOutput()
	}
	template := m.template(s, "machine")
	s.start(func(after pulumi.ResourceOption) {
		grouped(s, "machine", template, subnets, &autoscaling.GroupArgs{
			MinSize: pulumi.Int(x.Count), MaxSize: pulumi.Int(x.Count), DesiredCapacity: pulumi.Int(x.Count),
		}, after)
	})
	return p, nil
}

// agentMachine returns the settings of an agent's machine: its user data, or, without a metadata
// service, a file of its image.
func (a *EnvironmentArgs) agentMachine(x cloud.Agent, image string) document.AgentMachine {
	return document.AgentMachine{
		Stack: a.Plan.Stack, Agent: x.Name, Runtime: x.Runtime, Image: image, Command: x.Command,
		Gates: a.gates(x.Port), CA: a.AWS.CA,
	}
}

// gates returns the addresses, address:port, at which an agent reaches the proxies.
func (a *EnvironmentArgs) gates(port uint16) []string {
	var out []string
	for i := range a.AWS.Zones {
		out = append(out, net.JoinHostPort(a.gate(i).String(), decimal(int(port))))
	}
	return out
}

// agentTasks runs an agent on Fargate: convenient, and less strict, since the
// platform uses the agent's own network. The role is the platform's: the task
// has none.
func agentTasks(s *scope, f *Fleet, group, cluster pulumi.StringInput, subnets pulumi.StringArrayInput, x cloud.Agent) {
	place, image := s.args.place(), s.args.agentImage(x)
	execution := f.roles.execution(s, image, f.log.group(groupAgents), f.vault.key.arn)
	definition := written(func(v []string) string {
		return document.Task{
			Place: place, Name: x.Name, Image: v[1], Command: x.Command, Group: v[0],
			Gate: "http://" + s.args.gates(x.Port)[0], CA: s.args.AWS.CA,
		}.Container().Text()
	}, f.log.group(groupAgents), image)
	args := &ecs.ServiceArgs{
		Cluster: cluster.ToStringOutput(), DesiredCount: pulumi.Int(x.Count),
		TaskDefinition:                  task(s, "task", definition, x.CPU, x.Memory, execution, nil).Arn,
		NetworkConfiguration:            taskNetwork(subnets, group),
		DeploymentMinimumHealthyPercent: pulumi.Int(0), DeploymentMaximumPercent: pulumi.Int(100),
	}
	s.start(func(after pulumi.ResourceOption) { service(s, args, after) })
}
