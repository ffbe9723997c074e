package guardrail

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

// TestShapes: what is written in another way is the same mistake, and what is not known is no good.
func TestShapes(t *testing.T) {
	t.Parallel()
	const role, policy = "aws:iam/role:Role", "aws:iam/policy:Policy"
	secret := map[string]any{graph.SecretKey: graph.SecretMark}
	allow := func(rest string) map[string]any {
		return map[string]any{"policy": `{"Statement":{"Effect":"Allow",` + rest + `}}`}
	}
	const fails, unknown, holds = "fails", "indeterminate", ""
	const everybody = `"Principal":"*","Action":"s3:*","Resource":"*",`
	const onlyTLS = `"Condition":{"Bool":{"aws:SecureTransport":"true"}}`
	managed := func(arn string) map[string]any { return map[string]any{"managedPolicyArns": []any{arn}} }
	inline := func(rest string) map[string]any { return map[string]any{"inlinePolicies": []any{allow(rest)}} }
	for _, c := range []struct {
		rail, token string
		inputs      map[string]any
		want        string
	}{
		{"IAM-02", role, managed("arn:aws:iam::aws:policy/AdministratorAccess"), fails},
		{"IAM-02", role, managed("arn:aws-cn:iam::aws:policy/AdministratorAccess"), fails},
		{"IAM-02", role, map[string]any{"managedPolicyArns": graph.Unknown}, unknown},
		{"IAM-02", role, inline(`"Action":"s3:*","Resource":"*"`), fails},
		{"IAM-02", role, map[string]any{"inlinePolicies": []any{map[string]any{"policy": graph.Unknown}}}, unknown},
		{"IAM-02", role, map[string]any{"inlinePolicies": []any{map[string]any{"policy": secret}}}, unknown},
		{"IAM-02", role, inline(`"Action":"s3:GetObject","Resource":"arn:aws:s3:::b/k"`), holds},
		{
			"IAM-02", "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
			map[string]any{"policyArn": "arn:aws-us-gov:iam::aws:policy/AdministratorAccess"},
			fails,
		},
		{"IAM-02", policy, allow(`"Action":"s3:**","Resource":"arn:aws:s3:::b/k"`), fails},
		{"IAM-02", policy, allow(`"Action":"s3:?*","Resource":"arn:aws:s3:::b/k"`), fails},
		{"IAM-02", policy, allow(`"Action":"iam:PassRole","Resource":"arn:aws:iam::123456789012:*"`), fails},
		{"IAM-02", policy, allow(`"Action":"iam:PassRole","Resource":"arn:*"`), fails},
		{"IAM-02", policy, allow(`"Action":"iam:PassRole","NotResource":"arn:aws:iam::123456789012:role/x"`), fails},
		{"IAM-02", policy, allow(`"Action":"iam:PassRole","Resource":"arn:aws:iam::123456789012:role/x"`), holds},
		{"IAM-04", role, map[string]any{"inlinePolicies": []any{
			allow(`"Action":"secretsmanager:GetSecretValue","Resource":"*"`),
		}}, fails},
		{"IAM-09", "aws:s3/bucketPolicy:BucketPolicy", allow(everybody + onlyTLS), fails},
		{
			"IAM-09", "aws:s3/bucketPolicy:BucketPolicy",
			allow(everybody + `"Condition":{"StringLike":{"aws:PrincipalAccount":"*"}}`), fails,
		},
		{
			"IAM-09", "aws:s3/bucketPolicy:BucketPolicy",
			allow(everybody + `"Condition":{"StringEquals":{"aws:PrincipalAccount":"${aws:PrincipalAccount}"}}`), fails,
		},
		{
			"IAM-09", "aws:s3/bucketPolicy:BucketPolicy",
			allow(everybody + `"Condition":{"StringEquals":{"aws:PrincipalAccount":"123456789012"}}`), holds,
		},
		{"SEC-03", "aws:ec2/instance:Instance", map[string]any{"userData": secret}, unknown},
		{"SEC-03", "aws:ec2/instance:Instance", map[string]any{"userData": graph.Unknown}, unknown},
		{"SEC-03", "aws:lambda/function:Function", map[string]any{"environment": map[string]any{
			"variables": map[string]any{"KEY": secret},
		}}, unknown},
		{"CMP-06", "aws:ec2/launchTemplate:LaunchTemplate", map[string]any{"blockDeviceMappings": []any{
			map[string]any{"ebs": map[string]any{"encrypted": "true"}},
			map[string]any{"ebs": map[string]any{"volumeSize": 8.0}},
		}}, fails},
		{"IMD-02", "aws:ec2/instance:Instance", map[string]any{"metadataOptions": "none"}, unknown},
		{
			"NET-24", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
			map[string]any{"securityGroupId": "sg-1", "cidrIpv4": "64.0.0.0/2"},
			fails,
		},
		{
			"NET-24", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
			map[string]any{"securityGroupId": "sg-1", "cidrIpv6": "2000::/3"},
			fails,
		},
		{
			"NET-24", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
			map[string]any{"securityGroupId": "sg-1", "cidrIpv4": secret},
			unknown,
		},
		{
			"NET-24", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
			map[string]any{"securityGroupId": "sg-1", "cidrIpv4": "10.0.0.0/8"},
			holds,
		},
	} {
		report := Check(declared(t, map[string]map[string]any{c.token + " x": c.inputs}), Options{Production: true})
		got := ""
		for _, f := range report.Findings {
			if f.Rail == c.rail && got != fails {
				got = f.Verdict
			}
		}
		require.Equal(t, c.want, got, "%s %v", c.rail, c.inputs)
	}
}

// TestEverywhere: what is private is not counted, and what only begins like it is.
func TestEverywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefixes []string
		want     bool
	}{
		{[]string{"0.0.0.0/0"}, true},
		{[]string{"::/0"}, true},
		{[]string{""}, true},
		{[]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}, false},
		{[]string{"10.0.0.0/7"}, true},
		{[]string{"172.16.0.0/7"}, true},
		{[]string{"192.168.0.0/7"}, true},
		{[]string{"8.0.0.0/8"}, false},
		{[]string{"8.0.0.0/8", "9.0.0.0/8"}, true},
		{[]string{"8.0.0.0/8", "8.0.0.0/9", "8.8.0.0/16"}, false},
		{[]string{"8.0.0.0/8", "3.0.0.0/9", "3.128.0.0/9"}, true},
		{[]string{"2000::/16", "2600::/16"}, true},
		{[]string{"2000::/16", "nonsense"}, false},
		{nil, false},
	} {
		require.Equal(t, c.want, everywhere(c.prefixes...), "%v", c.prefixes)
	}
}

// TestACLsThatNameTheirSubnets: they are the agents' too, and a direction that is not known is none
// that is let be.
func TestACLsThatNameTheirSubnets(t *testing.T) {
	t.Parallel()
	urn := func(token string) []string { return []string{"urn:pulumi:prod::web::" + token + "::x"} }
	const subnet, acl = "aws:ec2/subnet:Subnet", "aws:ec2/networkAcl:NetworkAcl"
	const machine, rule = "aws:ec2/instance:Instance", "aws:ec2/networkAclRule:NetworkAclRule"
	g := declared(t, map[string]map[string]any{
		subnet + " x": {}, acl + " x": {"egress": graph.Unknown},
		rule + " x":    {"egress": graph.Unknown, "protocol": "tcp"},
		machine + " x": {"tags": map[string]any{graph.TagRole: "agents"}},
	})
	for token, refers := range map[string]map[string][]string{
		acl: {"subnetIds": urn(subnet)}, machine: {"subnetId": urn(subnet)}, rule: {"networkAclId": urn(acl)},
	} {
		g.ByURN(urn(token)[0]).PropertyDependencies = refers
	}
	got := slices.DeleteFunc(found(Check(g, Options{Production: true})), func(line string) bool {
		return !strings.HasPrefix(line, "NET-21 ")
	})
	require.Equal(t, []string{"NET-21 x fails error", "NET-21 x indeterminate error"}, got)
}

// TestWaiverOfOne: a waiver by a name that two resources have is for none.
func TestWaiverOfOne(t *testing.T) {
	t.Parallel()
	const instance, nic = "aws:ec2/instance:Instance", "aws:ec2/networkInterface:NetworkInterface"
	g := declared(t, map[string]map[string]any{
		instance + " main": {"sourceDestCheck": false, "metadataOptions": map[string]any{"httpTokens": "required"}},
		nic + " main":      {"sourceDestCheck": false},
	})
	check := func(resource string) []string {
		report := Check(g, Options{Today: "2026-12-01", Waivers: []Waiver{
			{"CMP-04", resource, "ops", "a trial", "2027-01-01", "stacks/prod.yaml:7:5"},
		}})
		return slices.DeleteFunc(found(report), func(line string) bool { return !strings.HasPrefix(line, "CMP-04 ") })
	}
	require.Equal(t, []string{"CMP-04 main fails error", "CMP-04 main fails error"}, check("main"))
	require.Equal(t, []string{"CMP-04 main fails error waived", "CMP-04 main fails error"},
		check("urn:pulumi:prod::web::"+instance+"::main"))
}

// TestFindingsAreVisible: a value of a resource makes no line of ours, and no terminal acts on one.
func TestFindingsAreVisible(t *testing.T) {
	t.Parallel()
	const evil = "x\x1b[1A\x1b[2K\nguardrails: nothing found\u009b\u202e"
	r := &Report{Stack: "s", Findings: []Finding{{
		Rail: "CMP-01", Severity: Error, Verdict: Fails, Name: evil, Property: evil, What: evil, Fix: "look",
		Waiver: &Waiver{Owner: evil, Reason: evil, At: evil, Expires: "2030-01-01"},
	}, {Rail: "CMP-01", Severity: Error, Verdict: Indeterminate, What: evil}}}
	var people, sarif strings.Builder
	require.NoError(t, r.Print(&people))
	require.NoError(t, r.SARIF(&sarif, "state.json", nil))
	require.Len(t, strings.Split(people.String(), "\n"), 6)
	for _, text := range []string{people.String(), sarif.String(), (&BrokenError{r}).Error()} {
		require.NotContains(t, text, "\x1b")
		require.NotContains(t, text, "\u009b")
		require.NotContains(t, text, "\nguardrails: nothing found")
	}
}
