package cloud_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	secret "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/stacks"
)

// builder makes in moto what a plan says: what the AWS provider would, for the
// types that drift looks at.
type builder struct {
	t       *testing.T
	ctx     context.Context
	g       *graph.Graph
	ec2     *ec2.Client
	iam     *iam.Client
	kms     *kms.Client
	secrets *secretsmanager.Client
	ecs     *ecs.Client
	elb     *elb.Client
	scaling *autoscaling.Client
	stack   *stacks.Stack
	ids     map[string]string // by URN
	names   map[string]string // of endpoint services, by URN
	moved   map[string]string // addresses that the plan has, by those that moto has instead
}

// order is that of creation.
var order = []string{
	"aws:ec2/vpc:Vpc", "aws:ec2/defaultRouteTable:DefaultRouteTable", "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl",
	"aws:ec2/subnet:Subnet", "aws:ec2/routeTable:RouteTable", "aws:ec2/routeTableAssociation:RouteTableAssociation", "aws:ec2/internetGateway:InternetGateway",
	"aws:ec2/natGateway:NatGateway", "aws:ec2/route:Route", "aws:ec2/securityGroup:SecurityGroup", "aws:ec2/networkAcl:NetworkAcl", "aws:ec2/networkAclRule:NetworkAclRule",
	"aws:ec2/networkAclAssociation:NetworkAclAssociation", "aws:lb/loadBalancer:LoadBalancer", "aws:lb/targetGroup:TargetGroup", "aws:lb/listener:Listener", "aws:ec2/vpcEndpointService:VpcEndpointService", "aws:ec2/vpcEndpoint:VpcEndpoint", "aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation",
	"aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
	"aws:kms/key:Key", "aws:kms/alias:Alias", "aws:secretsmanager/secret:Secret",
	"aws:iam/policy:Policy", "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy", "aws:secretsmanager/secretPolicy:SecretPolicy",
	"aws:ecs/cluster:Cluster", "aws:ecs/taskDefinition:TaskDefinition", "aws:ecs/service:Service",
}

// fleets are what only the live proof looks at: moto starts their instances.
var fleets = []string{"aws:ec2/launchTemplate:LaunchTemplate", "aws:autoscaling/group:Group"}

func (b *builder) build() { b.make(order...) }

func (b *builder) make(tokens ...string) {
	for _, token := range tokens {
		for _, r := range b.g.OfType(token) {
			b.ids[r.URN] = b.create(r)
		}
	}
}

func (b *builder) ref(r *graph.Resource, property string) *string {
	for _, urn := range r.PropertyDependencies[property] {
		if id := b.ids[urn]; id != "" {
			return &id
		}
	}
	if s := r.String(property); s != "" {
		return &s
	}
	return nil
}

func (b *builder) refs(r *graph.Resource, property string) []string {
	var ids []string
	for _, urn := range r.PropertyDependencies[property] {
		if id := b.ids[urn]; id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (b *builder) tags(r *graph.Resource) []types.Tag {
	var tags []types.Tag
	all, _ := r.Inputs["tags"].(map[string]any)
	for k, v := range all {
		tags = append(tags, types.Tag{Key: aws.String(k), Value: aws.String(v.(string))})
	}
	return tags
}

func (b *builder) tagged(r *graph.Resource, kind types.ResourceType) []types.TagSpecification {
	return []types.TagSpecification{{ResourceType: kind, Tags: b.tags(r)}}
}

func (b *builder) adopt(r *graph.Resource, id string) string {
	_, err := b.ec2.CreateTags(b.ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: b.tags(r)})
	require.NoError(b.t, err)
	return id
}

func text(r *graph.Resource, property string) *string {
	if s := r.String(property); s != "" {
		return &s
	}
	return nil
}

func number(r *graph.Resource, property string) *int32 {
	n, ok := r.Number(property)
	if !ok {
		return nil
	}
	return aws.Int32(int32(n))
}

func flag(r *graph.Resource, property string) *bool {
	v, _ := r.Inputs[property].(bool)
	return &v
}

func (b *builder) create(r *graph.Resource) string {
	switch strings.TrimPrefix(r.Type[:strings.LastIndexByte(r.Type, ':')], "aws:") {
	case "ec2/vpc":
		return b.vpc(r)
	case "ec2/defaultRouteTable", "ec2/defaultSecurityGroup", "ec2/defaultNetworkAcl":
		return b.defaults(r)
	case "ec2/subnet":
		out, err := b.ec2.CreateSubnet(b.ctx, &ec2.CreateSubnetInput{
			VpcId: b.ref(r, "vpcId"), CidrBlock: text(r, "cidrBlock"), AvailabilityZone: text(r, "availabilityZone"), TagSpecifications: b.tagged(r, types.ResourceTypeSubnet),
		})
		require.NoError(b.t, err)
		_, err = b.ec2.ModifySubnetAttribute(b.ctx, &ec2.ModifySubnetAttributeInput{SubnetId: out.Subnet.SubnetId, MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: flag(r, "mapPublicIpOnLaunch")}})
		require.NoError(b.t, err)
		return *out.Subnet.SubnetId
	case "ec2/routeTable":
		out, err := b.ec2.CreateRouteTable(b.ctx, &ec2.CreateRouteTableInput{VpcId: b.ref(r, "vpcId"), TagSpecifications: b.tagged(r, types.ResourceTypeRouteTable)})
		require.NoError(b.t, err)
		return *out.RouteTable.RouteTableId
	case "ec2/routeTableAssociation":
		_, err := b.ec2.AssociateRouteTable(b.ctx, &ec2.AssociateRouteTableInput{RouteTableId: b.ref(r, "routeTableId"), SubnetId: b.ref(r, "subnetId")})
		require.NoError(b.t, err)
	case "ec2/internetGateway":
		out, err := b.ec2.CreateInternetGateway(b.ctx, &ec2.CreateInternetGatewayInput{TagSpecifications: b.tagged(r, types.ResourceTypeInternetGateway)})
		require.NoError(b.t, err)
		_, err = b.ec2.AttachInternetGateway(b.ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: out.InternetGateway.InternetGatewayId, VpcId: b.ref(r, "vpcId")})
		require.NoError(b.t, err)
		return *out.InternetGateway.InternetGatewayId
	case "kms/key":
		policy, _ := r.Value("policy").(string)
		out, err := b.kms.CreateKey(b.ctx, &kms.CreateKeyInput{Policy: &policy})
		require.NoError(b.t, err)
		_, err = b.kms.EnableKeyRotation(b.ctx, &kms.EnableKeyRotationInput{KeyId: out.KeyMetadata.KeyId})
		require.NoError(b.t, err)
		return *out.KeyMetadata.KeyId
	case "kms/alias":
		_, err := b.kms.CreateAlias(b.ctx, &kms.CreateAliasInput{AliasName: text(r, "name"), TargetKeyId: b.ref(r, "targetKeyId")})
		require.NoError(b.t, err)
	case "ec2/natGateway":
		eip, err := b.ec2.AllocateAddress(b.ctx, &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
		require.NoError(b.t, err)
		out, err := b.ec2.CreateNatGateway(b.ctx, &ec2.CreateNatGatewayInput{SubnetId: b.ref(r, "subnetId"), AllocationId: eip.AllocationId, TagSpecifications: b.tagged(r, types.ResourceTypeNatgateway)})
		require.NoError(b.t, err)
		return *out.NatGateway.NatGatewayId
	case "ec2/route":
		_, err := b.ec2.CreateRoute(b.ctx, &ec2.CreateRouteInput{
			RouteTableId: b.ref(r, "routeTableId"), DestinationCidrBlock: text(r, "destinationCidrBlock"), GatewayId: b.ref(r, "gatewayId"), NatGatewayId: b.ref(r, "natGatewayId"),
		})
		require.NoError(b.t, err)
	case "ec2/securityGroup":
		out, err := b.ec2.CreateSecurityGroup(b.ctx, &ec2.CreateSecurityGroupInput{
			GroupName: aws.String(r.Name), Description: text(r, "description"), VpcId: b.ref(r, "vpcId"), TagSpecifications: b.tagged(r, types.ResourceTypeSecurityGroup),
		})
		require.NoError(b.t, err)
		b.revokeAll(*out.GroupId)
		return *out.GroupId
	case "vpc/securityGroupEgressRule", "vpc/securityGroupIngressRule":
		b.rule(r)
	case "ec2/networkAcl":
		out, err := b.ec2.CreateNetworkAcl(b.ctx, &ec2.CreateNetworkAclInput{VpcId: b.ref(r, "vpcId"), TagSpecifications: b.tagged(r, types.ResourceTypeNetworkAcl)})
		require.NoError(b.t, err)
		return *out.NetworkAcl.NetworkAclId
	case "ec2/networkAclRule":
		b.aclRule(r)
	case "ec2/networkAclAssociation":
		b.aclAssociation(r)
	case "ec2/vpcEndpoint":
		return b.endpoint(r)
	case "ec2/vpcEndpointRouteTableAssociation":
		_, err := b.ec2.ModifyVpcEndpoint(b.ctx, &ec2.ModifyVpcEndpointInput{VpcEndpointId: b.ref(r, "vpcEndpointId"), AddRouteTableIds: []string{*b.ref(r, "routeTableId")}})
		require.NoError(b.t, err)
	case "ec2/vpcEndpointService":
		return b.service(r)
	case "lb/loadBalancer":
		return b.balancer(r)
	case "lb/targetGroup":
		return b.target(r)
	case "lb/listener":
		out, err := b.elb.CreateListener(b.ctx, &elb.CreateListenerInput{
			LoadBalancerArn: b.ref(r, "loadBalancerArn"), Port: number(r, "port"), Protocol: elbtypes.ProtocolEnumTcp,
			DefaultActions: []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: b.ref(r, "defaultActions")}}, Tags: b.elbTags(r),
		})
		require.NoError(b.t, err)
		return *out.Listeners[0].ListenerArn
	case "ec2/launchTemplate":
		return b.template(r)
	case "autoscaling/group":
		return b.group(r)
	case "secretsmanager/secret":
		var tags []secret.Tag
		for _, t := range b.tags(r) {
			tags = append(tags, secret.Tag{Key: t.Key, Value: t.Value})
		}
		out, err := b.secrets.CreateSecret(b.ctx, &secretsmanager.CreateSecretInput{Name: text(r, "name"), Tags: tags})
		require.NoError(b.t, err)
		return *out.ARN
	case "secretsmanager/secretPolicy":
		_, err := b.secrets.PutResourcePolicy(b.ctx, &secretsmanager.PutResourcePolicyInput{SecretId: b.ref(r, "secretArn"), ResourcePolicy: b.document(r)})
		require.NoError(b.t, err)
	case "ecs/cluster", "ecs/taskDefinition", "ecs/service":
		return b.task(r)
	case "iam/policy":
		out, err := b.iam.CreatePolicy(b.ctx, &iam.CreatePolicyInput{PolicyName: aws.String(r.Name + "-1234567"), Path: text(r, "path"), PolicyDocument: b.document(r)})
		require.NoError(b.t, err)
		return *out.Policy.Arn
	case "iam/role":
		return b.role(r)
	case "iam/rolePolicy":
		_, err := b.iam.PutRolePolicy(b.ctx, &iam.PutRolePolicyInput{RoleName: b.ref(r, "role"), PolicyName: aws.String(r.Name + "-7654321"), PolicyDocument: b.document(r)})
		require.NoError(b.t, err)
	}
	return ""
}

func (b *builder) vpc(r *graph.Resource) string {
	out, err := b.ec2.CreateVpc(b.ctx, &ec2.CreateVpcInput{CidrBlock: text(r, "cidrBlock"), TagSpecifications: b.tagged(r, types.ResourceTypeVpc)})
	require.NoError(b.t, err)
	_, err = b.ec2.ModifyVpcAttribute(b.ctx, &ec2.ModifyVpcAttributeInput{VpcId: out.Vpc.VpcId, EnableDnsSupport: &types.AttributeBooleanValue{Value: flag(r, "enableDnsSupport")}})
	require.NoError(b.t, err)
	_, err = b.ec2.ModifyVpcAttribute(b.ctx, &ec2.ModifyVpcAttributeInput{VpcId: out.Vpc.VpcId, EnableDnsHostnames: &types.AttributeBooleanValue{Value: flag(r, "enableDnsHostnames")}})
	require.NoError(b.t, err)
	return *out.Vpc.VpcId
}

// defaults empties what AWS made with the VPC, and tags it, as the provider does.
func (b *builder) defaults(r *graph.Resource) string {
	var vpc string
	for _, property := range []string{"vpcId", "defaultRouteTableId", "defaultNetworkAclId"} {
		if id := b.ref(r, property); id != nil {
			vpc = *id
		}
	}
	in := []types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpc}}}
	switch {
	case strings.Contains(r.Type, "RouteTable"):
		out, err := b.ec2.DescribeRouteTables(b.ctx, &ec2.DescribeRouteTablesInput{Filters: in})
		require.NoError(b.t, err)
		return b.adopt(r, *out.RouteTables[0].RouteTableId)
	case strings.Contains(r.Type, "SecurityGroup"):
		out, err := b.ec2.DescribeSecurityGroups(b.ctx, &ec2.DescribeSecurityGroupsInput{Filters: in})
		require.NoError(b.t, err)
		b.revokeAll(*out.SecurityGroups[0].GroupId)
		return b.adopt(r, *out.SecurityGroups[0].GroupId)
	}
	out, err := b.ec2.DescribeNetworkAcls(b.ctx, &ec2.DescribeNetworkAclsInput{Filters: in})
	require.NoError(b.t, err)
	for _, e := range out.NetworkAcls[0].Entries {
		if *e.RuleNumber < 32767 {
			_, err := b.ec2.DeleteNetworkAclEntry(b.ctx, &ec2.DeleteNetworkAclEntryInput{NetworkAclId: out.NetworkAcls[0].NetworkAclId, RuleNumber: e.RuleNumber, Egress: e.Egress})
			require.NoError(b.t, err)
		}
	}
	return b.adopt(r, *out.NetworkAcls[0].NetworkAclId)
}

// revokeAll takes away the rules that a new group has.
func (b *builder) revokeAll(group string) {
	out, err := b.ec2.DescribeSecurityGroupRules(b.ctx, &ec2.DescribeSecurityGroupRulesInput{Filters: []types.Filter{{Name: aws.String("group-id"), Values: []string{group}}}})
	require.NoError(b.t, err)
	for _, rule := range out.SecurityGroupRules {
		if *rule.IsEgress {
			_, err = b.ec2.RevokeSecurityGroupEgress(b.ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: &group, SecurityGroupRuleIds: []string{*rule.SecurityGroupRuleId}})
		} else {
			_, err = b.ec2.RevokeSecurityGroupIngress(b.ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &group, SecurityGroupRuleIds: []string{*rule.SecurityGroupRuleId}})
		}
		require.NoError(b.t, err)
	}
}

func (b *builder) rule(r *graph.Resource) {
	p := types.IpPermission{IpProtocol: text(r, "ipProtocol"), FromPort: number(r, "fromPort"), ToPort: number(r, "toPort")}
	switch {
	case r.Inputs["referencedSecurityGroupId"] != nil:
		p.UserIdGroupPairs = []types.UserIdGroupPair{{GroupId: b.ref(r, "referencedSecurityGroupId")}}
	case r.Inputs["prefixListId"] != nil:
		endpoint := b.g.Refers(r, "prefixListId", "aws:ec2/vpcEndpoint:VpcEndpoint")
		out, err := b.ec2.DescribeManagedPrefixLists(b.ctx, &ec2.DescribeManagedPrefixListsInput{Filters: []types.Filter{{Name: aws.String("prefix-list-name"), Values: []string{endpoint.String("serviceName")}}}})
		require.NoError(b.t, err)
		require.Len(b.t, out.PrefixLists, 1)
		p.PrefixListIds = []types.PrefixListId{{PrefixListId: out.PrefixLists[0].PrefixListId}}
	default:
		p.IpRanges = []types.IpRange{{CidrIp: text(r, "cidrIpv4")}}
	}
	var err error
	if strings.Contains(r.Type, "Egress") {
		_, err = b.ec2.AuthorizeSecurityGroupEgress(b.ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: b.ref(r, "securityGroupId"), IpPermissions: []types.IpPermission{p}})
	} else {
		_, err = b.ec2.AuthorizeSecurityGroupIngress(b.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: b.ref(r, "securityGroupId"), IpPermissions: []types.IpPermission{p}})
	}
	require.NoError(b.t, unlessThere(err), r.Name)
}

// unlessThere is nil for a rule that is there already: moto's answer gets lost now
// and then, and the SDK asks once more. That the world is as planned is found out by
// drift itself.
func unlessThere(err error) error {
	var e smithy.APIError
	if errors.As(err, &e) && slices.Contains([]string{"InvalidPermission.Duplicate", "NetworkAclEntryAlreadyExists"}, e.ErrorCode()) {
		return nil
	}
	return err
}

func (b *builder) aclRule(r *graph.Resource) {
	protocol := map[string]string{"tcp": "6", "udp": "17", "icmp": "1"}[r.String("protocol")]
	if protocol == "" {
		protocol = r.String("protocol")
	}
	_, err := b.ec2.CreateNetworkAclEntry(b.ctx, &ec2.CreateNetworkAclEntryInput{
		NetworkAclId: b.ref(r, "networkAclId"), Egress: flag(r, "egress"), RuleNumber: number(r, "ruleNumber"), RuleAction: types.RuleAction(r.String("ruleAction")),
		Protocol: &protocol, CidrBlock: text(r, "cidrBlock"), PortRange: &types.PortRange{From: number(r, "fromPort"), To: number(r, "toPort")},
	})
	require.NoError(b.t, unlessThere(err))
}

func (b *builder) aclAssociation(r *graph.Resource) {
	subnet := *b.ref(r, "subnetId")
	out, err := b.ec2.DescribeNetworkAcls(b.ctx, &ec2.DescribeNetworkAclsInput{Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{subnet}}}})
	require.NoError(b.t, err)
	for _, a := range out.NetworkAcls[0].Associations {
		if *a.SubnetId == subnet {
			_, err := b.ec2.ReplaceNetworkAclAssociation(b.ctx, &ec2.ReplaceNetworkAclAssociationInput{AssociationId: a.NetworkAclAssociationId, NetworkAclId: b.ref(r, "networkAclId")})
			require.NoError(b.t, err)
		}
	}
}

func (b *builder) endpoint(r *graph.Resource) string {
	in := &ec2.CreateVpcEndpointInput{VpcId: b.ref(r, "vpcId"), ServiceName: aws.String(r.Value("serviceName").(string)), TagSpecifications: b.tagged(r, types.ResourceTypeVpcEndpoint)}
	if own := b.g.Refers(r, "serviceName", "aws:ec2/vpcEndpointService:VpcEndpointService"); own != nil {
		in.ServiceName = aws.String(b.names[own.URN])
	}
	in.VpcEndpointType = types.VpcEndpointType(r.String("vpcEndpointType"))
	if in.VpcEndpointType == types.VpcEndpointTypeInterface {
		in.SubnetIds, in.SecurityGroupIds = b.refs(r, "subnetIds"), b.refs(r, "securityGroupIds")
	}
	if p, ok := r.Value("policy").(string); ok && p != graph.Unknown {
		in.PolicyDocument = &p
	}
	out, err := b.ec2.CreateVpcEndpoint(b.ctx, in)
	require.NoError(b.t, err)
	b.pins(r, out.VpcEndpoint)
	return *out.VpcEndpoint.VpcEndpointId
}

// service makes an endpoint service.
func (b *builder) service(r *graph.Resource) string {
	out, err := b.ec2.CreateVpcEndpointServiceConfiguration(b.ctx, &ec2.CreateVpcEndpointServiceConfigurationInput{
		NetworkLoadBalancerArns: b.refs(r, "networkLoadBalancerArns"), AcceptanceRequired: flag(r, "acceptanceRequired"), TagSpecifications: b.tagged(r, types.ResourceTypeVpcEndpointService),
	})
	require.NoError(b.t, err)
	var allowed []string
	for _, p := range r.Inputs["allowedPrincipals"].([]any) {
		allowed = append(allowed, p.(string))
	}
	_, err = b.ec2.ModifyVpcEndpointServicePermissions(b.ctx, &ec2.ModifyVpcEndpointServicePermissionsInput{ServiceId: out.ServiceConfiguration.ServiceId, AddAllowedPrincipals: allowed})
	require.NoError(b.t, err)
	b.names[r.URN] = *out.ServiceConfiguration.ServiceName
	return *out.ServiceConfiguration.ServiceId
}

// task makes what runs on Fargate, of its containers the image.
func (b *builder) task(r *graph.Resource) string {
	var tags []ecstypes.Tag
	for _, t := range b.tags(r) {
		tags = append(tags, ecstypes.Tag{Key: t.Key, Value: t.Value})
	}
	switch r.Type {
	case "aws:ecs/cluster:Cluster":
		out, err := b.ecs.CreateCluster(b.ctx, &ecs.CreateClusterInput{ClusterName: aws.String(r.Name), Tags: tags})
		require.NoError(b.t, err)
		return *out.Cluster.ClusterArn
	case "aws:ecs/taskDefinition:TaskDefinition":
		in := &ecs.RegisterTaskDefinitionInput{
			Family: aws.String(r.Name), NetworkMode: ecstypes.NetworkModeAwsvpc, RequiresCompatibilities: []ecstypes.Compatibility{ecstypes.CompatibilityFargate}, Cpu: text(r, "cpu"), Memory: text(r, "memory"),
			TaskRoleArn: b.roleARN(r, "taskRoleArn"), ExecutionRoleArn: b.roleARN(r, "executionRoleArn"),
		}
		var containers []struct{ Name, Image string }
		require.NoError(b.t, json.Unmarshal([]byte(r.Value("containerDefinitions").(string)), &containers))
		for _, c := range containers {
			in.ContainerDefinitions = append(in.ContainerDefinitions, ecstypes.ContainerDefinition{Name: &c.Name, Image: &c.Image})
		}
		out, err := b.ecs.RegisterTaskDefinition(b.ctx, in)
		require.NoError(b.t, err)
		return *out.TaskDefinition.TaskDefinitionArn
	}
	out, err := b.ecs.CreateService(b.ctx, &ecs.CreateServiceInput{
		ServiceName: aws.String(r.Name + "-1234567"), Cluster: b.ref(r, "cluster"), TaskDefinition: b.ref(r, "taskDefinition"), LaunchType: ecstypes.LaunchTypeFargate, Tags: tags,
		NetworkConfiguration: b.networkOf(r), LoadBalancers: b.loadBalancers(r),
	})
	require.NoError(b.t, err)
	return *out.Service.ServiceName
}

// network is where tasks are.
func (b *builder) network(tier string) *ecstypes.NetworkConfiguration {
	return &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{Subnets: []string{b.subnet(tier)}, SecurityGroups: []string{b.agentGroup()}}}
}

// roleARN is that of the role that a task definition names; nil if none.
func (b *builder) roleARN(r *graph.Resource, property string) *string {
	name := b.ref(r, property)
	if name == nil {
		return nil
	}
	role := b.g.Refers(r, property, "aws:iam/role:Role")
	require.NotNil(b.t, role, "%s of %s", property, r.Name)
	return aws.String("arn:aws:iam::" + account + ":role" + role.String("path") + *name)
}

// document returns a policy with the ARNs of what was made in place of those that the plan made up.
func (b *builder) document(r *graph.Resource) *string {
	text := r.Value("policy").(string)
	for _, e := range b.g.Edges() {
		to, made, id := b.g.ByURN(e.To), b.g.ByURN(e.From).Value(e.Property), b.ids[e.To]
		arn, _ := made.(string)
		switch {
		case !strings.HasPrefix(arn, "arn:") || to == nil || id == "":
			continue
		case to.Type == "aws:iam/role:Role" && strings.Contains(arn, ":role/"):
			id = "arn:aws:iam::" + account + ":role" + to.String("path") + id
		case to.Type != "aws:secretsmanager/secret:Secret" || !strings.Contains(arn, ":secret:"):
			continue
		}
		text = strings.ReplaceAll(text, `"`+arn+`"`, `"`+id+`"`)
	}
	return &text
}

func (b *builder) role(r *graph.Resource) string {
	name := r.Name + "-1234567"
	in := &iam.CreateRoleInput{RoleName: &name, Path: text(r, "path"), AssumeRolePolicyDocument: aws.String(r.Value("assumeRolePolicy").(string))}
	all, _ := r.Inputs["tags"].(map[string]any)
	for k, v := range all {
		in.Tags = append(in.Tags, iamtypes.Tag{Key: aws.String(k), Value: aws.String(v.(string))})
	}
	in.PermissionsBoundary = b.ref(r, "permissionsBoundary")
	_, err := b.iam.CreateRole(b.ctx, in)
	require.NoError(b.t, err)
	return name
}
