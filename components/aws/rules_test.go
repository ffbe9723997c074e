package aws

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/tests/golden"
)

const (
	tokenRoute   = "aws:ec2/route:Route"
	tokenACLRule = "aws:ec2/networkAclRule:NetworkAclRule"
)

// TestRulesAreTheReviewedOnes: what people have reviewed in testdata/rules is every route,
// every rule of a network ACL in its order, and every rule of a group that a stack has.
func TestRulesAreTheReviewedOnes(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		file := filepath.Join("testdata", "rules", filepath.Base(t.Name())+".txt")
		got := strings.Join(g.rules(), "\n") + "\n"
		if *golden.Update {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
			return
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got, "go test -update, and then read the difference")
	})
}

// rules are the lines of testdata/rules.
func (g *declarations) rules() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	name := func(id string) string { return strings.TrimPrefix(id[strings.LastIndexByte(id, '|')+1:], "prod-") }
	ports := func(r *declaredResource) string {
		from, to := r.number("fromPort"), r.number("toPort")
		if from == to {
			return fmt.Sprint(from)
		}
		return fmt.Sprintf("%d-%d", from, to)
	}
	for _, r := range g.of(tokenSubnet) {
		say("subnet %s is %s", name(r.id()), r.text("cidrBlock"))
	}
	for _, r := range g.of(tokenAssociation) {
		say("subnet %s has table %s", name(r.text("subnetId")), name(r.text("routeTableId")))
	}
	for _, r := range g.of("aws:ec2/networkAclAssociation:NetworkAclAssociation") {
		say("subnet %s has acl %s", name(r.text("subnetId")), name(r.text("networkAclId")))
	}
	for _, r := range g.of(tokenRoute) {
		say("table %s leads %s to %s", name(r.text("routeTableId")), r.text("destinationCidrBlock"), name(r.text("gatewayId")+r.text("natGatewayId")))
	}
	for _, r := range g.of("aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation") {
		say("table %s leads to endpoint %s", name(r.text("routeTableId")), name(r.text("vpcEndpointId")))
	}
	for _, r := range g.inOrder() {
		direction := map[bool]string{true: "out", false: "in"}[r.inputs["egress"].BoolValue()]
		say("acl %s %s %d: %s %s %s %s", name(r.text("networkAclId")), direction, r.number("ruleNumber"), r.text("ruleAction"), r.text("protocol"), r.text("cidrBlock"), ports(r))
	}
	var groups []string
	for _, r := range append(g.of(tokenEgress), g.of(tokenIngress)...) {
		word := map[string]string{tokenEgress: "reaches", tokenIngress: "takes"}[r.token]
		whom := r.text("cidrIpv4")
		if id := r.text("referencedSecurityGroupId"); id != "" {
			whom = name(id)
		}
		groups = append(groups, fmt.Sprintf("group %s %s %s: %s %s", name(r.text("securityGroupId")), word, whom, r.text("ipProtocol"), ports(r)))
	}
	slices.Sort(groups)
	return append(out, groups...)
}

// inOrder are the rules of all network ACLs, in the order in which they are asked.
func (g *declarations) inOrder() []*declaredResource {
	all := g.of(tokenACLRule)
	slices.SortFunc(all, func(a, b *declaredResource) int {
		return cmp.Or(strings.Compare(a.text("networkAclId"), b.text("networkAclId")),
			strings.Compare(a.inputs["egress"].String(), b.inputs["egress"].String()), cmp.Compare(a.number("ruleNumber"), b.number("ruleNumber")))
	})
	return all
}

// TestWhoHasAWayOut: the subnets with a route to the internet are those of the NAT
// gateways, of the proxies, and of a control plane that mints or reads elsewhere.
func TestWhoHasAWayOut(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		var want, got []string
		for _, zone := range args.AWS.Zones {
			letter := zone[len(zone)-1:]
			want = append(want, "public-"+letter, "proxies-"+letter)
			if args.controlGoesOut() {
				want = append(want, "control-"+letter)
			}
		}
		for _, r := range g.of(tokenRoute) {
			require.Equal(t, "0.0.0.0/0", r.text("destinationCidrBlock"))
			got = append(got, strings.TrimPrefix(r.text("routeTableId"), tokenTable+"|prod-network-"))
		}
		require.ElementsMatch(t, want, got)
	})
}

// TestSharedHalvesStayApart: in one VPC, what the gates' rules do not name is refused both
// ways before anything is allowed from and to everywhere.
func TestSharedHalvesStayApart(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, egress := range []bool{true, false} {
			var order []string
			for _, r := range g.inOrder() {
				if !strings.HasSuffix(r.text("networkAclId"), "-network-egress") || r.inputs["egress"].BoolValue() != egress {
					continue
				}
				switch cidr := r.text("cidrBlock"); {
				case cidr == "0.0.0.0/0":
					order = append(order, "everywhere")
				case r.text("ruleAction") == "deny":
					require.Equal(t, args.AWS.AgentsCIDR.String(), cidr)
					require.Equal(t, "-1", r.text("protocol"))
					order = append(order, "apart")
				case cidr == args.AWS.EgressCIDR.String() || strings.HasSuffix(cidr, "/32"):
				default:
					order = append(order, "gate")
				}
			}
			want := []string{"everywhere"}
			if args.AWS.Mode == cloud.ModeShared {
				want = []string{"gate", "apart", "everywhere"}
			}
			require.Equal(t, want, slices.Compact(order), "egress: %v", egress)
		}
	})
}

// TestBucketsAreNobodys: every bucket refuses every way to be public.
func TestBucketsAreNobodys(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		closed := map[string]bool{}
		for _, r := range g.of("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock") {
			closed[r.text("bucket")] = true
			for _, way := range []resource.PropertyKey{"blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"} {
				require.True(t, r.inputs[way].BoolValue(), "%s of %s", way, r.name)
			}
		}
		for _, r := range g.of("aws:s3/bucketV2:BucketV2") {
			require.True(t, closed[r.id()], r.name)
		}
	})
}
