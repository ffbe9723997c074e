package live

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	scaling "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/graph"
)

const (
	tokenSubnet   = "aws:ec2/subnet:Subnet"
	tokenTemplate = "aws:ec2/launchTemplate:LaunchTemplate"
)

// scaling reads Auto Scaling groups, with the version of the template that each starts machines of.
func (r *reader) scaling() {
	client := autoscaling.NewFromConfig(r.cfg)
	for _, g := range every(r, "autoscaling:DescribeAutoScalingGroups", // it has no filter by subnet
		autoscaling.NewDescribeAutoScalingGroupsPaginator(client, &autoscaling.DescribeAutoScalingGroupsInput{}),
		func(p *autoscaling.DescribeAutoScalingGroupsOutput) []scaling.AutoScalingGroup {
			return p.AutoScalingGroups
		}) {
		subnets := strings.Split(aws.ToString(g.VPCZoneIdentifier), ",")
		if !slices.ContainsFunc(subnets, func(s string) bool { return r.named[[2]string{tokenSubnet, s}] != nil }) {
			continue
		}
		tags, list := object{}, []any{}
		for _, t := range g.Tags {
			tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
			list = append(list, object{"key": value(t.Key), "value": value(t.Value)})
		}
		x := r.add("aws:autoscaling/group:Group", aws.ToString(g.AutoScalingGroupName), called(tags), object{
			"vpcZoneIdentifiers": subnets, "targetGroupArns": append([]string{}, g.TargetGroupARNs...), "tags": list,
		})
		r.pool(x, tags)
		for _, group := range g.TargetGroupARNs {
			for _, i := range g.Instances {
				r.members[group] = append(r.members[group], aws.ToString(i.InstanceId))
			}
		}
		if g.LaunchTemplate != nil { // of several templates, or of the old kind, the proof knows nothing
			r.template(x, g.LaunchTemplate, tags)
		}
	}
}

func (r *reader) template(group *resource, t *scaling.LaunchTemplateSpecification, tags object) {
	version := aws.ToString(t.Version)
	if version == "" {
		version = "$Default"
	}
	out, err := r.ec2.DescribeLaunchTemplateVersions(r.ctx, &ec2.DescribeLaunchTemplateVersionsInput{
		LaunchTemplateId: t.LaunchTemplateId, Versions: []string{version},
	})
	if !r.answered("ec2:DescribeLaunchTemplateVersions", err) || len(out.LaunchTemplateVersions) != 1 {
		return
	}
	v := out.LaunchTemplateVersions[0]
	number := strconv.FormatInt(aws.ToInt64(v.VersionNumber), 10)
	group.Inputs["launchTemplate"] = object{"id": value(v.LaunchTemplateId), "version": number}
	in := object{"latestVersion": value(v.VersionNumber), "tags": object{graph.TagRole: tags[graph.TagRole]}}
	if d := v.LaunchTemplateData; d != nil {
		in["vpcSecurityGroupIds"] = append([]string{}, d.SecurityGroupIds...)
		if len(d.SecurityGroups) > 0 {
			in["securityGroupNames"] = d.SecurityGroups
		}
		in["networkInterfaces"] = pick(d.NetworkInterfaces, templateInterface)
		if len(d.SecondaryInterfaces) > 0 {
			in["networkInterfaces"] = "and more"
		}
		if o := d.MetadataOptions; o != nil {
			in["metadataOptions"] = object{"httpEndpoint": string(o.HttpEndpoint)}
		}
		if p := d.IamInstanceProfile; p != nil {
			in["iamInstanceProfile"] = r.profile(p.Arn, p.Name)
		}
	}
	x := r.add(tokenTemplate, aws.ToString(v.LaunchTemplateId), aws.ToString(v.LaunchTemplateName)+":"+number, in)
	x.Parent = group.Parent
	if x.Inputs["latestVersion"] != in["latestVersion"] { // groups that start different versions
		delete(group.Inputs, "launchTemplate")
	}
}

func templateInterface(n types.LaunchTemplateInstanceNetworkInterfaceSpecification) object {
	out := object{
		"securityGroups":     append([]string{}, n.Groups...),
		"networkInterfaceId": value(n.NetworkInterfaceId), "subnetId": value(n.SubnetId),
	}
	if n.AssociatePublicIpAddress != nil {
		out["associatePublicIpAddress"] = strconv.FormatBool(*n.AssociatePublicIpAddress)
	}
	return out
}

// instances reads machines, besides those that are what their Auto Scaling group would start.
func (r *reader) instances() {
	reservations := every(r, "ec2:DescribeInstances",
		ec2.NewDescribeInstancesPaginator(r.ec2, &ec2.DescribeInstancesInput{Filters: r.inside()}),
		func(p *ec2.DescribeInstancesOutput) []types.Reservation { return p.Reservations })
	for _, reservation := range reservations {
		for i := range reservation.Instances {
			r.instance(&reservation.Instances[i])
		}
	}
}

func (r *reader) instance(i *types.Instance) {
	if i.State != nil && i.State.Name == types.InstanceStateNameTerminated {
		return
	}
	tags := tagsOf(i.Tags)
	in := object{"tags": tags, "associatePublicIpAddress": false, "sourceDestCheck": aws.ToBool(i.SourceDestCheck)}
	if i.PublicIpAddress != nil {
		in["publicIp"] = *i.PublicIpAddress
	}
	if o := i.MetadataOptions; o != nil {
		in["metadataOptions"] = object{"httpEndpoint": string(o.HttpEndpoint)}
	}
	if i.IamInstanceProfile != nil {
		in["iamInstanceProfile"] = r.profile(i.IamInstanceProfile.Arn, nil)
	}
	in["subnetId"] = value(i.SubnetId)
	in["vpcSecurityGroupIds"] = pick(i.SecurityGroups, func(g types.GroupIdentifier) string {
		return aws.ToString(g.GroupId)
	})
	for _, n := range i.NetworkInterfaces {
		r.explained[aws.ToString(n.NetworkInterfaceId)] = true
		if n.Association != nil {
			in["publicIp"] = value(n.Association.PublicIp)
		}
		in["sourceDestCheck"] = in["sourceDestCheck"] == true && aws.ToBool(n.SourceDestCheck)
	}
	if len(i.NetworkInterfaces) > 1 {
		in["networkInterfaces"] = pick(i.NetworkInterfaces, func(n types.InstanceNetworkInterface) string {
			return aws.ToString(n.NetworkInterfaceId)
		})
	}
	if !r.asStarted(in, tags) {
		r.pool(r.add("aws:ec2/instance:Instance", aws.ToString(i.InstanceId), called(tags), in), tags)
	}
}

// asStarted reports whether a machine is what its Auto Scaling group would start: then the group
// stands for it.
func (r *reader) asStarted(in, tags object) bool {
	name, _ := tags["aws:autoscaling:groupName"].(string)
	g := r.named[[2]string{"aws:autoscaling/group:Group", name}]
	if g == nil || in["publicIp"] != nil || in["sourceDestCheck"] != true || in["networkInterfaces"] != nil {
		return false
	}
	launch, _ := g.Inputs["launchTemplate"].(object)
	id, _ := launch["id"].(string)
	t := r.named[[2]string{tokenTemplate, id}]
	subnets, _ := g.Inputs["vpcZoneIdentifiers"].([]string)
	subnet, _ := in["subnetId"].(string)
	if t == nil || !slices.Contains(subnets, subnet) ||
		!same(in["iamInstanceProfile"], t.Inputs["iamInstanceProfile"]) {
		return false
	}
	groups, _ := t.Inputs["vpcSecurityGroupIds"].([]string)
	nics, _ := t.Inputs["networkInterfaces"].([]object)
	for _, nic := range nics {
		of, _ := nic["securityGroups"].([]string)
		groups = append(slices.Clone(groups), of...)
	}
	own := slices.Clone(in["vpcSecurityGroupIds"].([]string))
	slices.Sort(groups)
	slices.Sort(own)
	return slices.Equal(own, groups) && off(in) == off(t.Inputs)
}

// off reports whether a machine has no metadata service.
func off(in object) bool {
	options, _ := in["metadataOptions"].(object)
	return options["httpEndpoint"] == "disabled"
}

// same reports whether two values are written alike.
func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// interfaces reads what else has an address: whatever is not part of something that was read.
func (r *reader) interfaces() {
	for _, n := range every(r, "ec2:DescribeNetworkInterfaces",
		ec2.NewDescribeNetworkInterfacesPaginator(r.ec2, &ec2.DescribeNetworkInterfacesInput{Filters: r.inside()}),
		func(p *ec2.DescribeNetworkInterfacesOutput) []types.NetworkInterface { return p.NetworkInterfaces }) {
		id, about := aws.ToString(n.NetworkInterfaceId), aws.ToString(n.Description)
		groups := pick(n.Groups, func(g types.GroupIdentifier) string { return aws.ToString(g.GroupId) })
		slices.Sort(groups)
		switch {
		case r.explained[id], r.ofGateway(&n, about), r.ofTask(&n, about, groups):
			continue
		case n.InterfaceType == types.NetworkInterfaceTypeInterface && !aws.ToBool(n.RequesterManaged) &&
			!strings.HasPrefix(about, "arn:aws"):
			tags := tagsOf(n.TagSet)
			in := object{
				"subnetId": value(n.SubnetId), "securityGroups": groups, "tags": tags,
				"sourceDestCheck": aws.ToBool(n.SourceDestCheck),
			}
			if n.Association != nil {
				in["publicIp"] = value(n.Association.PublicIp)
			}
			r.pool(r.add("aws:ec2/networkInterface:NetworkInterface", id, called(tags), in), tags)
		default: // of a service of AWS that the proof does not know
			r.add("aws:ec2/managedNetworkInterface:ManagedNetworkInterface", id,
				string(n.InterfaceType)+": "+about, object{})
		}
	}
}

// ofGateway reports whether an interface is part of a load balancer or an attachment that was read.
func (r *reader) ofGateway(n *types.NetworkInterface, about string) bool {
	switch n.InterfaceType {
	case types.NetworkInterfaceTypeNetworkLoadBalancer:
		return r.mentioned(tokenBalancer, about)
	case types.NetworkInterfaceTypeTransitGateway:
		return r.mentioned("aws:ec2transitgateway/vpcAttachment:VpcAttachment", about)
	case types.NetworkInterfaceTypeInterface:
		// A load balancer for HTTP has such interfaces.
		return aws.ToBool(n.RequesterManaged) && strings.HasPrefix(about, "ELB app/") &&
			r.mentioned(tokenBalancer, about)
	}
	return false
}

// mentioned reports whether the description of an interface names a resource of the type, as in
// "ELB net/name/0123".
func (r *reader) mentioned(token, about string) bool {
	_, name, _ := strings.Cut(about, " ")
	name = name[strings.LastIndexByte(name, ' ')+1:]
	return name != "" && slices.ContainsFunc(r.all, func(x *resource) bool {
		return x.Type == token && (x.ID == name || strings.HasSuffix(x.ID, ":loadbalancer/"+name))
	})
}
