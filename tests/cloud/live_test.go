package cloud_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
)

// prove runs the command against moto, and what stands in front of it.
func (l *lacking) prove(args ...string) (report *proof.Report, errs string, status int) {
	l.b.t.Helper()
	file, err := postern()
	require.NoError(l.b.t, err)
	cmd := exec.CommandContext(l.b.t.Context(), file, append([]string{"prove", "--live", "--json"}, args...)...)
	cmd.Env = append(
		os.Environ(), "POSTERN_HOME="+l.b.t.TempDir(), "AWS_ENDPOINT_URL="+l.url,
		"AWS_REGION="+l.b.ec2.Options().Region,
	)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	_ = cmd.Run() // the status says it
	if out.Len() > 0 {
		report, err = proof.Decode(out.Bytes())
		require.NoError(l.b.t, err)
	}
	return report, said.String(), cmd.ProcessState.ExitCode()
}

var (
	labelled = regexp.MustCompile(`\S+ \(([^)]+)\)`)
	revision = regexp.MustCompile(`arn:aws:ecs:\S+/(\S+):1 `)
)

// results are the verdicts by their assertions, with the plan's names for what has both.
func (b *builder) results(p *reach.Proof) []string {
	var out []string
	for _, v := range p.Verdicts {
		says := labelled.ReplaceAllString(v.Assertion, "$1")
		says = strings.ReplaceAll(says, "-machine:1 ", "-machine ") // the template
		says = strings.ReplaceAll(says, "secret "+b.stack.Name+"-secrets-", "secret ")
		out = append(out, revision.ReplaceAllString(says, "$1 ")+": "+string(v.Result))
	}
	slices.Sort(out)
	return out
}

const wide = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}`

const asPlanned = "every control of the plan refuses what it refuses there"

// proveLive proves what was built, as it is, and after each thing that somebody could do by hand.
func (b *builder) proveLive(isolated bool) {
	t, ctx, l := b.t, b.ctx, newLacking(b)
	file := filepath.Join(t.TempDir(), "plan.json")
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, b.g.Encode(f))
	require.NoError(t, f.Close())
	want, err := proof.Of(b.stack, b.g, nil)
	require.NoError(t, err)
	live := func() (*proof.Report, int) {
		report, errs, status := l.prove("--file", b.stack.Path, "--graph", file)
		require.NotNil(t, report, errs)
		require.True(t, report.Live)
		return report, status
	}
	report, status := live()
	require.Empty(t, report.Network.Unknown)
	planned := append(b.results(want.Network), asPlanned+": holds")
	slices.Sort(planned)
	require.Equal(t, planned, b.results(report.Network))
	require.Equal(t, 0, status)

	group, table, vpc := b.agentGroup(), b.table("agents"), b.first(
		"aws:ec2/vpc:Vpc", map[bool]string{true: "network-agents"}[isolated],
	)
	store := b.first("aws:ec2/vpcEndpoint:VpcEndpoint", "endpoints-s3")
	policy, _ := b.g.ByURN(b.urn(store)).Value("policy").(string)
	setPolicy := func(text string) error {
		_, err := b.ec2.ModifyVpcEndpoint(
			ctx, &ec2.ModifyVpcEndpointInput{VpcEndpointId: &store, PolicyDocument: &text},
		)
		return err
	}
	anywhere := []ec2types.IpPermission{
		{IpProtocol: awssdk.String("-1"), IpRanges: []ec2types.IpRange{{CidrIp: awssdk.String("0.0.0.0/0")}}},
	}
	open := func() error {
		_, err := b.ec2.AuthorizeSecurityGroupEgress(
			ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &group, IpPermissions: anywhere},
		)
		return err
	}
	revoke := func() error {
		_, err := b.ec2.RevokeSecurityGroupEgress(
			ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: &group, IpPermissions: anywhere},
		)
		return err
	}
	route := func(to ec2.CreateRouteInput) error {
		to.RouteTableId, to.DestinationCidrBlock = &table, awssdk.String("0.0.0.0/0")
		_, err := b.ec2.CreateRoute(ctx, &to)
		return err
	}
	unroute := func() error {
		_, err := b.ec2.DeleteRoute(
			ctx, &ec2.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: awssdk.String("0.0.0.0/0")},
		)
		return err
	}
	acl := b.first("aws:ec2/networkAcl:NetworkAcl", "network-agents")
	dns := asPlanned
	if !isolated {
		dns = "DNS: never"
	}
	for _, c := range []struct {
		name string
		// says is the assertion that fails, and ids are on its witness or in its note.
		says     string
		ids      []string
		do, undo func() error
	}{
		{"a rule that lets everything out", asPlanned, []string{group}, open, revoke},
		{"a route to an internet gateway", asPlanned, []string{table}, func() error {
			out, err := b.ec2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
			require.NoError(t, err)
			id := out.InternetGateway.InternetGatewayId
			_, err = b.ec2.AttachInternetGateway(
				ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: id, VpcId: &vpc},
			)
			require.NoError(t, err)
			return route(ec2.CreateRouteInput{GatewayId: id})
		}, unroute},
		{
			"no DNS firewall", dns, map[bool][]string{true: {vpc}}[isolated], func() error {
				l.set(func() { l.off = true })
				return nil
			}, func() error { l.set(func() { l.off = false }); return nil },
		},
		{
			"no policy of an endpoint", asPlanned, []string{store}, func() error {
				return setPolicy(wide)
			}, func() error { return setPolicy(policy) },
		},
		{
			"a way to another network", "the internet or another network: never",
			[]string{group, acl, table},
			func() error {
				_, err := b.ec2.CreateNetworkAclEntry(ctx, &ec2.CreateNetworkAclEntryInput{
					NetworkAclId: &acl, Egress: awssdk.Bool(true), RuleNumber: awssdk.Int32(50),
					RuleAction: ec2types.RuleActionAllow, Protocol: awssdk.String("-1"),
					CidrBlock: awssdk.String("0.0.0.0/0"),
				})
				require.NoError(t, err)
				other, err := b.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: awssdk.String("10.99.0.0/16")})
				require.NoError(t, err)
				peering, err := b.ec2.CreateVpcPeeringConnection(
					ctx, &ec2.CreateVpcPeeringConnectionInput{VpcId: &vpc, PeerVpcId: other.Vpc.VpcId},
				)
				require.NoError(t, err)
				require.NoError(t, open())
				return route(
					ec2.CreateRouteInput{VpcPeeringConnectionId: peering.VpcPeeringConnection.VpcPeeringConnectionId},
				)
			}, func() error {
				_, err := b.ec2.DeleteNetworkAclEntry(
					ctx, &ec2.DeleteNetworkAclEntryInput{
						NetworkAclId: &acl, Egress: awssdk.Bool(true), RuleNumber: awssdk.Int32(50),
					},
				)
				require.NoError(t, err)
				require.NoError(t, revoke())
				return unroute()
			},
		},
	} {
		require.NoError(t, c.do(), c.name)
		report, status := live()
		require.Equal(t, 6, status, c.name)
		i := slices.IndexFunc(
			report.Network.Verdicts, func(v reach.Verdict) bool {
				return v.Result == reach.Fails && strings.HasSuffix(v.Assertion, c.says)
			},
		)
		require.GreaterOrEqual(t, i, 0, "%s: %+v", c.name, report.Network.Verdicts)
		for _, id := range c.ids {
			require.Contains(t, fmt.Sprint(report.Network.Verdicts[i]), id, c.name)
		}
		require.NoError(t, c.undo(), c.name)
	}
	_, status = live()
	require.Equal(t, 0, status, "all of it is undone")
	b.proveUnknown(l, isolated, vpc)
	if !isolated {
		b.proveRefused(l)
	}
}

// TestProveLiveEnds: AWS does not answer, the command says what it does, and Ctrl-C ends it.
func TestProveLiveEnds(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 9)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "GetCallerIdentity") {
			fmt.Fprint(
				w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::`+account+
					`:user/x</Arn><Account>`+account+`</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`,
			)
			return
		}
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	file, err := postern()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), file, "prove", "--live", "--vpc", "vpc-0123456789abcdef0")
	cmd.Env = append(
		os.Environ(), "POSTERN_HOME="+t.TempDir(), "AWS_ENDPOINT_URL="+server.URL, "AWS_REGION=eu-west-1",
	)
	var out bytes.Buffer
	cmd.Stdout = &out
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	<-asked
	lines := bufio.NewReader(said)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "reading what exists, and trying every mistake ...")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), "%s", rest)
	require.Empty(t, out.String(), "nothing is proved")
}

// proveUnknown adds by hand what the proof does not know: it says so, with the ID.
func (b *builder) proveUnknown(l *lacking, isolated bool, vpc string) {
	t, ctx := b.t, b.ctx
	if !isolated {
		// Somebody's own network: no stack file is read.
		report, errs, status := l.prove("--vpc", vpc)
		require.Equal(t, 0, status, errs)
		require.Equal(t, vpc, report.Stack)
		require.Empty(t, report.Policy)
		report, errs, status = l.prove("--vpc", "vpc-00000000000000000")
		require.Equal(t, 1, status, "%+v", report)
		require.Contains(t, errs, "InvalidVpcID.NotFound")
		return
	}
	var ids []string
	var report *proof.Report
	named := func() {
		for _, id := range ids {
			require.True(
				t, slices.ContainsFunc(
					report.Network.Unknown, func(u reach.Unknown) bool { return strings.Contains(u.Resource, id) },
				), "%s: %+v", id, report.Network.Unknown,
			)
		}
	}
	l.set(func() { l.connected = "210987654321" })
	ids = append(ids, "vpce-con-0123456789abcdef0", "rpassoc-0123456789abcdef0")
	target := b.first("aws:lb/targetGroup:TargetGroup", "")
	_, err := b.elb.RegisterTargets(
		ctx, &elb.RegisterTargetsInput{
			TargetGroupArn: &target, Targets: []elbtypes.TargetDescription{{Id: awssdk.String("10.80.1.77")}},
		},
	)
	require.NoError(t, err)
	ids = append(ids, "10.80.1.77 in targetgroup/")
	transit, err := b.ec2.CreateTransitGateway(ctx, &ec2.CreateTransitGatewayInput{})
	require.NoError(t, err)
	attached, err := b.ec2.CreateTransitGatewayVpcAttachment(
		ctx, &ec2.CreateTransitGatewayVpcAttachmentInput{
			TransitGatewayId: transit.TransitGateway.TransitGatewayId, VpcId: &vpc,
			SubnetIds: []string{b.subnet("agents")},
		},
	)
	require.NoError(t, err)
	ids = append(ids, *attached.TransitGatewayVpcAttachment.TransitGatewayAttachmentId)
	var errs string
	var status int
	report, errs, status = l.prove("--file", b.stack.Path)
	require.Equal(t, 7, status, errs)
	require.Contains(t, errs, "this machine has not brought the stack up")
	named()

	// A load balancer that the proxies reach, and a machine of somebody's among the agents, with a
	// role and a rule for a list of networks.
	subnets := []string{b.subnet("proxies"), b.subnet("control")}
	lb, err := b.elb.CreateLoadBalancer(
		ctx, &elb.CreateLoadBalancerInput{Name: awssdk.String("by-hand"), Subnets: subnets},
	)
	require.NoError(t, err)
	forward := []elbtypes.Action{
		{
			Type: elbtypes.ActionTypeEnumFixedResponse, FixedResponseConfig: &elbtypes.FixedResponseActionConfig{
				StatusCode: awssdk.String("404"),
			},
		},
	}
	listener, err := b.elb.CreateListener(
		ctx, &elb.CreateListenerInput{
			LoadBalancerArn: lb.LoadBalancers[0].LoadBalancerArn, Port: awssdk.Int32(80),
			Protocol: elbtypes.ProtocolEnumHttp, DefaultActions: forward,
		},
	)
	require.NoError(t, err)
	rule, err := b.elb.CreateRule(
		ctx, &elb.CreateRuleInput{
			ListenerArn: listener.Listeners[0].ListenerArn, Priority: awssdk.Int32(1), Actions: forward,
			Conditions: []elbtypes.RuleCondition{{Field: awssdk.String("path-pattern"), Values: []string{"/x"}}},
		},
	)
	require.NoError(t, err)
	ids = append(ids, *listener.Listeners[0].ListenerArn, *rule.Rules[0].RuleArn)
	_, err = b.iam.CreateInstanceProfile(
		ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: awssdk.String("live-by-hand")},
	)
	require.NoError(t, err)
	role := b.anyRole()
	_, err = b.iam.AddRoleToInstanceProfile(
		ctx, &iam.AddRoleToInstanceProfileInput{InstanceProfileName: awssdk.String("live-by-hand"), RoleName: &role},
	)
	require.NoError(t, err)
	run, err := b.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: awssdk.String("ami-12c6146b"), MinCount: awssdk.Int32(1), MaxCount: awssdk.Int32(1),
		SubnetId: awssdk.String(b.subnet("agents")), SecurityGroupIds: []string{b.agentGroup()},
		IamInstanceProfile: &ec2types.IamInstanceProfileSpecification{Name: awssdk.String("live-by-hand")},
		TagSpecifications: []ec2types.TagSpecification{
			{
				ResourceType: ec2types.ResourceTypeInstance, Tags: []ec2types.Tag{
					{Key: awssdk.String(graph.TagRole), Value: awssdk.String("agents")},
				},
			},
		},
	})
	require.NoError(t, err)
	list, err := b.ec2.CreateManagedPrefixList(ctx, &ec2.CreateManagedPrefixListInput{
		PrefixListName: awssdk.String("somewhere"), AddressFamily: awssdk.String("IPv4"), MaxEntries: awssdk.Int32(2),
		Entries: []ec2types.AddPrefixListEntry{
			{Cidr: awssdk.String("10.64.0.0/20")}, {Cidr: awssdk.String("192.0.2.0/24")},
		},
	})
	require.NoError(t, err)
	group := b.agentGroup()
	_,
		err = b.ec2.AuthorizeSecurityGroupEgress(ctx,
		&ec2.AuthorizeSecurityGroupEgressInput{GroupId: &group, IpPermissions: []ec2types.IpPermission{{
			IpProtocol: awssdk.String("tcp"), FromPort: awssdk.Int32(22), ToPort: awssdk.Int32(22),
			PrefixListIds: []ec2types.PrefixListId{{PrefixListId: list.PrefixList.PrefixListId}},
		}}})
	require.NoError(t, err)
	report, errs, status = l.prove("--file", b.stack.Path)
	require.Equal(t, 6, status, "%s\n%+v\n%+v", errs, report.Network.Unknown, report.Network.Verdicts)
	named()
	machine := *run.Instances[0].InstanceId
	require.True(t, slices.ContainsFunc(report.Network.Verdicts, func(v reach.Verdict) bool {
		return v.Assertion == machine+" -> credentials of the metadata service: never" && v.Result == reach.Fails
	}), "%+v", report.Network.Verdicts)
	l.onlyDocumented()
}

// proveRefused refuses one action after the other: none of them is done without.
func (b *builder) proveRefused(l *lacking) {
	t := b.t
	l.set(func() { l.kept = map[string]*httptest.ResponseRecorder{} })
	for _, action := range slices.Sorted(maps.Keys(l.asked)) {
		l.set(func() { l.refuse = action })
		report, errs, status := l.prove("--file", b.stack.Path)
		switch {
		case action == "sts:GetCallerIdentity", action == "ec2:DescribeVpcs": // without these nothing is known
			require.Equal(t, 1, status, action)
		case strings.HasPrefix(action, "iam:") && action != "iam:ListRoles": // some role may do anything
			require.Equal(t, 7, status, "%s: %s", action, errs)
			said := fmt.Sprint(report.Network.Verdicts, report.Network.Unknown)
			require.True(
				t, strings.Contains(said, "may perhaps") || strings.Contains(said, action), "%s: %s", action, said,
			)
		default:
			require.Equal(t, 7, status, "%s: %s", action, errs)
			require.Contains(t, fmt.Sprint(report.Network.Unknown), action)
			for _, v := range report.Network.Verdicts {
				require.NotEqual(t, reach.Fails, v.Result, "%s: what is missing may refuse it", action)
			}
		}
	}
}

// onlyDocumented requires that everything that was asked is in the documented policy, and that
// operators may ask it.
func (l *lacking) onlyDocumented() {
	t := l.b.t
	operators, err := os.ReadFile(
		filepath.Join("..", "..", "components", "aws", "document", "testdata", "operators.json"),
	)
	require.NoError(t, err)
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "prove.md"))
	require.NoError(t, err)
	delete(l.asked, "sts:GetCallerIdentity") // needs no permission
	require.Greater(t, len(l.asked), 35)
	for action := range l.asked {
		require.Contains(t, string(doc), `"`+action+`"`)
		require.Contains(t, string(operators), `"`+action+`"`)
	}
}
