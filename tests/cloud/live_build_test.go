package cloud_test

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	scaling "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

func items(v any) []map[string]any {
	list, _ := v.([]any)
	var out []map[string]any
	for _, item := range list {
		m, _ := item.(map[string]any)
		out = append(out, m)
	}
	return out
}

// ofType are the IDs of what a property refers to, of one type.
func (b *builder) ofType(r *graph.Resource, property, token string) []string {
	var out []string
	for _, urn := range r.PropertyDependencies[property] {
		if to := b.g.ByURN(urn); to.Type == token {
			out = append(out, b.ids[urn])
		}
	}
	return out
}

// networkOf is where the tasks of a service are.
func (b *builder) networkOf(r *graph.Resource) *ecstypes.NetworkConfiguration {
	return &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
		Subnets:        b.ofType(r, "networkConfiguration", "aws:ec2/subnet:Subnet"),
		SecurityGroups: b.ofType(r, "networkConfiguration", "aws:ec2/securityGroup:SecurityGroup"),
	}}
}

func (b *builder) loadBalancers(r *graph.Resource) []ecstypes.LoadBalancer {
	var out []ecstypes.LoadBalancer
	targets := b.refs(r, "loadBalancers")
	for i, entry := range items(r.Inputs["loadBalancers"]) {
		port, _ := entry["containerPort"].(float64)
		name, _ := entry["containerName"].(string)
		out = append(
			out, ecstypes.LoadBalancer{
				TargetGroupArn: &targets[i], ContainerPort: aws.Int32(int32(port)), ContainerName: &name,
			},
		)
	}
	return out
}

// short is a name that load balancers take.
func short(r *graph.Resource) *string {
	name := strings.NewReplacer("/", "-", "_", "-").Replace(r.Name)
	return aws.String(strings.Trim(name[max(0, len(name)-32):], "-"))
}

func (b *builder) balancer(r *graph.Resource) string {
	in := &elb.CreateLoadBalancerInput{
		Name: short(r), Type: elbtypes.LoadBalancerTypeEnumNetwork, Scheme: elbtypes.LoadBalancerSchemeEnumInternal,
		SecurityGroups: b.refs(r, "securityGroups"), Subnets: b.refs(r, "subnets"), Tags: b.elbTags(r),
	}
	subnets := b.refs(r, "subnetMappings")
	for i, m := range items(r.Inputs["subnetMappings"]) {
		address, _ := m["privateIpv4Address"].(string)
		in.SubnetMappings = append(
			in.SubnetMappings, elbtypes.SubnetMapping{SubnetId: &subnets[i], PrivateIPv4Address: &address},
		)
	}
	out, err := b.elb.CreateLoadBalancer(b.ctx, in)
	require.NoError(b.t, err)
	return *out.LoadBalancers[0].LoadBalancerArn
}

func (b *builder) target(r *graph.Resource) string {
	check, _ := r.Inputs["healthCheck"].(map[string]any)
	port, _ := check["port"].(string)
	out, err := b.elb.CreateTargetGroup(b.ctx, &elb.CreateTargetGroupInput{
		Name: short(r), VpcId: b.ref(r, "vpcId"), Port: number(r, "port"), Protocol: elbtypes.ProtocolEnumTcp,
		Tags: b.elbTags(r), TargetType: elbtypes.TargetTypeEnum(r.String("targetType")), HealthCheckPort: &port,
		HealthCheckProtocol: elbtypes.ProtocolEnumHttp,
	})
	require.NoError(b.t, err)
	arn := out.TargetGroups[0].TargetGroupArn
	_,
		err = b.elb.ModifyTargetGroupAttributes(b.ctx,
		&elb.ModifyTargetGroupAttributesInput{TargetGroupArn: arn, Attributes: []elbtypes.TargetGroupAttribute{
			{Key: aws.String("proxy_protocol_v2.enabled"), Value: aws.String("true")},
		}})
	require.NoError(b.t, err)
	return *arn
}

func (b *builder) template(r *graph.Resource) string {
	options, _ := r.Inputs["metadataOptions"].(map[string]any)
	endpoint, _ := options["httpEndpoint"].(string)
	tags := b.tags(r)
	out, err := b.ec2.CreateLaunchTemplate(b.ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String(r.Name), LaunchTemplateData: &types.RequestLaunchTemplateData{
			ImageId: aws.String("ami-12c6146b"), InstanceType: types.InstanceTypeM5Large,
			NetworkInterfaces: []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{
				DeviceIndex: aws.Int32(0), AssociatePublicIpAddress: aws.Bool(false),
				Groups: b.refs(r, "networkInterfaces"),
			}},
			MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{
				HttpEndpoint: types.LaunchTemplateInstanceMetadataEndpointState(endpoint),
			},
			TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{
				{ResourceType: types.ResourceTypeInstance, Tags: tags},
			},
		},
	})
	require.NoError(b.t, err)
	return *out.LaunchTemplate.LaunchTemplateId
}

func (b *builder) group(r *graph.Resource) string {
	var tags []scaling.Tag
	for _, t := range items(r.Inputs["tags"]) {
		key, _ := t["key"].(string)
		text, _ := t["value"].(string)
		tags = append(
			tags, scaling.Tag{
				Key: &key, Value: &text, PropagateAtLaunch: aws.Bool(false), ResourceId: aws.String(r.Name),
				ResourceType: aws.String("auto-scaling-group"),
			},
		)
	}
	in := &autoscaling.CreateAutoScalingGroupInput{
		AutoScalingGroupName: aws.String(r.Name), VPCZoneIdentifier: aws.String(
			strings.Join(slices.Compact(b.refs(r, "vpcZoneIdentifiers")), ","),
		),
		MinSize: number(r, "minSize"), MaxSize: number(r, "maxSize"),
		DesiredCapacity: number(r, "desiredCapacity"), Tags: tags,
		LaunchTemplate: &scaling.LaunchTemplateSpecification{
			LaunchTemplateId: b.ref(r, "launchTemplate"), Version: aws.String("1"),
		},
	}
	if groups := b.refs(r, "targetGroupArns"); len(groups) > 0 {
		in.TargetGroupARNs = groups
	}
	_, err := b.scaling.CreateAutoScalingGroup(b.ctx, in)
	require.NoError(b.t, err)
	// Moto's machines have neither the groups nor the metadata options of their template.
	template := b.g.Refers(r, "launchTemplate", "aws:ec2/launchTemplate:LaunchTemplate")
	options, _ := template.Inputs["metadataOptions"].(map[string]any)
	endpoint, _ := options["httpEndpoint"].(string)
	out, err := b.scaling.DescribeAutoScalingGroups(b.ctx, &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: []string{r.Name},
	})
	require.NoError(b.t, err)
	for _, i := range out.AutoScalingGroups[0].Instances {
		_, err := b.ec2.ModifyInstanceAttribute(b.ctx, &ec2.ModifyInstanceAttributeInput{
			InstanceId: i.InstanceId, Groups: b.refs(template, "networkInterfaces"),
		})
		require.NoError(b.t, err)
		_, err = b.ec2.ModifyInstanceMetadataOptions(b.ctx, &ec2.ModifyInstanceMetadataOptionsInput{
			InstanceId: i.InstanceId, HttpEndpoint: types.InstanceMetadataEndpointState(endpoint),
		})
		require.NoError(b.t, err)
	}
	return r.Name
}

func (b *builder) elbTags(r *graph.Resource) []elbtypes.Tag {
	var tags []elbtypes.Tag
	for _, t := range b.tags(r) {
		tags = append(tags, elbtypes.Tag{Key: t.Key, Value: t.Value})
	}
	return tags
}

// pins remembers which addresses the plan gives an endpoint: moto gives it others, outside of its
// subnets.
func (b *builder) pins(r *graph.Resource, e *types.VpcEndpoint) {
	subnets := b.refs(r, "subnetConfigurations")
	for i, pin := range items(r.Inputs["subnetConfigurations"]) {
		out, err := b.ec2.DescribeNetworkInterfaces(
			b.ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: e.NetworkInterfaceIds},
		)
		require.NoError(b.t, err)
		for _, n := range out.NetworkInterfaces {
			if *n.SubnetId == subnets[i] {
				b.moved[*n.PrivateIpAddress], _ = pin["ipv4"].(string)
			}
		}
	}
}
