package capture_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/vpc"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	check "github.com/postern/postern/policies/check/aws"
	cost "github.com/postern/postern/policies/cost/aws"
	"github.com/postern/postern/tests/golden"
)

type environment struct{ pulumi.ResourceState }

// program is a network with one rule and one policy, and a few mistakes that
// the SDK lets pass.
func program(broken bool) pulumi.RunFunc {
	return func(ctx *pulumi.Context) error {
		env := &environment{}
		if err := ctx.RegisterComponentResource("postern:aws:Network", "prod-network", env); err != nil {
			return err
		}
		child := pulumi.Parent(env)
		me, err := aws.GetCallerIdentity(ctx, &aws.GetCallerIdentityArgs{})
		if err != nil {
			return err
		}
		tags := func(name string) pulumi.StringMap {
			return pulumi.StringMap{"Name": pulumi.String(name), "postern:stack": pulumi.String("prod"), "postern:role": pulumi.String("network")}
		}
		net, err := ec2.NewVpc(ctx, "prod-vpc", &ec2.VpcArgs{CidrBlock: pulumi.String("10.64.0.0/20"), Tags: tags("prod-vpc")}, child, pulumi.Protect(true))
		if err != nil {
			return err
		}
		cidr := "10.64.0.0/24"
		if broken {
			cidr = "10.65.0.0/24"
		}
		if _, err := ec2.NewSubnet(ctx, "prod-agents-a", &ec2.SubnetArgs{VpcId: net.ID(), CidrBlock: pulumi.String(cidr)}, child); err != nil {
			return err
		}
		group, err := ec2.NewSecurityGroup(ctx, "prod-agent", &ec2.SecurityGroupArgs{VpcId: net.ID(), Description: pulumi.String("one agent")}, child)
		if err != nil {
			return err
		}
		gate, err := ec2.NewSecurityGroup(ctx, "prod-gate", &ec2.SecurityGroupArgs{VpcId: net.ID(), Description: pulumi.String("the gate")}, child)
		if err != nil {
			return err
		}
		to := gate.ID().ToStringOutput()
		if broken {
			to = net.ID().ToStringOutput()
		}
		if _, err := vpc.NewSecurityGroupEgressRule(ctx, "prod-agent-out", &vpc.SecurityGroupEgressRuleArgs{
			SecurityGroupId: group.ID(), ReferencedSecurityGroupId: to, IpProtocol: pulumi.String("tcp"), FromPort: pulumi.Int(3128), ToPort: pulumi.Int(3128),
		}, child); err != nil {
			return err
		}
		lt := &ec2.LaunchTemplateArgs{ImageId: pulumi.String("ami-0abcdef1234567890"), InstanceType: pulumi.String("m7g.large")}
		if broken {
			lt.LicenseSpecifications = ec2.LaunchTemplateLicenseSpecificationArray{ec2.LaunchTemplateLicenseSpecificationArgs{}}
		}
		if _, err := ec2.NewLaunchTemplate(ctx, "prod-agent", lt, child); err != nil {
			return err
		}
		role, err := iam.NewRole(ctx, "prod-control", &iam.RoleArgs{
			AssumeRolePolicy: pulumi.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"aws:SourceAccount":"` + me.AccountId + `"}}}]}`),
		}, child)
		if err != nil {
			return err
		}
		act := "ec2:DescribeVpcs"
		if broken {
			act = "DescribeVpcs"
		}
		_, err = iam.NewRolePolicy(ctx, "prod-control", &iam.RolePolicyArgs{
			Role: role.Name,
			Policy: net.Arn.ApplyT(func(arn string) string {
				return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"` + act + `","Resource":"` + arn + `"}]}`
			}).(pulumi.StringOutput),
		}, child)
		if err != nil {
			return err
		}
		_, err = ec2.NewVpcEndpoint(ctx, "prod-logs", &ec2.VpcEndpointArgs{
			VpcId: net.ID(), ServiceName: pulumi.String("com.amazonaws.us-east-1.logs"), VpcEndpointType: pulumi.String("Interface"),
			SubnetIds: pulumi.StringArray{pulumi.String("subnet-0123456789abcdef0"), pulumi.String("subnet-0123456789abcdef1")},
		}, child)
		return err
	}
}

func run(t *testing.T, broken bool) *capture.Result {
	t.Helper()
	result, err := capture.Run(program(broken), capture.Options{Project: "postern", Stack: "prod"})
	require.NoError(t, err)
	return result
}

func TestGolden(t *testing.T) {
	t.Parallel()
	result := run(t, false)
	require.Empty(t, check.Run(result.Graph, result.Arguments))
	var asJSON, text bytes.Buffer
	require.NoError(t, result.Graph.Encode(&asJSON))
	require.NoError(t, result.Graph.Print(&text))
	require.NoError(t, cost.Of(result.Graph).Print(&text))
	for name, got := range map[string][]byte{"prod.json": asJSON.Bytes(), "prod.txt": text.Bytes()} {
		file := filepath.Join("testdata", name)
		if *golden.Update {
			require.NoError(t, os.WriteFile(file, got, 0o600))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	decoded, err := graph.Decode(&asJSON)
	require.NoError(t, err)
	require.Equal(t, result.Graph, decoded)
}

func TestSameEveryTime(t *testing.T) {
	t.Parallel()
	var first bytes.Buffer
	require.NoError(t, run(t, false).Graph.Encode(&first))
	for range 20 {
		var again bytes.Buffer
		require.NoError(t, run(t, false).Graph.Encode(&again))
		require.Equal(t, first.String(), again.String())
	}
}

// What is unknown at a preview stays unknown, with the edge that says why; what
// is computed from it can be read in the example.
func TestUnknownsKeepTheirEdges(t *testing.T) {
	t.Parallel()
	g := run(t, false).Graph
	rule := g.OfType("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule")[0]
	require.Equal(t, graph.Unknown, rule.Inputs["referencedSecurityGroupId"])
	to := g.Refers(rule, "referencedSecurityGroupId", "aws:ec2/securityGroup:SecurityGroup")
	require.NotNil(t, to)
	require.Equal(t, "prod-gate", to.Name)

	policy := g.OfType("aws:iam/rolePolicy:RolePolicy")[0]
	require.Equal(t, graph.Unknown, policy.Inputs["policy"])
	require.Contains(t, policy.Value("policy"), "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-")
	require.Equal(t, "iam", policy.Role)
	require.True(t, g.OfType("aws:ec2/vpc:Vpc")[0].Protect)
}

// The SDK takes all of these, and so does a mock.
func TestChecksFindWhatTheSDKLetsPass(t *testing.T) {
	t.Parallel()
	result := run(t, true)
	var found []string
	for _, p := range check.Run(result.Graph, result.Arguments) {
		found = append(found, p.Error())
	}
	require.Equal(t, []string{
		"prod-agent (LaunchTemplate): licenseSpecifications.0.licenseConfigurationArn: it is required and missing; set it",
		"prod-agents-a (Subnet): cidrBlock: 10.65.0.0/24 is not within its VPC prod-vpc (10.64.0.0/20); choose a part of 10.64.0.0/20",
		"prod-control (RolePolicy): policy.Statement.0.Action: DescribeVpcs is not a valid action; write service:Action, such as s3:GetObject",
		"prod-agent-out (SecurityGroupEgressRule): referencedSecurityGroupId: it refers to prod-vpc (Vpc); refer to a securityGroup or defaultSecurityGroup",
	}, found)
}

func TestSecretsAreLeftBehind(t *testing.T) {
	t.Parallel()
	const value = "hunter2-hunter2"
	result, err := capture.Run(func(ctx *pulumi.Context) error {
		return ctx.RegisterResource("aws:ssm/parameter:Parameter", "p", pulumi.Map{
			"value": pulumi.ToSecret(pulumi.String(value)), "nested": pulumi.Map{"deep": pulumi.ToSecret(pulumi.String(value))},
		}, &pulumi.CustomResourceState{})
	}, capture.Options{Project: "postern", Stack: "prod"})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, result.Graph.Encode(&b))
	require.NoError(t, result.Graph.Print(&b))
	require.NotContains(t, b.String(), value)
	require.True(t, graph.IsSecret(result.Graph.Resources[0].Inputs["value"]))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	declare := func(ctx *pulumi.Context, name string) error {
		return ctx.RegisterResource("aws:ec2/vpc:Vpc", name, pulumi.Map{}, &pulumi.CustomResourceState{})
	}
	for name, c := range map[string]struct {
		program pulumi.RunFunc
		want    string
	}{
		"its own error": {func(*pulumi.Context) error { return os.ErrDeadlineExceeded }, "i/o timeout"},
		"a question that only an account answers": {func(ctx *pulumi.Context) error {
			_, err := ec2.LookupAmi(ctx, &ec2.LookupAmiArgs{Owners: []string{"self"}})
			return err
		}, "the program asks the provider aws:ec2/getAmi:getAmi"},
		"twice the same": {func(ctx *pulumi.Context) error {
			if err := declare(ctx, "a"); err != nil {
				return err
			}
			return declare(ctx, "a")
		}, "is declared twice"},
		"resources that depend on IDs": {func(ctx *pulumi.Context) error {
			v, err := ec2.NewVpc(ctx, "a", &ec2.VpcArgs{})
			if err != nil {
				return err
			}
			v.ID().ApplyT(func(id pulumi.ID) error { return declare(ctx, "b") })
			return nil
		}, "outside of ApplyT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := capture.Run(c.program, capture.Options{Project: "postern", Stack: "prod"})
			require.ErrorContains(t, err, c.want)
		})
	}
}
