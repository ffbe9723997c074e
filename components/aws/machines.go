package aws

import (
	"maps"
	"slices"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/autoscaling"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// A machine is replaced after so many seconds at the latest: what an intruder
// left on it goes with it.
const machineLifetime = 7 * 24 * 3600

// machine returns what launch templates have in common: one interface without a public address,
// an encrypted disk and no key pair. If there is a metadata service at all, it takes sessions
// (IMDSv2), and none from containers (hop limit 1).
type machine struct {
	ami      pulumi.StringInput
	instance string
	disk     int // GiB
	group    pulumi.StringInput
	metadata string
	// data is the user data, base64; nil if the metadata service is off.
	data pulumi.StringPtrInput
	// profile is nil for a machine without an identity.
	profile *iam.InstanceProfile
}

func (m machine) template(s *scope, suffix string) *ec2.LaunchTemplate {
	endpoint := pulumi.String("enabled")
	if m.metadata == cloud.MetadataDisabled {
		endpoint = pulumi.String("disabled")
	}
	tags := ec2.LaunchTemplateTagSpecificationArray{}
	for _, kind := range []string{"instance", "volume", "network-interface"} {
		tags = append(tags, &ec2.LaunchTemplateTagSpecificationArgs{ResourceType: pulumi.String(kind), Tags: s.tags(suffix)})
	}
	args := &ec2.LaunchTemplateArgs{
		Description: pulumi.String(s.resource(suffix)), ImageId: m.ami.ToStringOutput(),
		InstanceType: pulumi.String(m.instance), EbsOptimized: pulumi.String("true"),
		InstanceInitiatedShutdownBehavior: pulumi.String("terminate"), UpdateDefaultVersion: pulumi.Bool(true),
		MetadataOptions: &ec2.LaunchTemplateMetadataOptionsArgs{
			HttpEndpoint: endpoint, HttpTokens: pulumi.String("required"), HttpPutResponseHopLimit: pulumi.Int(1),
			HttpProtocolIpv6: pulumi.String("disabled"), InstanceMetadataTags: pulumi.String("disabled"),
		},
		NetworkInterfaces: ec2.LaunchTemplateNetworkInterfaceArray{&ec2.LaunchTemplateNetworkInterfaceArgs{
			DeviceIndex: pulumi.Int(0), AssociatePublicIpAddress: pulumi.String("false"),
			DeleteOnTermination: pulumi.String("true"), SecurityGroups: pulumi.StringArray{m.group},
		}},
		BlockDeviceMappings: ec2.LaunchTemplateBlockDeviceMappingArray{&ec2.LaunchTemplateBlockDeviceMappingArgs{
			DeviceName: pulumi.String("/dev/xvda"), Ebs: &ec2.LaunchTemplateBlockDeviceMappingEbsArgs{
				Encrypted: pulumi.String("true"), VolumeType: pulumi.String("gp3"),
				VolumeSize: pulumi.Int(m.disk), DeleteOnTermination: pulumi.String("true"),
			},
		}},
		EnclaveOptions: &ec2.LaunchTemplateEnclaveOptionsArgs{Enabled: pulumi.Bool(false)},
		Monitoring:     &ec2.LaunchTemplateMonitoringArgs{Enabled: pulumi.Bool(true)},
		UserData:       m.data, TagSpecifications: tags, Tags: s.tags(suffix),
	}
	if m.profile != nil {
		args.IamInstanceProfile = &ec2.LaunchTemplateIamInstanceProfileArgs{Arn: m.profile.Arn}
	}
	return add(s, ec2.NewLaunchTemplate, suffix, args)
}

// grouped is an Auto Scaling group of a template's machines. Machines are
// replaced when the template changes, new ones first.
func grouped(
	s *scope, suffix string, template *ec2.LaunchTemplate, subnets pulumi.StringArrayInput,
	more *autoscaling.GroupArgs, opts ...pulumi.ResourceOption,
) *autoscaling.Group {
	more.LaunchTemplate = &autoscaling.GroupLaunchTemplateArgs{
		Id: template.ID().ToStringOutput(), Version: template.LatestVersion.ApplyT(decimal).(pulumi.StringOutput),
	}
	more.VpcZoneIdentifiers = subnets
	// A machine is replaced if it fails, and not if it is not ready to serve: without a policy no
	// proxy is ready, and another one would not be either.
	more.HealthCheckType = pulumi.String("EC2")
	more.MaxInstanceLifetime = pulumi.Int(machineLifetime)
	more.InstanceMaintenancePolicy = &autoscaling.GroupInstanceMaintenancePolicyArgs{MinHealthyPercentage: pulumi.Int(100), MaxHealthyPercentage: pulumi.Int(200)}
	more.InstanceRefresh = &autoscaling.GroupInstanceRefreshArgs{
		Strategy:    pulumi.String("Rolling"),
		Preferences: &autoscaling.GroupInstanceRefreshPreferencesArgs{MinHealthyPercentage: pulumi.Int(100), MaxHealthyPercentage: pulumi.Int(200), AutoRollback: pulumi.Bool(true)},
	}
	tags, all := autoscaling.GroupTagArray{}, s.tagged(s.resource(suffix))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		tags = append(tags, &autoscaling.GroupTagArgs{Key: pulumi.String(key), Value: pulumi.String(all[key]), PropagateAtLaunch: pulumi.Bool(false)})
	}
	more.Tags = tags
	return add(s, autoscaling.NewGroup, suffix, more, opts...)
}

// machines runs the proxies on machines of their own.
func (p *proxies) machines(s *scope, n *network, f *fence, a *auditLog, v *vault, r *roles) {
	place, set := s.args.place(), s.args.AWS
	p.reader, _ = r.role(s, "machine", ec2Host, "A proxy's machine: joins the fleet and ships its log", written(func(x []string) string {
		return document.Machine{Place: place, Token: document.ARN(x[0]), Key: document.ARN(x[1]), Group: x[2]}.Policy().Text()
	}, v.token.Arn, v.key.arn, a.group(groupProxies)))
	profile := add(s, iam.NewInstanceProfile, "machine", &iam.InstanceProfileArgs{Path: pulumi.String(rolePath(s.stack)), Role: p.reader.Name, Tags: s.tags("machine")})
	data := written(func(x []string) string {
		return document.ProxyMachine{
			Stack: s.stack, Region: set.Region, Control: document.ControlAddress(controlHost(s.stack)),
			Token: document.ARN(x[0]), Group: x[1],
			FleetCA: set.FleetCA, ReadyPort: document.ReadyPort,
		}.CloudConfig().Base64()
	}, v.token.Arn, a.group(groupProxies))
	template := machine{
		ami: s.args.proxiesAMI(), instance: set.Proxies.Instance, disk: 30, group: f.proxies.ID(),
		metadata: cloud.MetadataV2, data: data.ToStringPtrOutput(), profile: profile,
	}.template(s, "machine")
	targets := pulumi.StringArray{}
	for _, t := range p.balancer.targets {
		targets = append(targets, t.Arn)
	}
	s.start(func(after pulumi.ResourceOption) {
		p.scaleMachines(s, grouped(s, "machine", template, n.subnets[cloud.TierProxies], &autoscaling.GroupArgs{
			MinSize: pulumi.Int(set.Proxies.Min), MaxSize: pulumi.Int(set.Proxies.Max),
			TargetGroupArns: targets, DefaultInstanceWarmup: pulumi.Int(120),
			// Auto Scaling publishes none of its metrics unless it is asked to.
			EnabledMetrics:     pulumi.StringArray{pulumi.String(inService)},
			MetricsGranularity: pulumi.String("1Minute"),
		}, after, pulumi.IgnoreChanges([]string{"desiredCapacity"})))
	})
}

// inService is the metric of how many machines serve.
const inService = "GroupInServiceInstances"

func (p *proxies) scaleMachines(s *scope, group *autoscaling.Group) {
	follow := func(name string, to *autoscaling.PolicyTargetTrackingConfigurationArgs) {
		add(s, autoscaling.NewPolicy, name, &autoscaling.PolicyArgs{
			AutoscalingGroupName: group.Name, PolicyType: pulumi.String("TargetTrackingScaling"),
			TargetTrackingConfiguration: to,
		})
	}
	follow("cpu", &autoscaling.PolicyTargetTrackingConfigurationArgs{
		TargetValue: pulumi.Float64(cpuTarget),
		PredefinedMetricSpecification: &autoscaling.PolicyTargetTrackingConfigurationPredefinedMetricSpecificationArgs{
			PredefinedMetricType: pulumi.String("ASGAverageCPUUtilization"),
		},
	})
	type metric = autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricArgs
	type stat = autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricMetricStatArgs
	type source = autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricMetricStatMetricArgs
	type dimension = autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricMetricStatMetricDimensionArgs
	type dimensions = autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricMetricStatMetricDimensionArray
	follow("connections", &autoscaling.PolicyTargetTrackingConfigurationArgs{
		TargetValue: pulumi.Float64(connectionsTarget),
		CustomizedMetricSpecification: &autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationArgs{
			Metrics: autoscaling.PolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricArray{
				&metric{Id: pulumi.String("flows"), ReturnData: pulumi.Bool(false), MetricStat: &stat{Stat: pulumi.String("Average"), Metric: &source{
					Namespace: pulumi.String("AWS/NetworkELB"), MetricName: pulumi.String("ActiveFlowCount"),
					Dimensions: dimensions{&dimension{Name: pulumi.String("LoadBalancer"), Value: p.balancer.lb.ArnSuffix}},
				}}},
				&metric{Id: pulumi.String("machines"), ReturnData: pulumi.Bool(false), MetricStat: &stat{Stat: pulumi.String("Average"), Metric: &source{
					Namespace: pulumi.String("AWS/AutoScaling"), MetricName: pulumi.String(inService),
					Dimensions: dimensions{&dimension{Name: pulumi.String("AutoScalingGroupName"), Value: group.Name}},
				}}},
				&metric{Id: pulumi.String("each"), ReturnData: pulumi.Bool(true), Expression: pulumi.String("flows / machines")},
			},
		},
	})
}
