package main

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecr"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ecs"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	postern "github.com/postern/postern/components/aws"
	"github.com/postern/postern/stacks"
)

// pool declares an agent on Fargate, in a cluster that is there already, and a fleet for this agent
// alone.
func pool(ctx *pulumi.Context, stack *stacks.Stack, provider *aws.Provider) error {
	cluster, err := ecs.LookupCluster(ctx, &ecs.LookupClusterArgs{ClusterName: "workloads"}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	images := map[string]pulumi.StringInput{}
	for _, name := range []string{"postern", "worker"} {
		image, err := ecr.GetImage(ctx, &ecr.GetImageArgs{RepositoryName: name, MostRecent: pulumi.BoolRef(true)},
			pulumi.Provider(provider))
		if err != nil {
			return err
		}
		images[name] = pulumi.String(image.ImageUri)
	}
	set := *stack.AWS
	set.Image, set.Agents[0].Image = "", ""
	network, err := postern.NewNetwork(ctx, "pool-network", &postern.NetworkArgs{AWS: &set, Plan: stack.Plan},
		pulumi.Provider(provider))
	if err != nil {
		return err
	}
	fleet, err := postern.NewFleet(ctx, "pool", &postern.FleetArgs{Network: network, Inputs: postern.Inputs{
		Image: images["postern"], AgentImages: map[string]pulumi.StringInput{"worker": images["worker"]},
	}}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	_, err = postern.NewAgentPool(ctx, "pool-agent-worker", &postern.AgentPoolArgs{
		Fleet: fleet, Agent: "worker", Cluster: pulumi.String(cluster.Arn),
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	ctx.Export("store", fleet.Store)
	ctx.Export("secrets", fleet.Secrets)
	return nil
}
