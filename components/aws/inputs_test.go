package aws

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan/cloud"
)

// beside returns arguments for agents in a network that is there.
func beside(t *testing.T) *EnvironmentArgs {
	t.Helper()
	args := load(t, variants["minimal"])
	args.Existing = &ExistingNetwork{
		VPC: pulumi.String("vpc-1"), Subnets: pulumi.StringArray{pulumi.String("subnet-1")},
		Gates: []Gate{
			{pulumi.String("subnet-2"), netip.MustParseAddr("10.64.0.77")},
			{pulumi.String("subnet-3"), netip.MustParseAddr("10.64.1.77")},
		},
	}
	return args
}

// TestArgumentsAreChecked: a program gets every mistake at once, before anything is declared.
func TestArgumentsAreChecked(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(a *EnvironmentArgs){
		"AWS and Plan are needed":                        func(a *EnvironmentArgs) { a.Plan = nil },
		"image: \"\" is not an image":                    func(a *EnvironmentArgs) { a.AWS.Image = "" },
		"image is a setting and an input":                func(a *EnvironmentArgs) { a.Image = pulumi.String(a.AWS.Image) },
		"agents.coder.ami is a setting":                  func(a *EnvironmentArgs) { a.AgentAMIs = map[string]pulumi.StringInput{"coder": pulumi.String("")} },
		"an image for agent \"other\"":                   func(a *EnvironmentArgs) { a.AgentImages = map[string]pulumi.StringInput{"other": pulumi.String("")} },
		"there are 0 zones":                              func(a *EnvironmentArgs) { a.AWS.Zones = nil },
		"the policy is about agents [\"coder\"]":         func(a *EnvironmentArgs) { a.Plan.Agents = a.Plan.Agents[:1] },
		"existing network: it needs mode isolated":       func(a *EnvironmentArgs) { a.AWS.Mode = cloud.ModeShared },
		"and 2 gates":                                    func(a *EnvironmentArgs) { a.Existing.Gates = a.Existing.Gates[:1] },
		"give its VPC":                                   func(a *EnvironmentArgs) { a.Existing.VPC = nil },
		"gate 2: give its subnet, and an address of":     func(a *EnvironmentArgs) { a.Existing.Gates[1].Address = a.Existing.Gates[0].Address },
		"gate 1: give its subnet":                        func(a *EnvironmentArgs) { a.Existing.Gates[0].Subnet = nil },
		"address of its own in 10.64.0.0/20":             func(a *EnvironmentArgs) { a.Existing.Gates[0].Address = netip.MustParseAddr("192.0.2.1") },
		"give the subnets of agent coder":                func(a *EnvironmentArgs) { a.Existing.Subnets = nil },
		"the endpoints that Fargate needs are declared ": func(a *EnvironmentArgs) { a.AWS.Agents[0].Compute = cloud.ComputeFargate },
	} {
		args := beside(t)
		require.NoError(t, args.check(false))
		change(args)
		err := pulumi.RunErr(func(ctx *pulumi.Context) error {
			_, err := NewEnvironment(ctx, "prod", args)
			return err
		}, pulumi.WithMocks("postern", "prod", &declarations{}))
		require.ErrorContains(t, err, want)
	}
	args := beside(t)
	args.AWS.Agents[0].Command = []string{strings.Repeat("x", 12<<10)}
	require.NoError(t, args.check(false))
	args.AWS.Agents[0].Command = []string{strings.Repeat("x", 17<<10)}
	require.ErrorContains(t, args.check(false), "agents.coder: EC2 takes 16384 bytes of user data, and these are 18018")
	args = beside(t)
	args.AWS.Image, args.AWS.Agents[0].AMI = "", ""
	require.NoError(t, args.check(true), "the fleet gets them")
}

// TestInputsAreChecked: a value that is known only later passes the same checks. An image by its tag
// is somebody else's to move.
func TestInputsAreChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []func(a *EnvironmentArgs){
		func(a *EnvironmentArgs) { a.AWS.Image, a.Image = "", pulumi.String(repo+"postern:latest") },
		func(a *EnvironmentArgs) { a.AWS.Image, a.Image = "", pulumi.String("example.test/postern"+digest) },
		func(a *EnvironmentArgs) {
			a.AWS.Agents[0].Image = ""
			a.AgentImages = map[string]pulumi.StringInput{"coder": pulumi.String("coder:1")}
		},
		func(a *EnvironmentArgs) {
			a.AWS.Agents[0].AMI = ""
			a.AgentAMIs = map[string]pulumi.StringInput{"coder": pulumi.String("newest")}
		},
	} {
		args := load(t, variants["minimal"])
		bad(args)
		err := pulumi.RunErr(func(ctx *pulumi.Context) error {
			_, err := NewEnvironment(ctx, "prod", args)
			return err
		}, pulumi.WithMocks("postern", "prod", &declarations{}))
		require.Regexp(t, "is not an image by digest|is not in the stack's own registry|is not a machine image", err)
	}
}

// TestBesideAnExistingNetwork: in a network that is there the stack declares the way to the proxies,
// the agents' groups and what it starts, and nothing that decides for others there. The rules for the
// agents are those of a network of the stack's own.
func TestBesideAnExistingNetwork(t *testing.T) {
	t.Parallel()
	args := beside(t)
	g := declareAll(t, args)
	there := map[string]int{}
	for _, r := range g.all {
		for _, key := range []string{"vpcId", "resourceId"} {
			if v, ok := r.inputs[resource.PropertyKey(key)]; ok && v.IsString() && v.StringValue() == "vpc-1" {
				there[r.token[strings.LastIndexByte(r.token, ':')+1:]]++
			}
		}
	}
	require.Equal(t, map[string]int{"SecurityGroup": 3, "VpcEndpoint": 1}, there, "two agents, the gate")
	require.Len(t, g.of(tokenVPC), 1)
	require.Equal(t, []string{
		"10.64.0.77:" + decimal(int(args.AWS.Agents[0].Port)),
		"10.64.1.77:" + decimal(int(args.AWS.Agents[0].Port)),
	}, args.gates(args.AWS.Agents[0].Port))
	fixed := g.one(t, tokenEndpoint, "-gate-endpoint").inputs["subnetConfigurations"].ArrayValue()
	require.Equal(t, "10.64.1.77", fixed[1].ObjectValue()["ipv4"].StringValue())
	require.Equal(t, []string{"subnet-1"},
		g.one(t, "aws:autoscaling/group:Group", "-agent-coder-machine").texts("vpcZoneIdentifiers"))
	groups := func(g *declarations) (out []string) {
		for _, line := range g.rules() {
			if strings.HasPrefix(line, "group ") {
				out = append(out, line)
			}
		}
		return out
	}
	require.Equal(t, groups(declareAll(t, load(t, variants["minimal"]))), groups(g))
}

// TestWhatIsBroughtAlong: a key or a bucket that is there takes the place of the stack's own wherever
// that is named, and the stack declares nothing about it.
func TestWhatIsBroughtAlong(t *testing.T) {
	t.Parallel()
	args := load(t, variants["minimal"])
	const key = "arn:aws:kms:eu-west-1:123456789012:key/"
	args.SecretsKey, args.AuditKey = pulumi.String(key+"secrets"), pulumi.String(key+"audit")
	args.AuditBucket, args.Store = pulumi.String("archive"), pulumi.String("publications")
	g := declareAll(t, args)
	require.Empty(t, g.of("aws:kms/key:Key"))
	require.Empty(t, g.of("aws:kms/alias:Alias"))
	require.Len(t, g.of("aws:s3/bucketV2:BucketV2"), 1, "the flow logs'")
	for _, r := range g.of("aws:secretsmanager/secret:Secret") {
		require.Equal(t, key+"secrets", r.text("kmsKeyId"))
	}
	for _, r := range g.of("aws:cloudwatch/logGroup:LogGroup") {
		require.Equal(t, key+"audit", r.text("kmsKeyId"))
	}
	policies := g.policies(t)
	for at, names := range map[string][]string{
		"aws:iam/policy:Policy|prod-boundary|policy":               {"s3:::archive", "s3:::publications", key + "secrets", key + "audit"},
		"aws:iam/policy:Policy|prod-operators|policy":              {"s3:::archive", "s3:::publications", key + "secrets", key + "audit"},
		"aws:iam/rolePolicy:RolePolicy|prod-control-task|policy":   {"s3:::publications", key + "secrets"},
		"aws:iam/rolePolicy:RolePolicy|prod-audit-delivery|policy": {"s3:::archive", key + "audit"},
		"aws:ec2/vpcEndpoint:VpcEndpoint|prod-endpoints-s3|policy": {"s3:::publications"},
	} {
		text := policies[at].Text()
		for _, name := range names {
			require.Contains(t, text, name, at)
		}
	}
	require.Contains(t, g.one(t, tokenTask, "-control-task").text("containerDefinitions"),
		"s3://publications?region=eu-west-1")
}

// TestElsewhere: for an agent that a program starts itself there is a group and a port, and nothing
// that runs.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	args := load(t, variants["minimal"])
	port := args.AWS.Agents[0].Port
	args.AWS.Agents[0] = cloud.Agent{Name: "coder", Port: port, Compute: cloud.ComputeElsewhere}
	g := declareAll(t, args)
	require.NotNil(t, g.one(t, tokenGroup, "-fence-agent-coder"))
	require.Equal(t, int(port), g.one(t, "aws:lb/listener:Listener", "-coder").number("port"))
	for _, r := range g.all {
		require.NotContains(t, r.name, "prod-agent-coder")
	}
	err := pulumi.RunErr(func(ctx *pulumi.Context) error {
		env, err := NewEnvironment(ctx, "prod", args)
		if err != nil {
			return err
		}
		_, err = NewAgentPool(ctx, "prod-agent-coder", &AgentPoolArgs{Fleet: env.Fleet, Agent: "coder"})
		return err
	}, pulumi.WithMocks("postern", "prod", &declarations{}))
	require.ErrorContains(t, err, "whatever has its security group is the agent")
}

// TestPartsAreTheEnvironment: what a program puts together from the parts is what NewEnvironment
// declares, under the same names and with the same inputs.
func TestPartsAreTheEnvironment(t *testing.T) {
	t.Parallel()
	for name, section := range variants {
		args, parts := load(t, section), &declarations{}
		require.NoError(t, pulumi.RunErr(func(ctx *pulumi.Context) error {
			n, err := NewNetwork(ctx, "prod-network", &NetworkArgs{AWS: args.AWS, Plan: args.Plan})
			if err != nil {
				return err
			}
			f, err := NewFleet(ctx, "prod", &FleetArgs{Network: n})
			if err != nil {
				return err
			}
			for _, a := range args.AWS.Agents {
				if _, err := NewAgentPool(ctx, "prod-agent-"+a.Name, &AgentPoolArgs{
					Fleet: f, Agent: a.Name,
				}); err != nil {
					return err
				}
			}
			return nil
		}, pulumi.WithMocks("postern", "prod", parts)))
		whole := map[string]resource.PropertyMap{}
		for _, r := range declareAll(t, args).all {
			if strings.HasPrefix(r.token, "aws:") {
				whole[r.id()] = r.inputs
			}
		}
		require.Greater(t, len(whole), 100)
		for _, r := range parts.all {
			if strings.HasPrefix(r.token, "aws:") {
				require.Equal(t, whole[r.id()], r.inputs, "%s: %s", name, r.id())
				delete(whole, r.id())
			}
		}
		require.Empty(t, whole, name)
	}
}

// TestStateShowsArguments: the engine's state, and policies about resources, see what a part is for.
func TestStateShowsArguments(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, kind := range []string{"Environment", "Network", "Fleet"} {
			r := g.one(t, "postern:aws:"+kind, "")
			require.Equal(t, args.AWS.Mode, r.text("mode"), kind)
			require.Equal(t, args.AWS.Zones, r.texts("zones"), kind)
			require.Equal(t, args.AWS.Protect, r.inputs["protect"].BoolValue(), kind)
		}
		for _, a := range args.AWS.Agents {
			r := g.one(t, "postern:aws:AgentPool", "-agent-"+a.Name)
			require.Equal(t, a.Name, r.text("agent"))
			require.Equal(t, a.Count, r.number("count"))
		}
	})
}
