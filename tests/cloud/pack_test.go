package cloud_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/autoscaling"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/lb"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/route53"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/vpc"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	environment "github.com/postern/postern/components/aws"
	"github.com/postern/postern/engine/pack"
	"github.com/postern/postern/stacks"
)

// theirs are programs that this binary is, when the engine runs it: by their project's name.
var theirs = map[string]pulumi.RunFunc{"machines": machines, "reference": reference}

// packed is a folder with the policy pack, and a program under the real engine. The stand-in is the
// provider.
type packed struct {
	t                *testing.T
	dir, pack, state string
	// mistake is the one that the program makes, by its guardrail, or "".
	mistake string
}

// newPacked returns one of [theirs], with a stack called prod.
func newPacked(t *testing.T, program string) *packed {
	t.Helper()
	if _, err := exec.LookPath(os.Getenv("PULUMI")); err != nil && os.Getenv("CI") != "true" {
		t.Skip("set PULUMI to the Pulumi CLI")
	}
	p := &packed{t: t, dir: t.TempDir()}
	p.pack, p.state = filepath.Join(p.dir, "pack"), filepath.Join(p.dir, "standin.json")
	for _, folder := range []string{"bin", "saved", "work", "pack"} {
		require.NoError(t, os.MkdirAll(filepath.Join(p.dir, folder), 0o700))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	guardrails, err := programAlone()
	require.NoError(t, err)
	for name, to := range map[string]string{standInName: self, languageName: self, pack.Program: guardrails} {
		require.NoError(t, os.Symlink(to, filepath.Join(p.dir, "bin", name)))
	}
	manifest, err := os.ReadFile(filepath.Join("..", "..", "policies", "pack", "PulumiPolicy.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.pack, "PulumiPolicy.yaml"), manifest, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "work", "Pulumi.yaml"),
		[]byte("name: "+program+"\nruntime: go\n"), 0o600))
	stack, err := filepath.Abs(filepath.Join("..", "..", "stacks", "prod-aws.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.Symlink(stack, filepath.Join(p.dir, "work", "prod-aws.yaml")))
	out, err := p.pulumi("stack", "init", "prod")
	require.NoError(t, err, out)
	return p
}

// pulumi runs the engine's command.
func (p *packed) pulumi(args ...string) (string, error) {
	p.t.Helper()
	real, err := filepath.Abs(os.Getenv("PULUMI"))
	require.NoError(p.t, err)
	cmd := exec.CommandContext(p.t.Context(), real, append(args, "--non-interactive", "--color=never")...)
	cmd.Dir = filepath.Join(p.dir, "work")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(p.dir, "bin")+":"+os.Getenv("PATH"), "STANDIN="+p.state,
		"MISTAKE="+p.mistake, "PULUMI_HOME="+filepath.Join(p.dir, "user"), "PULUMI_CONFIG_PASSPHRASE=",
		"PULUMI_BACKEND_URL=file://"+filepath.Join(p.dir, "saved"), "PULUMI_SKIP_UPDATE_CHECK=true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION=true", "PULUMI_SKIP_CHECKPOINTS=true")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// analyze returns what the engine says of what is saved now.
func (p *packed) analyze() (string, error) {
	p.t.Helper()
	file := filepath.Join(p.dir, "state.json")
	out, err := p.pulumi("stack", "export", "-s", "prod", "--file", file)
	require.NoError(p.t, err, out)
	return p.pulumi("policy", "analyze", "--file", file, "--policy-pack", p.pack)
}

// made is the number of resources that the stand-in has made.
func (p *packed) made() int {
	p.t.Helper()
	s, err := readStandIn(p.state)
	require.NoError(p.t, err)
	return len(s.Made)
}

// machines is a program of somebody's own, without our components: agents' machines behind a gate.
func machines(ctx *pulumi.Context) (err error) {
	mistake := os.Getenv("MISTAKE")
	failed := func(_ any, e error) { // the first error; what follows it is not used
		if err == nil {
			err = e
		}
	}
	agents := pulumi.StringMap{"postern:role": pulumi.String("agents")}
	net, e := ec2.NewVpc(ctx, "agents", &ec2.VpcArgs{
		CidrBlock: pulumi.String("10.9.0.0/16"), EnableDnsSupport: pulumi.Bool(mistake == "DNS-01"), Tags: agents,
	})
	if e != nil {
		return e
	}
	subnet, e := ec2.NewSubnet(ctx, "agents-a", &ec2.SubnetArgs{
		VpcId: net.ID(), CidrBlock: pulumi.String("10.9.1.0/24"), AvailabilityZone: pulumi.String("eu-west-1a"),
		MapPublicIpOnLaunch: pulumi.Bool(mistake == "NET-04"),
	})
	failed(subnet, e)
	table, e := ec2.NewRouteTable(ctx, "agents", &ec2.RouteTableArgs{VpcId: net.ID()})
	failed(table, e)
	failed(ec2.NewRouteTableAssociation(ctx, "agents-a", &ec2.RouteTableAssociationArgs{
		SubnetId: subnet.ID(), RouteTableId: table.ID(),
	}))
	failed(ec2.NewDefaultRouteTable(ctx, "main", &ec2.DefaultRouteTableArgs{
		DefaultRouteTableId: net.DefaultRouteTableId, Routes: ec2.DefaultRouteTableRouteArray{},
	}))
	failed(ec2.NewDefaultSecurityGroup(ctx, "default", &ec2.DefaultSecurityGroupArgs{VpcId: net.ID()}))
	failed(ec2.NewDefaultNetworkAcl(ctx, "default", &ec2.DefaultNetworkAclArgs{
		DefaultNetworkAclId: net.DefaultNetworkAclId,
	}))
	failed(ec2.NewFlowLog(ctx, "agents", &ec2.FlowLogArgs{
		VpcId: net.ID(), TrafficType: pulumi.String("ALL"), LogDestination: pulumi.String("arn:aws:s3:::flows"),
	}))
	failed(route53.NewResolverQueryLogConfigAssociation(ctx, "agents", &route53.ResolverQueryLogConfigAssociationArgs{
		ResolverQueryLogConfigId: pulumi.String("rqlc-1"), ResourceId: net.ID(),
	}))
	group := func(name string) *ec2.SecurityGroup {
		g, e := ec2.NewSecurityGroup(ctx, name, &ec2.SecurityGroupArgs{
			VpcId: net.ID(), Description: pulumi.String("of " + name),
		})
		failed(g, e)
		return g
	}
	gate, own := group("gate"), group("agents")
	failed(lb.NewLoadBalancer(ctx, "gate", &lb.LoadBalancerArgs{
		Internal: pulumi.Bool(true), LoadBalancerType: pulumi.String("network"),
		SecurityGroups: pulumi.StringArray{gate.ID()}, Subnets: pulumi.StringArray{subnet.ID()},
	}))
	to := &vpc.SecurityGroupEgressRuleArgs{
		SecurityGroupId: own.ID(), IpProtocol: pulumi.String("tcp"), FromPort: pulumi.Int(10001),
		ToPort: pulumi.Int(10001), Description: pulumi.String("to the gate"), ReferencedSecurityGroupId: gate.ID(),
	}
	if mistake == "NET-15" {
		to.ReferencedSecurityGroupId, to.CidrIpv4 = nil, pulumi.String("0.0.0.0/1")
	}
	failed(vpc.NewSecurityGroupEgressRule(ctx, "to-gate", to))
	failed(vpc.NewSecurityGroupIngressRule(ctx, "from-agents", &vpc.SecurityGroupIngressRuleArgs{
		SecurityGroupId: gate.ID(), IpProtocol: pulumi.String("tcp"), FromPort: pulumi.Int(10001),
		ToPort: pulumi.Int(10001), Description: pulumi.String("from agents"), ReferencedSecurityGroupId: own.ID(),
	}))
	if mistake == "NET-05" {
		failed(ec2.NewRoute(ctx, "out", &ec2.RouteArgs{
			RouteTableId: table.ID(), DestinationCidrBlock: pulumi.String("0.0.0.0/0"),
			TransitGatewayId: pulumi.String("tgw-0123456789abcdef0"),
		}))
	}
	launch := &ec2.LaunchTemplateArgs{
		ImageId: pulumi.String("ami-0123456789abcdef0"), VpcSecurityGroupIds: pulumi.StringArray{own.ID()},
		Tags: agents,
		MetadataOptions: ec2.LaunchTemplateMetadataOptionsArgs{
			HttpTokens: pulumi.String("required"), HttpEndpoint: pulumi.String("disabled"),
		},
		BlockDeviceMappings: ec2.LaunchTemplateBlockDeviceMappingArray{ec2.LaunchTemplateBlockDeviceMappingArgs{
			Ebs: ec2.LaunchTemplateBlockDeviceMappingEbsArgs{Encrypted: pulumi.String("true")},
		}},
	}
	if mistake == "IMD-04" {
		launch.IamInstanceProfile = ec2.LaunchTemplateIamInstanceProfileArgs{Name: pulumi.String("admin")}
	}
	template, e := ec2.NewLaunchTemplate(ctx, "machine", launch)
	failed(template, e)
	failed(autoscaling.NewGroup(ctx, "machines", &autoscaling.GroupArgs{
		MinSize: pulumi.Int(1), MaxSize: pulumi.Int(1), VpcZoneIdentifiers: pulumi.StringArray{subnet.ID()},
		LaunchTemplate: autoscaling.GroupLaunchTemplateArgs{Id: template.ID(), Version: pulumi.String("$Latest")},
		Tags: autoscaling.GroupTagArray{autoscaling.GroupTagArgs{
			Key: pulumi.String("postern:role"), Value: pulumi.String("agents"), PropagateAtLaunch: pulumi.Bool(true),
		}},
	}))
	return err
}

// mistakesOfTheirs are mistakes of that program, by the guardrail that finds each, and the resource.
var mistakesOfTheirs = []struct{ rail, at string }{
	{"DNS-01", "agents (Vpc)"},
	{"NET-04", "agents-a (Subnet)"},
	{"NET-05", "out (Route)"},
	{"NET-15", "to-gate (SecurityGroupEgressRule)"},
	{"IMD-04", "machine (LaunchTemplate)"},
}

// TestThePackStopsAProgram: somebody's own program on AWS is stopped by the pack before anything is
// made, in the real engine; what the engine has saved is judged the same by `policy analyze`.
func TestThePackStopsAProgram(t *testing.T) {
	t.Parallel()
	p := newPacked(t, "machines")
	preview := []string{"preview", "-s", "prod", "--policy-pack", p.pack}
	up := []string{"up", "-s", "prod", "--yes", "--policy-pack", p.pack}
	for _, m := range mistakesOfTheirs {
		p.mistake = m.rail
		args := preview
		if m.rail == "IMD-04" {
			args = up
		}
		said, err := p.pulumi(args...)
		require.Error(t, err, said)
		require.Contains(t, said, m.rail+" "+m.at)
		require.Zero(t, p.made(), m.rail)
	}
	p.mistake = ""
	said, err := p.pulumi(up...)
	require.NoError(t, err, said)
	require.Equal(t, 16, p.made())
	said, err = p.analyze()
	require.NoError(t, err, said)

	// Somebody goes on without the pack.
	p.mistake = "NET-05"
	said, err = p.pulumi("up", "-s", "prod", "--yes")
	require.NoError(t, err, said)
	said, err = p.analyze()
	require.Error(t, err, said)
	require.Contains(t, said, "NET-05 out (Route)")
}

// TestThePackPassesTheReference: what our components declare passes the pack as for production. One
// line of the program's own that opens it does not.
func TestThePackPassesTheReference(t *testing.T) {
	t.Parallel()
	p := newPacked(t, "reference")
	p.mistake = "IMD-04"
	require.NoError(t, os.WriteFile(filepath.Join(p.pack, "guardrails.yaml"), []byte(waived), 0o600))
	said, err := p.pulumi("up", "-s", "prod", "--yes", "--policy-pack", p.pack)
	require.Error(t, err, said)
	require.Contains(t, said, "IMD-04 prod-aws-agent-coder-machine (LaunchTemplate)")
	require.Zero(t, p.made())
	p.mistake = ""
	said, err = p.pulumi("up", "-s", "prod", "--yes", "--policy-pack", p.pack)
	require.NoError(t, err, said)
	require.Greater(t, p.made(), 100)
	said, err = p.analyze()
	require.NoError(t, err, said)
}

// waived is what the pack has to know of the reference: stacks/prod-aws.yaml says the same.
const waived = `
waivers:
  - guardrail: FLT-01
    resource: target of a listener -> an admin port of the proxies
    owner: security@example.com
    reason: a load balancer has one group for its listeners and its health checks
    expires: "2036-12-31"
`

// reference is a program with our components, and somebody's own line.
func reference(ctx *pulumi.Context) error {
	stack, err := stacks.Load("prod-aws.yaml")
	if err != nil {
		return err
	}
	if os.Getenv("MISTAKE") != "" {
		err = ctx.RegisterStackTransformation(func(
			a *pulumi.ResourceTransformationArgs,
		) *pulumi.ResourceTransformationResult {
			if machine, ok := a.Props.(*ec2.LaunchTemplateArgs); ok && strings.Contains(a.Name, "-agent-") {
				machine.IamInstanceProfile = ec2.LaunchTemplateIamInstanceProfileArgs{Name: pulumi.String("admin")}
			}
			return &pulumi.ResourceTransformationResult{Props: a.Props, Opts: a.Opts}
		})
		if err != nil {
			return err
		}
	}
	_, err = environment.NewEnvironment(ctx, stack.Name, &environment.EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan})
	return err
}
