package main

import (
	"encoding/base64"
	"net/netip"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecr"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	postern "github.com/postern/postern/components/aws"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/stacks"
)

// beside declares a fleet for machines that run in a VPC which is there already. The machines are
// the program's: whatever has the security group of agent builder is the agent.
//
// The way out is closed by that VPC alone: it must have no other route, resolver or endpoint that
// leads out. Postern declares nothing of these there.
func beside(ctx *pulumi.Context, stack *stacks.Stack, provider *aws.Provider) error {
	workloads, err := ec2.LookupVpc(ctx, &ec2.LookupVpcArgs{Tags: map[string]string{"Name": "workloads"}},
		pulumi.Provider(provider))
	if err != nil {
		return err
	}
	image, err := ecr.GetImage(ctx, &ecr.GetImageArgs{RepositoryName: "postern", MostRecent: pulumi.BoolRef(true)},
		pulumi.Provider(provider))
	if err != nil {
		return err
	}
	set := *stack.AWS
	set.Image, set.AgentsCIDR = "", netip.MustParsePrefix(workloads.CidrBlock)
	set.Agents = []cloud.Agent{{Name: "builder", Port: stack.AWS.Agents[0].Port, Compute: cloud.ComputeElsewhere}}

	// The agents' way to the proxies has subnets of its own, one in each zone.
	gates := []postern.Gate{}
	for i, zone := range set.Zones {
		cidr := []string{"172.16.255.0/28", "172.16.255.16/28"}[i]
		subnet, err := ec2.NewSubnet(ctx, "gate-"+zone, &ec2.SubnetArgs{
			VpcId: pulumi.String(workloads.Id), CidrBlock: pulumi.String(cidr), AvailabilityZone: pulumi.String(zone),
		}, pulumi.Provider(provider))
		if err != nil {
			return err
		}
		address := netip.MustParsePrefix(cidr).Addr().As4()
		address[3] += 10
		gates = append(gates, postern.Gate{Subnet: subnet.ID().ToStringOutput(), Address: netip.AddrFrom4(address)})
	}
	network, err := postern.NewNetwork(ctx, "beside-network", &postern.NetworkArgs{
		AWS: &set, Plan: stack.Plan, Existing: &postern.ExistingNetwork{VPC: pulumi.String(workloads.Id), Gates: gates},
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	fleet, err := postern.NewFleet(ctx, "beside", &postern.FleetArgs{
		Network: network, Inputs: postern.Inputs{Image: pulumi.String(image.ImageUri)},
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}

	data := network.Gates.Index(pulumi.Int(0)).ApplyT(func(gate string) string {
		proxy := netip.AddrPortFrom(netip.MustParseAddr(gate), set.Agents[0].Port)
		return base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho HTTPS_PROXY=http://" + proxy.String() +
			" >> /etc/environment\n"))
	}).(pulumi.StringOutput)
	_, err = ec2.NewLaunchTemplate(ctx, "builders", &ec2.LaunchTemplateArgs{
		ImageId: pulumi.String("ami-0123456789abcdef0"), InstanceType: pulumi.String("m7i.large"),
		UserData: data.ToStringPtrOutput(),
		// The agent's group and no other: each further group is a further way.
		VpcSecurityGroupIds: pulumi.StringArray{fleet.AgentGroups.MapIndex(pulumi.String("builder"))},
	}, pulumi.Provider(provider),
		// Nothing starts before everything of the fleet is there.
		pulumi.DependsOn(fleet.Declared()))
	if err != nil {
		return err
	}
	ctx.Export("store", fleet.Store)
	ctx.Export("secrets", fleet.Secrets)
	return nil
}
