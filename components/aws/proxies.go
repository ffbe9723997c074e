package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/appautoscaling"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// Targets of scaling, for each proxy.
const (
	cpuTarget         = 60 // percent
	connectionsTarget = 2000
)

// proxies are the fleet. reader is the role that reads the join token: the
// platform's on Fargate, the machine's on EC2. No task has a role.
type proxies struct {
	balancer *balancer
	reader   *iam.Role
}

func newProxies(parent *scope, n *network, f *fence, a *auditLog, v *vault, r *roles, cluster *ecs.Cluster) *proxies {
	s := parent.component("Proxies", "proxies")
	p := &proxies{balancer: newBalancer(s, n, f)}
	if s.args.AWS.Proxies.Compute == cloud.ComputeEC2 {
		p.machines(s, n, f, a, v, r)
	} else {
		p.tasks(s, n, f, a, v, r, cluster)
	}
	s.outputs(pulumi.Map{"balancer": p.balancer.lb.Arn})
	return p
}

// tasks runs the proxies on Fargate.
func (p *proxies) tasks(s *scope, n *network, f *fence, a *auditLog, v *vault, r *roles, cluster *ecs.Cluster) {
	place, set := s.args.place(), s.args.AWS
	p.reader = r.execution(s, s.args.image(), a.group(groupProxies), v.key.arn, v.token.Arn)
	var ports []uint16
	targets := ecs.ServiceLoadBalancerArray{}
	for i, x := range set.Agents {
		ports = append(ports, x.Port)
		targets = append(targets, &ecs.ServiceLoadBalancerArgs{
			TargetGroupArn: p.balancer.targets[i].Arn, ContainerName: pulumi.String("proxy"),
			ContainerPort: pulumi.Int(int(x.Port)),
		})
	}
	definition := written(func(x []string) string {
		return document.Proxy{
			Place: place, Stack: s.stack, Image: x[2], Group: x[0], Ports: ports,
			Control: controlHost(s.stack), FleetCA: set.FleetCA, Token: document.ARN(x[1]),
		}.Container().Text()
	}, a.group(groupProxies), v.token.Arn, s.args.image())
	args := &ecs.ServiceArgs{
		Cluster: cluster.Arn, DesiredCount: pulumi.Int(set.Proxies.Min),
		TaskDefinition:       task(s, "task", definition, set.Proxies.CPU, set.Proxies.Memory, p.reader, nil).Arn,
		NetworkConfiguration: taskNetwork(n.subnets[cloud.TierProxies], f.proxies.ID()),
		LoadBalancers:        targets, HealthCheckGracePeriodSeconds: pulumi.Int(machineLifetime),
		// New ones serve before old ones go. Without a policy no proxy is ready, and another one
		// would not be either. The load balancer sends nobody to a proxy that is not ready.
		DeploymentMinimumHealthyPercent: pulumi.Int(100), DeploymentMaximumPercent: pulumi.Int(200),
		AvailabilityZoneRebalancing: pulumi.String("ENABLED"),
	}
	s.start(func(after pulumi.ResourceOption) {
		p.scaleTasks(s, cluster, service(s, args, after, pulumi.IgnoreChanges([]string{"desiredCount"}))) // scaling's
	})
}

func (p *proxies) scaleTasks(s *scope, cluster *ecs.Cluster, service *ecs.Service) {
	target := add(s, appautoscaling.NewTarget, "scale", &appautoscaling.TargetArgs{
		ServiceNamespace: pulumi.String("ecs"), ScalableDimension: pulumi.String("ecs:service:DesiredCount"),
		ResourceId:  pulumi.Sprintf("service/%s/%s", cluster.Name, service.Name),
		MinCapacity: pulumi.Int(s.args.AWS.Proxies.Min), MaxCapacity: pulumi.Int(s.args.AWS.Proxies.Max),
		Tags: s.tags("scale"),
	})
	follow := func(name string, to *appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgs) {
		to.ScaleOutCooldown, to.ScaleInCooldown = pulumi.Int(60), pulumi.Int(600) // tunnels are long
		add(s, appautoscaling.NewPolicy, name, &appautoscaling.PolicyArgs{
			PolicyType: pulumi.String("TargetTrackingScaling"), ServiceNamespace: target.ServiceNamespace,
			ScalableDimension: target.ScalableDimension,
			ResourceId:        target.ResourceId, TargetTrackingScalingPolicyConfiguration: to,
		})
	}
	follow("cpu", &appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgs{
		TargetValue: pulumi.Float64(cpuTarget),
		PredefinedMetricSpecification: &appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationPredefinedMetricSpecificationArgs{
			PredefinedMetricType: pulumi.String("ECSServiceAverageCPUUtilization"),
		},
	})
	type metric = appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricArgs
	type stat = appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricMetricStatArgs
	type source = appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricMetricStatMetricArgs
	type dimension = appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricMetricStatMetricDimensionArgs
	type dimensions = appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricMetricStatMetricDimensionArray
	follow("connections", &appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgs{
		TargetValue: pulumi.Float64(connectionsTarget),
		CustomizedMetricSpecification: &appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationArgs{
			Metrics: appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricArray{
				&metric{Id: pulumi.String("flows"), ReturnData: pulumi.Bool(false), MetricStat: &stat{Stat: pulumi.String("Average"), Metric: &source{
					Namespace: pulumi.String("AWS/NetworkELB"), MetricName: pulumi.String("ActiveFlowCount"),
					Dimensions: dimensions{&dimension{Name: pulumi.String("LoadBalancer"), Value: p.balancer.lb.ArnSuffix}},
				}}},
				&metric{Id: pulumi.String("tasks"), ReturnData: pulumi.Bool(false), MetricStat: &stat{Stat: pulumi.String("Average"), Metric: &source{
					Namespace: pulumi.String("ECS/ContainerInsights"), MetricName: pulumi.String("RunningTaskCount"),
					Dimensions: dimensions{&dimension{Name: pulumi.String("ClusterName"), Value: cluster.Name}, &dimension{Name: pulumi.String("ServiceName"), Value: service.Name}},
				}}},
				&metric{Id: pulumi.String("each"), ReturnData: pulumi.Bool(true), Expression: pulumi.String("flows / tasks")},
			},
		},
	})
}
