package cloud_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cloud/aws"
	environment "github.com/postern/postern/components/aws"
	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	check "github.com/postern/postern/policies/check/aws"
	cost "github.com/postern/postern/policies/cost/aws"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/moto"
)

// account is moto's.
const account = "123456789012"

func TestMain(m *testing.M) {
	if isStandIn() {
		if err := serveStandIn(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if filepath.Base(os.Args[0]) == languageName { // and so is what runs programs, and each program
		self, err := os.Executable()
		if err != nil {
			panic(err)
		}
		serveLanguage(self)
	}
	if os.Getenv("PULUMI_MONITOR") != "" {
		pulumi.Run(theirs[os.Getenv("PULUMI_PROJECT")])
		return
	}
	url, stop, err := moto.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		if err := os.Setenv(k, v); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// planned captures what the repository's own stack file would make in a region.
// Each test has a region to itself, and, since roles are of no region, a stack
// of that name.
func planned(t *testing.T, name, region string, change ...string) (*stacks.Stack, *graph.Graph) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "stacks", name+".yaml"))
	require.NoError(t, err)
	original, err := stacks.Load(filepath.Join("..", "..", "stacks", name+".yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer(append(change, original.AWS.Account, account, original.AWS.Region, region)...).Replace(string(b))
	file := filepath.Join(t.TempDir(), region+".yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	stack, err := stacks.Load(file)
	require.NoError(t, err)
	result, err := capture.Run(func(ctx *pulumi.Context) error {
		_, err := environment.NewEnvironment(ctx, stack.Name, &environment.EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan})
		return err
	}, capture.Options{Project: "postern", Stack: stack.Name, Region: region, Account: account})
	require.NoError(t, err)
	require.Empty(t, check.Run(result.Graph, result.Arguments), "AWS would refuse it")
	require.Empty(t, cost.Of(result.Graph).Unpriced, "everything has a price, or none")
	// As operators have it: through the file.
	var file2 bytes.Buffer
	require.NoError(t, result.Graph.Encode(&file2))
	g, err := graph.Decode(&file2)
	require.NoError(t, err)
	return stack, g
}

func built(t *testing.T, name, region string, change ...string) (*builder, *aws.Account) {
	t.Helper()
	stack, g := planned(t, name, region, change...)
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region))
	require.NoError(t, err)
	b := &builder{stack: stack, moved: map[string]string{}, t: t, ctx: t.Context(), g: g, ec2: ec2.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg), kms: kms.NewFromConfig(cfg), secrets: secretsmanager.NewFromConfig(cfg), ecs: ecs.NewFromConfig(cfg), elb: elb.NewFromConfig(cfg), scaling: autoscaling.NewFromConfig(cfg), ids: map[string]string{}, names: map[string]string{}}
	b.build()
	a, err := aws.Open(t.Context(), account, region)
	require.NoError(t, err)
	return b, a
}

func TestWhatWasPlannedDoesNotDrift(t *testing.T) {
	t.Parallel()
	for name, region := range map[string]string{"prod-aws": "us-west-2", "dev-aws": "eu-west-1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, a := built(t, name, region)
			found, err := a.Drift(t.Context(), b.g)
			require.NoError(t, err)
			require.Empty(t, found)
			b.make(fleets...)
			b.proveLive(name == "prod-aws")
		})
	}
}

// TestDrift is one stack, to which everything is done one after the other: moto takes long for a
// stack.
func TestDrift(t *testing.T) {
	t.Parallel()
	b, a := built(t, "prod-aws", "us-east-2")
	for _, c := range []struct {
		name string
		test func(*testing.T, *builder, *aws.Account)
	}{
		{"of tasks", driftOfTasks}, // the first: it names all that is found
		{"of access", driftOfAccess},
		{"by hand", driftByHand},
		{"gone", driftGone},
	} {
		t.Run(c.name, func(t *testing.T) { //nolint:paralleltest // one account, changed step by step
			b.t, b.ctx = t, t.Context()
			c.test(t, b, a)
		})
	}
}

// What somebody adds by hand, next to the resources of the plan, a refresh of
// Pulumi's does not see.
func driftByHand(t *testing.T, b *builder, a *aws.Account) {
	t.Helper()
	ctx, p := t.Context(), "us-east-2-"
	agents := b.first("aws:ec2/vpc:Vpc", p+"network-agents")
	table := b.table("agents")
	group := b.agentGroup()
	role := b.anyRole()

	// What drift found last, before the next change.
	before, err := a.Drift(ctx, b.g)
	require.NoError(t, err)
	for _, change := range []struct {
		name   string
		do     func() error
		risk   string
		what   string
		undone func() error
	}{
		{"a route to an internet gateway", func() error {
			out, err := b.ec2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
			require.NoError(t, err)
			_, err = b.ec2.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: out.InternetGateway.InternetGatewayId, VpcId: &agents})
			require.NoError(t, err)
			_, err = b.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: awssdk.String("0.0.0.0/0"), GatewayId: out.InternetGateway.InternetGatewayId})
			return err
		}, cloud.Critical, "a route to 0.0.0.0/0 through igw-", func() error {
			_, err := b.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: awssdk.String("0.0.0.0/0")})
			return err
		}},
		{"the gateway itself", func() error { return nil }, cloud.Critical, "an internet gateway that is not planned is attached", nil},
		{"a way out for the agents", func() error {
			_, err := b.ec2.AuthorizeSecurityGroupEgress(ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &group, IpPermissions: []types.IpPermission{
				{IpProtocol: awssdk.String("udp"), FromPort: awssdk.Int32(53), ToPort: awssdk.Int32(53), IpRanges: []types.IpRange{{CidrIp: awssdk.String("0.0.0.0/0")}}},
			}})
			return err
		}, cloud.Critical, "a rule lets udp 53 out to 0.0.0.0/0", nil},
		{"a way in", func() error {
			_, err := b.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{
				{IpProtocol: awssdk.String("tcp"), FromPort: awssdk.Int32(22), ToPort: awssdk.Int32(22), IpRanges: []types.IpRange{{CidrIp: awssdk.String("198.51.100.0/24")}}},
			}})
			return err
		}, cloud.High, "a rule lets tcp 22 in from 198.51.100.0/24", nil},
		{"DNS", func() error {
			_, err := b.ec2.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{VpcId: &agents, EnableDnsSupport: &types.AttributeBooleanValue{Value: awssdk.Bool(true)}})
			return err
		}, cloud.Critical, "DNS support is on, the plan has it off", nil},
		{"an endpoint", func() error {
			_, err := b.ec2.CreateVpcEndpoint(ctx, &ec2.CreateVpcEndpointInput{VpcId: &agents, ServiceName: awssdk.String("com.amazonaws.us-east-2.s3"), VpcEndpointType: types.VpcEndpointTypeGateway})
			return err
		}, cloud.Critical, "an endpoint to com.amazonaws.us-east-2.s3", nil},
		{"a policy", func() error {
			_, err := b.iam.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &role, PolicyName: awssdk.String("by-hand"), PolicyDocument: awssdk.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`)})
			return err
		}, cloud.High, "policy by-hand was added", nil},
		{"an attached policy", func() error {
			out, err := b.iam.CreatePolicy(ctx, &iam.CreatePolicyInput{PolicyName: awssdk.String("wide"), PolicyDocument: awssdk.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)})
			require.NoError(t, err)
			_, err = b.iam.AttachRolePolicy(ctx, &iam.AttachRolePolicyInput{RoleName: &role, PolicyArn: out.Policy.Arn})
			return err
		}, cloud.High, "policy arn:aws:iam::123456789012:policy/wide was attached", nil},
		{"who may be a role", func() error {
			_, err := b.iam.UpdateAssumeRolePolicy(ctx, &iam.UpdateAssumeRolePolicyInput{RoleName: &role, PolicyDocument: awssdk.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::210987654321:root"},"Action":"sts:AssumeRole"}]}`)})
			return err
		}, cloud.High, "somebody else than planned may be it", nil},
		{"a boundary", func() error {
			_, err := b.iam.DeleteRolePermissionsBoundary(ctx, &iam.DeleteRolePermissionsBoundaryInput{RoleName: &role})
			return err
		}, cloud.High, "its permissions boundary was removed", nil},
		{"a rule of a network ACL", func() error {
			_, err := b.ec2.CreateNetworkAclEntry(ctx, &ec2.CreateNetworkAclEntryInput{
				NetworkAclId: awssdk.String(b.first("aws:ec2/networkAcl:NetworkAcl", p+"network-agents")), Egress: awssdk.Bool(true), RuleNumber: awssdk.Int32(50), RuleAction: types.RuleActionAllow, Protocol: awssdk.String("-1"), CidrBlock: awssdk.String("0.0.0.0/0"),
			})
			return err
		}, cloud.High, "rule 50: allow all out to 0.0.0.0/0 is not planned", nil},
		{"public addresses", func() error {
			_, err := b.ec2.ModifySubnetAttribute(ctx, &ec2.ModifySubnetAttributeInput{SubnetId: awssdk.String(b.subnet("agents")), MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: awssdk.Bool(true)}})
			return err
		}, cloud.Critical, "machines in it get public addresses", nil},
		{"a subnet", func() error {
			vpc := b.g.ByURN(b.urn(agents)).String("cidrBlock")
			base := vpc[:strings.LastIndexByte(vpc, '.')]
			_, err := b.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &agents, CidrBlock: awssdk.String(base[:strings.LastIndexByte(base, '.')] + ".15.240/28")})
			return err
		}, cloud.High, "a subnet (", nil},
		{"a machine with a role", func() error {
			_, err := b.iam.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: awssdk.String("by-hand")})
			require.NoError(t, err)
			_, err = b.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: awssdk.String("ami-12c6146b"), MinCount: awssdk.Int32(1), MaxCount: awssdk.Int32(1), SubnetId: awssdk.String(b.subnet("agents")),
				IamInstanceProfile: &types.IamInstanceProfileSpecification{Name: awssdk.String("by-hand")},
			})
			return err
		}, cloud.Critical, "has the instance profile", nil},
	} {
		t.Run(change.name, func(t *testing.T) { //nolint:paralleltest // one account, changed step by step
			for _, f := range before {
				if change.name != "the gateway itself" {
					require.NotContains(t, f.What, change.what, "too early")
				}
			}
			require.NoError(t, change.do())
			found, err := a.Drift(ctx, b.g)
			require.NoError(t, err)
			ok := false
			for _, f := range found {
				if strings.Contains(f.What, change.what) && f.Risk == change.risk {
					ok = true
					require.NotEmpty(t, f.Do)
				}
			}
			require.True(t, ok, "%+v", found)
			require.Equal(t, cloud.Critical, found[0].Risk, "the worst comes first")
			before = found
			if change.undone != nil {
				require.NoError(t, change.undone())
				found, err := a.Drift(ctx, b.g)
				require.NoError(t, err)
				for _, f := range found {
					require.NotContains(t, f.What, change.what)
				}
				before = found
			}
		})
	}
}

// What is taken away is found too.
func driftGone(t *testing.T, b *builder, a *aws.Account) {
	t.Helper()
	before, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	group := b.agentGroup()
	b.revokeAll(group)
	_, err = b.iam.DeleteRolePolicy(t.Context(), &iam.DeleteRolePolicyInput{RoleName: awssdk.String(b.anyRole()), PolicyName: awssdk.String(strings.Replace(b.anyRole(), "-1234567", "-7654321", 1))})
	require.NoError(t, err)
	found, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	var what []string
	for _, f := range found {
		if !slices.Contains(before, f) {
			require.Equal(t, cloud.Medium, f.Risk)
			what = append(what, f.What)
		}
	}
	require.Contains(t, strings.Join(what, "\n"), "is missing")
	require.Contains(t, strings.Join(what, "\n"), "policy ")
}

func TestDriftOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	_, g := planned(t, "prod-aws", "eu-north-1")
	a, err := aws.Open(t.Context(), account, "eu-north-1")
	require.NoError(t, err)
	_, err = a.Drift(t.Context(), g)
	require.ErrorContains(t, err, "the stack is not up there")
}

func TestAnotherAccountIsRefused(t *testing.T) {
	t.Parallel()
	_, err := aws.Open(t.Context(), "999999999999", "eu-west-1")
	require.ErrorContains(t, err, "the stack is in account 999999999999")
	require.ErrorContains(t, err, "of account "+account)
}

// moto knows neither policies nor quotas: what AWS says then is answered by hand.
func TestRefusalsAreExplained(t *testing.T) { //nolint:paralleltest // it changes the environment
	for code, want := range map[string]string{
		"UnauthorizedOperation": "give this identity the operators' policy",
		"RequestLimitExceeded":  "AWS still throttles us after 5 tries",
		"ExpiredTokenException": "the credentials have expired",
		"InvalidClientTokenId":  "AWS does not know these credentials",
		"SomethingElse":         "SomethingElse: said by the test",
	} {
		t.Run(code, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `<ErrorResponse><Error><Code>%s</Code><Message>said by the test</Message></Error></ErrorResponse>`, code)
			}))
			defer server.Close()
			t.Setenv("AWS_ENDPOINT_URL", server.URL)
			_, err := aws.Open(t.Context(), account, "eu-west-1")
			require.ErrorContains(t, err, want)
		})
	}
}

// urn is that of the resource with the live ID.
func (b *builder) urn(id string) string {
	for urn, live := range b.ids {
		if live == id {
			return urn
		}
	}
	return ""
}

func (b *builder) first(token, part string) string {
	for _, r := range b.g.OfType(token) {
		if strings.Contains(r.Name, part) {
			return b.ids[r.URN]
		}
	}
	require.Fail(b.t, "there is no "+token+" of "+part)
	return ""
}

func (b *builder) table(tier string) string {
	return b.first("aws:ec2/routeTable:RouteTable", "network-"+tier)
}

func (b *builder) subnet(tier string) string {
	return b.first("aws:ec2/subnet:Subnet", "network-"+tier)
}

func (b *builder) anyRole() string { return b.first("aws:iam/role:Role", "") }

// agentGroup is the security group of the first agent.
func (b *builder) agentGroup() string { return b.first("aws:ec2/securityGroup:SecurityGroup", "agent") }
