package aws

import (
	"net"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/autoscaling"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// newAgent declares where an agent runs. It has no role and no address that
// anybody else can reach.
func newAgent(parent *scope, n *network, group *ec2.SecurityGroup, a *auditLog, r *roles, v *vault, cluster *ecs.Cluster, x cloud.Agent) {
	s := parent.component("Agent", "agent-"+x.Name)
	s.outputs(pulumi.Map{"gates": pulumi.ToStringArray(s.args.gates(x.Port))})
	if x.Compute == cloud.ComputeFargate {
		agentTasks(s, n, group, a, r, v, cluster, x)
		return
	}
	m := machine{ami: x.AMI, instance: x.Instance, disk: x.Disk, group: group.ID(), metadata: x.Metadata}
	if x.Metadata != cloud.MetadataDisabled {
		m.data = pulumi.String(s.args.AgentMachine(x).CloudConfig().Base64())
	}
	template := m.template(s, "machine")
	s.start(func(after pulumi.ResourceOption) {
		grouped(s, "machine", template, n.subnets[cloud.TierAgents], &autoscaling.GroupArgs{
			MinSize: pulumi.Int(x.Count), MaxSize: pulumi.Int(x.Count), DesiredCapacity: pulumi.Int(x.Count),
		}, after)
	})
}

// AgentMachine returns the settings of an agent's machine: its user data, or, without a metadata
// service, a file of its image.
func (a *EnvironmentArgs) AgentMachine(x cloud.Agent) document.AgentMachine {
	return document.AgentMachine{
		Stack: a.Plan.Stack, Agent: x.Name, Runtime: x.Runtime, Image: x.Image, Command: x.Command,
		Gates: a.gates(x.Port), CA: a.AWS.CA,
	}
}

// gates returns the addresses, address:port, at which an agent reaches the proxies.
func (a *EnvironmentArgs) gates(port uint16) []string {
	var out []string
	for i := range a.AWS.Zones {
		out = append(out, net.JoinHostPort(a.AWS.Gate(i).String(), decimal(int(port))))
	}
	return out
}

// agentTasks runs an agent on Fargate: convenient, and less strict, since the
// platform uses the agent's own network. The role is the platform's: the task
// has none.
func agentTasks(s *scope, n *network, group *ec2.SecurityGroup, a *auditLog, r *roles, v *vault, cluster *ecs.Cluster, x cloud.Agent) {
	place := s.args.place()
	execution := r.execution(s, x.Image, a.group(groupAgents), v.key.Arn)
	definition := written(func(v []string) string {
		return document.Task{
			Place: place, Name: x.Name, Image: x.Image, Command: x.Command, Group: v[0],
			Gate: "http://" + s.args.gates(x.Port)[0], CA: s.args.AWS.CA,
		}.Container().Text()
	}, a.group(groupAgents))
	args := &ecs.ServiceArgs{
		Cluster: cluster.Arn, DesiredCount: pulumi.Int(x.Count),
		TaskDefinition:                  task(s, "task", definition, x.CPU, x.Memory, execution, nil).Arn,
		NetworkConfiguration:            taskNetwork(n.subnets[cloud.TierAgents], group.ID()),
		DeploymentMinimumHealthyPercent: pulumi.Int(0), DeploymentMaximumPercent: pulumi.Int(100),
	}
	s.start(func(after pulumi.ResourceOption) { service(s, args, after) })
}
