package main

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"
)

// account stands in for the engine and an account that has what the programs look for.
type account struct {
	mu  sync.Mutex
	all map[string]resource.PropertyMap // inputs, by type (ec2/vpc) and name
	// needs are what a resource depends on, by its name.
	needs map[string]string
}

const digest = "@sha256:1111111111111111111111111111111111111111111111111111111111111111"

func (a *account) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	_, kind, _ := strings.Cut(args.TypeToken, ":")
	kind, _, _ = strings.Cut(kind, ":")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[kind+" "+args.Name] = args.Inputs
	a.needs[args.Name] = strings.Join(args.RegisterRPC.GetDependencies(), " ")
	out := args.Inputs.Copy()
	for key, v := range map[resource.PropertyKey]string{
		"arn": "arn:aws:x:eu-west-1:123456789012:" + args.Name, "name": args.Name, "bucket": args.Name,
		"keyId": args.Name, "publicIp": "198.51.100.1", "serviceName": "service", "prefixListId": "pl-1",
		"arnSuffix": "suffix",
	} {
		if _, ok := out[key]; !ok {
			out[key] = resource.NewProperty(v)
		}
	}
	out["latestVersion"] = resource.NewProperty(1.0)
	return "id-" + args.Name, out, nil
}

func (a *account) Call(args pulumi.MockCallArgs) (resource.PropertyMap, error) {
	found := func(kv ...string) (resource.PropertyMap, error) {
		out := resource.PropertyMap{}
		for pair := range slices.Chunk(kv, 2) {
			out[resource.PropertyKey(pair[0])] = resource.NewProperty(pair[1])
		}
		return out, nil
	}
	switch args.Token {
	case "aws:ec2/getVpc:getVpc":
		return found("id", "vpc-workloads", "cidrBlock", "172.16.0.0/16")
	case "aws:ecs/getCluster:getCluster":
		return found("arn", "arn:aws:ecs:eu-west-1:123456789012:cluster/workloads")
	case "aws:ecr/getImage:getImage":
		return found("imageUri",
			"123456789012.dkr.ecr.eu-west-1.amazonaws.com/"+args.Args["repositoryName"].StringValue()+digest)
	case "aws:ec2/getAmi:getAmi":
		return found("id", "ami-0fedcba9876543210")
	}
	return nil, errors.New("the account has no " + args.Token)
}

// run runs the example of that name.
func run(t *testing.T, name string) *account {
	t.Helper()
	a := &account{all: map[string]resource.PropertyMap{}, needs: map[string]string{}}
	require.NoError(t, pulumi.RunErr(program, pulumi.WithMocks("postern-examples", name, a)))
	return a
}

// count returns how many resources there are of a type.
func (a *account) count(kind string) (n int) {
	for name := range a.all {
		if strings.HasPrefix(name, kind+" ") {
			n++
		}
	}
	return n
}

func TestBeside(t *testing.T) {
	a := run(t, "beside")
	require.Equal(t, 1, a.count("ec2/vpc"), "the agents' is there")
	gate := a.all["ec2/vpcEndpoint beside-gate-endpoint"]
	require.Equal(t, "vpc-workloads", gate["vpcId"].StringValue())
	require.Equal(t, "172.16.255.10", gate["subnetConfigurations"].ArrayValue()[0].ObjectValue()["ipv4"].StringValue())
	require.Equal(t, "vpc-workloads", a.all["ec2/securityGroup beside-fence-agent-builder"]["vpcId"].StringValue())
	require.Equal(t, "172.16.0.0/16",
		a.all["vpc/securityGroupIngressRule beside-fence-gate-builder"]["cidrIpv4"].StringValue())
	for name, r := range a.all {
		if strings.HasPrefix(name, "ec2/networkAcl") || strings.HasPrefix(name, "ec2/flowLog") ||
			strings.HasPrefix(name, "ec2/routeTable ") || strings.HasPrefix(name, "route53/resolverFirewall") {
			require.NotEqual(t, "vpc-workloads", r["vpcId"].V, name)
		}
	}
	builders := a.all["ec2/launchTemplate builders"]
	require.Equal(t, "id-beside-fence-agent-builder", builders["vpcSecurityGroupIds"].ArrayValue()[0].StringValue())
	require.Len(t, builders["vpcSecurityGroupIds"].ArrayValue(), 1)
	for _, first := range []string{"beside-proxies-service", "beside-gate-accepted", "beside-audit-events"} {
		require.Contains(t, a.needs["builders"], first)
	}
	require.Contains(t, a.all["ecs/taskDefinition beside-proxies-task"]["containerDefinitions"].StringValue(),
		"/postern"+digest)
	require.Zero(t, a.count("autoscaling/group"), "the agents are the program's")
}

func TestPool(t *testing.T) {
	a := run(t, "pool")
	service := a.all["ecs/service pool-agent-worker-service"]
	require.Equal(t, "arn:aws:ecs:eu-west-1:123456789012:cluster/workloads", service["cluster"].StringValue())
	require.Equal(t, 4, int(service["desiredCount"].NumberValue()))
	require.Contains(t, a.all["ecs/taskDefinition pool-agent-worker-task"]["containerDefinitions"].StringValue(),
		"/worker"+digest)
	for _, first := range []string{
		"pool-proxies-service", "pool-control-service", "pool-gate-accepted", "pool-network-agents",
	} {
		require.Contains(t, a.needs["pool-agent-worker-service"], first)
	}
	registry := a.all["ec2/vpcEndpoint pool-endpoints-agents-ecr.dkr"]["policy"].StringValue()
	require.Contains(t, registry, "repository/worker")
	require.NotContains(t, registry, "repository/postern")
}

func TestEverything(t *testing.T) {
	a := run(t, "everything")
	require.Equal(t, "ami-0fedcba9876543210",
		a.all["ec2/launchTemplate everything-agent-coder-machine"]["imageId"].StringValue())
	for name := range a.all {
		require.NotContains(t, name, "s3/bucketV2 postern-everything-audit-log", "there is one in another account")
	}
	stream := a.all["kinesis/firehoseDeliveryStream everything-audit-delivery"]["extendedS3Configuration"].ObjectValue()
	require.Equal(t, "arn:aws:s3:::audit-archive", stream["bucketArn"].StringValue())
	require.Contains(t, a.all["iam/policy everything-boundary"]["policy"].StringValue(), "arn:aws:s3:::audit-archive")
	require.Equal(t, "/postern/everything/proxies",
		a.all["cloudwatch/metricAlarm busy"]["dimensions"].ObjectValue()["LogGroupName"].StringValue())
}

func TestUnknownExample(t *testing.T) {
	err := pulumi.RunErr(program, pulumi.WithMocks("postern-examples", "prod", &account{}))
	require.ErrorContains(t, err, `no example "prod"`)
}
