package aws

import (
	"net/url"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/servicediscovery"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// controlHost returns the name at which nodes find the control plane.
func controlHost(stack string) string { return "control." + document.Namespace(stack) }

// control is the control plane, and the cluster whose first service it is.
type control struct {
	cluster         *ecs.Cluster
	role, execution *iam.Role
}

func newControl(parent *scope, n *network, f *fence, a *auditLog, v *vault, r *roles, bundles held) *control {
	s := parent.component("ControlPlane", "control")
	place, set := s.args.place(), s.args.AWS
	c := &control{cluster: add(s, ecs.NewCluster, "cluster", &ecs.ClusterArgs{
		Settings: ecs.ClusterSettingArray{&ecs.ClusterSettingArgs{Name: pulumi.String("containerInsights"), Value: pulumi.String("enabled")}},
		Tags:     s.tags("cluster"),
	})}
	c.execution = r.execution(s, s.args.image(), a.group(groupControl), v.key.arn, v.caKey.Arn, v.fleetKey.Arn,
		v.tokens.Arn)

	// The calls that it makes must come from its own network.
	in := []pulumi.StringInput{bundles.arn, v.key.arn, n.egress}
	fixed := len(in)
	in = append(in, arnsOf(v.credentials)...)
	secrets := len(in)
	in = append(in, n.addresses...)
	policy := written(func(x []string) string {
		from := document.From{VPC: x[2]}
		if set.Mode == cloud.ModeShared {
			from.Addresses = x[secrets:]
		}
		return document.Control{Place: place, Bundles: document.ARN(x[0]), Key: document.ARN(x[1]), Secrets: arns(x[fixed:secrets]), From: from}.Policy().Text()
	}, in...)
	c.role, _ = r.role(s, "task", ecsTasks, "The control plane: reads publications and the secrets of the policy's credentials", policy, place.ARN("ecs", "*"))

	domain := add(s, servicediscovery.NewPrivateDnsNamespace, "names", &servicediscovery.PrivateDnsNamespaceArgs{
		Name: pulumi.String(document.Namespace(s.stack)), Description: pulumi.String("Stack " + s.stack),
		Vpc: n.egress, Tags: s.tags("names"),
	})
	name := add(s, servicediscovery.NewService, "name", &servicediscovery.ServiceArgs{
		Name: pulumi.String("control"),
		DnsConfig: &servicediscovery.ServiceDnsConfigArgs{
			NamespaceId: domain.ID(), RoutingPolicy: pulumi.String("MULTIVALUE"),
			DnsRecords: servicediscovery.ServiceDnsConfigDnsRecordArray{&servicediscovery.ServiceDnsConfigDnsRecordArgs{Type: pulumi.String("A"), Ttl: pulumi.Int(10)}},
		},
		// ECS removes its instances some time after their tasks.
		HealthCheckCustomConfig: &servicediscovery.ServiceHealthCheckCustomConfigArgs{FailureThreshold: pulumi.Int(1)},
		ForceDestroy:            pulumi.Bool(true),
		Tags:                    s.tags("name"),
	})
	definition := written(func(x []string) string {
		return document.Controller{
			Place: place, Stack: s.stack, Image: x[5], Group: x[0], Store: storeURL(x[1], set.Region),
			CA: set.CA, FleetCA: set.FleetCA, Operators: set.Operators,
			CAKey: document.ARN(x[2]), FleetCAKey: document.ARN(x[3]), Tokens: document.ARN(x[4]),
		}.Container().Text()
	}, a.group(groupControl), bundles.name, v.caKey.Arn, v.fleetKey.Arn, v.tokens.Arn, s.args.image())
	args := &ecs.ServiceArgs{
		Cluster: c.cluster.Arn, DesiredCount: pulumi.Int(set.Control.Replicas),
		TaskDefinition:                  task(s, "task", definition, set.Control.CPU, set.Control.Memory, c.execution, c.role).Arn,
		NetworkConfiguration:            taskNetwork(n.subnets[cloud.TierControl], f.control.ID()),
		ServiceRegistries:               &ecs.ServiceServiceRegistriesArgs{RegistryArn: name.Arn},
		DeploymentMinimumHealthyPercent: pulumi.Int(100), DeploymentMaximumPercent: pulumi.Int(200),
		AvailabilityZoneRebalancing: pulumi.String("ENABLED"),
	}
	s.start(func(after pulumi.ResourceOption) { service(s, args, after) })
	s.outputs(pulumi.Map{"host": pulumi.String(controlHost(s.stack)), "role": c.role.Arn})
	return c
}

// storeURL returns the URL of the bundle store, as `posternd control` and `postern push` get it.
func storeURL(bucket, region string) string {
	return (&url.URL{Scheme: "s3", Host: bucket, RawQuery: url.Values{"region": {region}}.Encode()}).String()
}

// service declares a service on Fargate. It has no circuit breaker: its tasks cannot start before
// their secrets have values, and ECS would give up after three tries, for good. Without one it
// tries again, at the latest every 27 minutes (Amazon ECS Developer Guide, "service throttle
// logic"). A deployment that fails stops no task that serves: new tasks are started first.
func service(s *scope, args *ecs.ServiceArgs, opts ...pulumi.ResourceOption) *ecs.Service {
	args.LaunchType, args.EnableExecuteCommand = pulumi.String("FARGATE"), pulumi.Bool(false)
	args.PropagateTags, args.Tags = pulumi.String("SERVICE"), s.tags("service")
	return add(s, ecs.NewService, "service", args, opts...)
}

// task declares a task definition of Fargate, with one container. role says what the task itself
// may do; nil means nothing.
func task(s *scope, suffix string, containers pulumi.StringInput, cpu, memory int, execution, role *iam.Role) *ecs.TaskDefinition {
	args := &ecs.TaskDefinitionArgs{
		Family: pulumi.String(s.prefix), ContainerDefinitions: containers.ToStringOutput(),
		RequiresCompatibilities: pulumi.StringArray{pulumi.String("FARGATE")},
		NetworkMode:             pulumi.String("awsvpc"), Cpu: pulumi.String(decimal(cpu)),
		Memory:           pulumi.String(decimal(memory)),
		ExecutionRoleArn: execution.Arn, EnableFaultInjection: pulumi.Bool(false),
		RuntimePlatform: &ecs.TaskDefinitionRuntimePlatformArgs{OperatingSystemFamily: pulumi.String("LINUX"), CpuArchitecture: pulumi.String("X86_64")},
		Volumes: ecs.TaskDefinitionVolumeArray{
			&ecs.TaskDefinitionVolumeArgs{Name: pulumi.String(document.VolumeState)}, &ecs.TaskDefinitionVolumeArgs{Name: pulumi.String(document.VolumeTmp)},
		},
		Tags: s.tags(suffix),
	}
	if role != nil {
		args.TaskRoleArn = role.Arn
	}
	return add(s, ecs.NewTaskDefinition, suffix, args)
}
