package guardrail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/golden"
)

// declared returns a graph of resources that are written as TYPE NAME, with inputs.
func declared(t *testing.T, resources map[string]map[string]any) *graph.Graph {
	t.Helper()
	g := &graph.Graph{Format: graph.Format, Stack: "prod"}
	for what, inputs := range resources {
		token, name, _ := strings.Cut(what, " ")
		g.Resources = append(g.Resources, graph.Resource{
			URN: "urn:pulumi:prod::web::" + token + "::" + name, Type: token, Name: name, Custom: true, Inputs: inputs,
		})
	}
	require.NoError(t, g.Complete())
	return g
}

// found returns the findings as "RAIL NAME VERDICT SEVERITY".
func found(report *Report) []string {
	var out []string
	for _, f := range report.Findings {
		line := strings.Join([]string{f.Rail, f.Name, f.Verdict, string(f.Severity)}, " ")
		if f.Waiver != nil {
			line += " waived"
		}
		out = append(out, line)
	}
	return out
}

const nodeToken, bundleToken = "postern:local:Node", "postern:local:Bundle"

func node(separate any) map[string]any {
	const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	return map[string]any{
		"posternd": "/opt/postern/posternd", "digest": digest, "envoy": "/opt/postern/envoy", "envoyDigest": digest,
		"separate": separate,
	}
}

func TestRailsAreWhole(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{TypeRail: true, WaiverRail: true}
	for _, r := range Rails {
		require.False(t, seen[r.ID], "%s is there twice", r.ID)
		seen[r.ID] = true
		require.True(t, strings.HasSuffix(r.Says, ".") && r.Fix != "" && !strings.HasSuffix(r.Fix, "."), r.ID)
		require.Contains(t, []Severity{Error, Warning}, r.Severity)
		require.True(t, r.Needs != nil || r.Each != nil || r.Whole != nil || r.Rule != nil, r.ID)
		for _, other := range slices.Concat(r.Others, r.Against) {
			require.Regexp(t, `^CKV2?_AWS_[0-9]+$|^[a-z0-9_]+$`, other)
		}
	}
}

func TestWhatIsNotKnownFailsInProduction(t *testing.T) {
	t.Parallel()
	g := declared(t, map[string]map[string]any{nodeToken + " n1": node(graph.Unknown), nodeToken + " n2": node(false)})
	report := Check(g, Options{Production: true})
	require.Equal(t, []string{"LOC-01 n1 indeterminate error", "LOC-01 n2 fails error"}, found(report))
	require.Empty(t, found(Check(declared(t, map[string]map[string]any{nodeToken + " n": node(true)}), Options{})))

	// What exists already may be in any way that the program does not say.
	g = declared(t, map[string]map[string]any{"aws:ec2/subnet:Subnet s": {}})
	require.Empty(t, found(Check(g, Options{Production: true})))
	g.Resources[0].External = true
	require.Equal(t, []string{"NET-04 s indeterminate error"}, found(Check(g, Options{Production: true})))

	secret := map[string]any{graph.SecretKey: graph.SecretMark}
	g = declared(t, map[string]map[string]any{
		"aws:ec2/launchTemplate:LaunchTemplate a": {"metadataOptions": graph.Unknown},
		"aws:ec2/launchTemplate:LaunchTemplate b": {"metadataOptions": map[string]any{"httpTokens": secret}},
	})
	only := func(report *Report) []string {
		return slices.DeleteFunc(found(report), func(line string) bool { return !strings.HasPrefix(line, "IMD-01") })
	}
	require.Equal(t, []string{"IMD-01 a indeterminate error", "IMD-01 b indeterminate error"},
		only(Check(g, Options{Production: true})))
	require.Equal(t, []string{"IMD-01 a indeterminate warning", "IMD-01 b indeterminate warning"},
		only(Check(g, Options{})))
}

func TestEgressPlan(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindBearer}, {Name: "signs", Kind: plan.KindAWSSigV4}},
		Agents: []plan.Agent{{Name: "coder", Rules: []plan.Rule{
			{ID: "coder/ours", Host: "*.example.test"},
			{ID: "coder/buckets", Host: "*.s3.amazonaws.com"},
			{ID: "coder/with-reason", Host: "*.s3.amazonaws.com", Reason: "build artefacts"},
			{ID: "coder/signed", Host: "*.s3.amazonaws.com", Reason: "build artefacts", Credential: "signs"},
			{ID: "coder/with-key", Host: "*.s3.amazonaws.com", Reason: "build artefacts", Credential: "key"},
			{ID: "coder/registry", Host: "*.co.uk", Reason: "why not"},
			{ID: "coder/denied", Host: "*.s3.amazonaws.com", Deny: true},
			{ID: "coder/own", Host: "api.example.test", OwnCredentials: true},
			{ID: "coder/metadata", Host: "m.test", Upstream: &plan.Upstream{Address: "169.254.169.254:80"}},
			{ID: "coder/plain", Host: "p.test", Upstream: &plan.Upstream{Address: "10.0.0.1:80", Plain: true}},
			{ID: "coder/here", Host: "h.test", Upstream: &plan.Upstream{Address: "127.0.0.1:80", Plain: true}},
			{ID: "coder/here6", Host: "h.test", Upstream: &plan.Upstream{Address: "[::1]:80", Plain: true}},
			{ID: "coder/socket", Host: "s.test", Upstream: &plan.Upstream{Address: "unix:/run/s", Plain: true}},
			{ID: "coder/tls", Host: "t.test", Upstream: &plan.Upstream{Address: "10.0.0.1:443"}},
			{
				ID: "coder/old", Host: "o.test", Reason: "ends in May",
				Upstream: &plan.Upstream{Address: "10.0.0.1:80", Plain: true},
			},
		}}},
	}
	want := []string{
		"PRX-04 coder/plain fails error", "PRX-06 coder/metadata fails error", "PRX-07 coder/own fails warning",
		"PRX-09 coder/buckets fails error",
		"PRX-09 coder/registry fails error", "PRX-09 coder/with-key fails error",
	}
	// Envoy has no such configuration.
	require.ElementsMatch(t, append(want, "PRX-03  fails error"), found(Check(declared(t, nil), Options{Plan: p})))
	encoded, err := p.Encode()
	require.NoError(t, err)
	g := declared(t, map[string]map[string]any{bundleToken + " b": {"plan": string(encoded)}})
	require.ElementsMatch(t, append(want, "PRX-03 b fails error"), found(Check(g, Options{Plan: &plan.Plan{}})))
	g = declared(t, map[string]map[string]any{bundleToken + " b": {"plan": graph.Unknown}})
	require.Contains(t, found(Check(g, Options{Production: true})), "PRX-09 b indeterminate error")
}

func TestWaivers(t *testing.T) {
	t.Parallel()
	bad := node(false)
	bad["digest"] = "latest"
	g := declared(t, map[string]map[string]any{nodeToken + " n1": bad})
	waiver := func(rail, resource, expires string) []Waiver {
		return []Waiver{{rail, resource, "ops@example.test", "a trial", expires, "stacks/prod.yaml:7:5"}}
	}
	check := func(w []Waiver) *Report { return Check(g, Options{Waivers: w, Today: "2026-12-01"}) }
	require.True(t, check(nil).Blocks())
	for _, c := range []struct {
		w      []Waiver
		blocks bool
		has    string
	}{
		{waiver("LOC-02", "n1", "2026-12-01"), false, "LOC-02 n1 fails error waived"}, // on its last day
		{waiver("LOC-02", "n1", "2026-11-30"), true, "the waiver of LOC-02 for n1 ended on 2026-11-30"},
		{waiver("LOC-02", "n2", "2027-01-01"), true, "nothing is found by LOC-02 at n2"},
		{waiver("LOC-01", "n1", "2027-01-01"), true, "LOC-02 n1 fails error"},
		{waiver("LOC-99", "n1", "2027-01-01"), true, `stacks/prod.yaml:7:5: there is no guardrail "LOC-99"`},
	} {
		report := check(c.w)
		var text strings.Builder
		require.NoError(t, report.Print(&text))
		require.Equal(t, c.blocks, report.Blocks(), text.String())
		require.Contains(t, strings.Join(found(report), "\n")+text.String(), c.has)
	}
	// An ended waiver fails also when nothing is wrong any more.
	whole := declared(t, map[string]map[string]any{nodeToken + " n1": node(true)})
	require.True(t, Check(whole, Options{Waivers: waiver("LOC-02", "n1", "2026-01-01"), Today: "2026-12-01"}).Blocks())
}

// TestSARIF holds what the schema of SARIF 2.1.0 requires of the parts that are used.
func TestSARIF(t *testing.T) {
	t.Parallel()
	bad := node(false)
	bad["digest"] = "latest"
	g := declared(t, map[string]map[string]any{nodeToken + " n1": bad, "acme:index:Thing t": {}})
	report := Check(g, Options{Today: "2026-12-01", Waivers: []Waiver{
		{"LOC-02", "n1", "ops", "a trial", "2027-01-01", "stacks/my prod.yaml:7:5"},
		{"LOC-98", "n1", "ops", "a trial", "2027-01-01", "stacks/my prod.yaml:8:5"},
	}})
	var out bytes.Buffer
	require.NoError(t, report.SARIF(&out, "my state.json", nil))
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID                     string
						ShortDescription, Help struct{ Text string }
						DefaultConfiguration   struct{ Level string }
					}
				}
			}
			Results []struct {
				RuleID, Kind, Level string
				RuleIndex           int
				Message             struct{ Text string }
				Locations           []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine, StartColumn int }
					}
				}
				Suppressions []struct{ Kind, Justification string }
			}
		}
	}
	dec := json.NewDecoder(&out)
	require.NoError(t, dec.Decode(&log))
	require.Equal(t, "2.1.0", log.Version)
	require.Contains(t, log.Schema, "sarif-2.1.0")
	require.Len(t, log.Runs, 1)
	run := log.Runs[0]
	require.NotEmpty(t, run.Tool.Driver.Name)
	require.Len(t, run.Results, 4)
	suppressed := 0
	for _, r := range run.Results {
		require.Equal(t, r.RuleID, run.Tool.Driver.Rules[r.RuleIndex].ID)
		require.Equal(t, "fail", r.Kind)
		require.Contains(t, []string{"none", "note", "warning", "error"}, r.Level)
		require.NotEmpty(t, r.Message.Text)
		require.Len(t, r.Locations, 1)
		place := r.Locations[0].PhysicalLocation
		uri, err := url.Parse(place.ArtifactLocation.URI)
		require.NoError(t, err)
		require.NotContains(t, place.ArtifactLocation.URI, " ")
		require.Contains(t, []string{"my state.json", "stacks/my prod.yaml"}, uri.Path)
		require.Positive(t, place.Region.StartLine)
		for _, s := range r.Suppressions {
			suppressed++
			require.Contains(t, []string{"inSource", "external"}, s.Kind)
			require.Contains(t, s.Justification, "a trial")
		}
	}
	require.Equal(t, 1, suppressed)
	for _, rule := range run.Tool.Driver.Rules {
		require.NotEmpty(t, rule.ShortDescription.Text)
		require.NotEmpty(t, rule.Help.Text)
		require.Contains(t, []string{"none", "note", "warning", "error"}, rule.DefaultConfiguration.Level)
	}
}

// Of what is somewhere else nothing is known, and that is said.
func TestAgentsElsewhere(t *testing.T) {
	t.Parallel()
	const token = "aws:autoscaling/group:Group"
	rails := func(inputs map[string]any) string {
		report := Check(declared(t, map[string]map[string]any{token + " machines": inputs}), Options{Production: true})
		return strings.Join(found(report), "\n")
	}
	require.Equal(t, "TYP-03 machines fails warning\nTYP-04 machines indeterminate error", rails(map[string]any{}))
	tags := map[string]any{graph.TagRole: "agent"}
	require.Equal(t, "TYP-03 machines fails warning\nTYP-04 machines fails error", rails(map[string]any{"tags": tags}))
	tags[graph.TagRole] = "other"
	require.Equal(t, "TYP-03 machines fails warning", rails(map[string]any{"tags": tags}))
	tags[graph.TagRole] = "agents"
	require.Equal(t, "TYP-02 machines indeterminate error",
		rails(map[string]any{"tags": tags, "vpcZoneIdentifiers": []any{"subnet-0123456789abcdef0"}}))
}

// What nobody could make ends the check, and does not end the memory.
func TestAMillionRules(t *testing.T) {
	t.Parallel()
	rules := make([]any, 1_000_000)
	for i := range rules {
		rules[i] = map[string]any{"protocol": "-1", "cidrBlocks": []any{"0.0.0.0/0"}}
	}
	report := Check(declared(t, map[string]map[string]any{
		"aws:ec2/securityGroup:SecurityGroup g": {"description": "many", "ingress": rules},
	}), Options{Production: true})
	require.Contains(t, found(report), "NET-24 g indeterminate error")
	require.Less(t, len(report.Findings), 100)
}

// TestManyResources: what a check costs grows with the resources, and not with their square.
func TestManyResources(t *testing.T) {
	t.Parallel()
	resources := map[string]map[string]any{}
	for i := range 5000 {
		name := fmt.Sprint("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule r", i)
		resources[name] = map[string]any{"ipProtocol": "tcp", "description": "one of many"}
	}
	report := Check(declared(t, resources), Options{})
	require.Equal(t, 5000, report.Resources)
	require.Empty(t, report.Findings)
}

// TestReference: docs/reference-guardrails.md is made of the guardrails.
func TestReference(t *testing.T) {
	t.Parallel()
	text := "# Every guardrail\n\nGenerated from package policies/guardrail: " +
		"`go test ./policies/guardrail -run TestReference -update`.\n" +
		"[Guardrails](guardrails.md) says how they are used. The last column has the rules of Checkov (`CKV`)\n" +
		"and Prowler that ask for the same or a part of it; those in brackets ask for the opposite.\n\n" +
		"| ID | severity | what has to hold | if it does not | others |\n|---|---|---|---|---|\n"
	rails := slices.Clone(Rails)
	slices.SortFunc(rails, func(a, b Rail) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range append(rails,
		Rail{
			ID: TypeRail, Severity: Warning,
			Says: "A guardrail knows every type. In production it must, if the resource uses what a tier uses.",
			Fix:  "look at it yourself",
		},
		Rail{
			ID: WaiverRail, Severity: Error, Says: "Every waiver holds: it has not ended.", Fix: "remove it",
		},
	) {
		severity := string(r.Severity)
		if r.Production {
			severity += ", in production"
		}
		others := strings.Join(r.Others, ", ")
		if r.Against != nil {
			others += "(" + strings.Join(r.Against, ", ") + ")"
		}
		text += "| " + r.ID + " | " + severity + " | " + r.Says + " | " + r.Fix + " | " + others + " |\n"
	}
	path := filepath.Join("..", "..", "docs", "reference-guardrails.md")
	if *golden.Update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, string(got), "go test ./policies/guardrail -run TestReference -update")
}

// TestAccess: what allows too much is found by whatever way it is given.
func TestAccess(t *testing.T) {
	t.Parallel()
	says := func(rest string) string { return `{"Statement":[{"Effect":"Allow",` + rest + `}]}` }
	policy := func(rest string) map[string]any { return map[string]any{"policy": says(rest)} }
	public := func(condition string) map[string]any {
		return policy(`"Principal":"*","Action":"s3:GetObject","Resource":"*","Condition":{` + condition + `}`)
	}
	role := func(property string, v any) map[string]any {
		return map[string]any{"permissionsBoundary": "x", property: []any{v}}
	}
	const ofBoth = "aws:iam/policyAttachment:PolicyAttachment"
	const admin, roles = "arn:aws:iam::aws:policy/AdministratorAccess", "arn:aws:iam::123456789012:role/*"
	const ofRole, ofBucket = "aws:iam/rolePolicy:RolePolicy", "aws:s3/bucketPolicy:BucketPolicy"
	for what, c := range map[string]struct {
		token  string
		inputs map[string]any
		want   string
	}{
		"managed":   {"aws:iam/role:Role", role("managedPolicyArns", admin), "IAM-02"},
		"inline":    {"aws:iam/role:Role", role("inlinePolicies", policy(`"Action":"*","Resource":"*"`)), "IAM-02"},
		"harmless":  {"aws:iam/role:Role", role("inlinePolicies", policy(`"Action":"s3:Get","Resource":"x"`)), ""},
		"partition": {ofBoth, map[string]any{"policyArn": "arn:aws-us-gov:iam::aws:policy/x"}, "IAM-02"},
		"stars":     {ofRole, policy(`"Action":"s3:**","Resource":"x"`), "IAM-02"},
		"any one":   {ofRole, policy(`"Action":"s3:?*","Resource":"x"`), "IAM-02"},
		"account":   {ofRole, policy(`"Action":"iam:PassRole","Resource":"arn:aws:iam::123456789012:*"`), "IAM-02"},
		"roles":     {ofRole, policy(`"Action":"iam:PassRole","Resource":"` + roles + `"`), "IAM-02"},
		"but one":   {ofRole, policy(`"Action":"iam:PassRole","NotResource":"x"`), "IAM-02"},
		"any arn":   {ofRole, policy(`"Action":"iam:PassRole","Resource":"arn:*"`), "IAM-02"},
		"one role":  {ofRole, policy(`"Action":"iam:PassRole","Resource":"arn:aws:iam::123456789012:role/x"`), ""},
		"by TLS":    {ofBucket, public(`"Bool":{"aws:SecureTransport":"true"}`), "IAM-09"},
		"from all":  {ofBucket, public(`"IpAddress":{"aws:SourceIp":["10.0.0.0/8","0.0.0.0/0"]}`), "IAM-09"},
		"any org":   {ofBucket, public(`"StringLike":{"aws:PrincipalOrgID":"*"}`), "IAM-09"},
		"itself":    {ofBucket, public(`"StringEquals":{"aws:PrincipalAccount":"${aws:PrincipalAccount}"}`), "IAM-09"},
		"one org":   {ofBucket, public(`"StringEquals":{"aws:PrincipalOrgID":"o-a1b2c3d4e5"}`), ""},
	} {
		var got []string
		for _, f := range Check(declared(t, map[string]map[string]any{c.token + " x": c.inputs}), Options{}).Findings {
			if f.Rail == "IAM-02" || f.Rail == "IAM-09" {
				got = append(got, f.Rail)
			}
		}
		require.Equal(t, c.want, strings.Join(slices.Compact(got), " "), what)
	}
}

// TestABucketsPolicyThatIsNotKnown is judged when it is known, of the policy alone.
func TestABucketsPolicyThatIsNotKnown(t *testing.T) {
	t.Parallel()
	const token = "aws:s3/bucketPolicy:BucketPolicy"
	of := func(policy any) string {
		report := Check(declared(t, map[string]map[string]any{token + " p": {"policy": policy}}), Options{
			Production: true, One: "urn:pulumi:prod::web::" + token + "::p",
		})
		return strings.Join(slices.DeleteFunc(found(report), func(line string) bool {
			return !strings.HasPrefix(line, "AUD-02")
		}), "\n")
	}
	require.Equal(t, "AUD-02 p indeterminate error", of(graph.Unknown))
	require.Equal(t, "AUD-02 p fails error", of(`{"Statement":[]}`))
	require.Empty(t, of(`{"Statement":[{"Effect":"Deny","Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}`))
}

// TestAnEndpointAlone: before an endpoint is made, nobody says that its service is the stack's own.
func TestAnEndpointAlone(t *testing.T) {
	t.Parallel()
	const token = "aws:ec2/vpcEndpoint:VpcEndpoint"
	of := func(service string, alone bool) bool {
		o := Options{Production: true}
		if alone {
			o.One = "urn:pulumi:prod::web::" + token + "::e"
		}
		report := Check(declared(t, map[string]map[string]any{token + " e": {"serviceName": service}}), o)
		return slices.Contains(found(report), "EPT-03 e fails error")
	}
	const own, logs = "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0", "com.amazonaws.eu-west-1.logs"
	require.False(t, of(own, true))
	require.True(t, of(own, false), "it is a stranger's: the stack has no such service")
	require.True(t, of(logs, true))
	require.True(t, of(logs, false))
}

// TestFirewallOfTheProxies: it has what the policy has.
func TestFirewallOfTheProxies(t *testing.T) {
	t.Parallel()
	g := declared(t, map[string]map[string]any{
		"aws:ec2/vpc:Vpc v": {}, "aws:ec2/subnet:Subnet s": {}, "aws:ec2/instance:Instance proxy": {
			"tags": map[string]any{graph.TagRole: proxies},
		},
		"aws:route53/resolverFirewallRuleGroupAssociation:ResolverFirewallRuleGroupAssociation a": {},
		"aws:route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup g":                       {},
		"aws:route53/resolverFirewallRule:ResolverFirewallRule r":                                 {"action": "ALLOW"},
		"aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList l": {
			"domains": []any{"a.test.", "*.b.test."},
		},
	})
	urns := map[string]string{}
	for _, r := range g.Resources {
		urns[r.Name] = r.URN
	}
	for i := range g.Resources {
		r := &g.Resources[i]
		r.PropertyDependencies = map[string]map[string][]string{
			"s": {"vpcId": {urns["v"]}}, "proxy": {"subnetId": {urns["s"]}},
			"a": {"vpcId": {urns["v"]}, "firewallRuleGroupId": {urns["g"]}},
			"r": {"firewallRuleGroupId": {urns["g"]}, "firewallDomainListId": {urns["l"]}},
		}[r.Name]
	}
	of := func(hosts ...string) string {
		p := &plan.Plan{Agents: []plan.Agent{{Name: "coder"}}}
		for _, host := range hosts {
			p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{ID: "coder/" + host, Host: host})
		}
		for _, f := range Check(g, Options{Plan: p}).Findings {
			if f.Rail == "DNS-06" {
				return f.What
			}
		}
		return ""
	}
	require.Empty(t, of("a.test", "x.b.test", "*.b.test", "*.c.b.test"))
	for _, host := range []string{"c.test", "b.test", "*.test", "x.a.test", "ab.test"} {
		require.Contains(t, of("a.test", host), "the proxies do not find "+host+" (1 of", host)
	}
}

// TestLogsOfAgents: what an agent prints is masked, or somebody is told.
func TestLogsOfAgents(t *testing.T) {
	t.Parallel()
	const task, group = "aws:ecs/taskDefinition:TaskDefinition", "aws:cloudwatch/logGroup:LogGroup"
	const masks = "aws:cloudwatch/logDataProtectionPolicy:LogDataProtectionPolicy"
	of := func(role string, masked bool) bool {
		all := map[string]map[string]any{task + " t": {"tags": map[string]any{graph.TagRole: role}}, group + " g": {}}
		if masked {
			all[masks+" m"] = map[string]any{}
		}
		g := declared(t, all)
		for i := range g.Resources {
			g.Resources[i].PropertyDependencies = map[string][]string{
				"containerDefinitions": {"urn:pulumi:prod::web::" + group + "::g"},
				"logGroupName":         {"urn:pulumi:prod::web::" + group + "::g"},
			}
		}
		return slices.Contains(found(Check(g, Options{})), "AUD-06 g fails warning")
	}
	g := declared(t, map[string]map[string]any{
		task + " t": {
			"tags":                 map[string]any{graph.TagRole: agents},
			"containerDefinitions": `[{"logConfiguration":{"options":{"awslogs-group":"/agents"}}}]`,
		},
		group + " g": {"name": "/agents"}, group + " other": {"name": "/other"},
	})
	require.Contains(t, found(Check(g, Options{})), "AUD-06 g fails warning", "a name is enough")
	require.NotContains(t, found(Check(g, Options{})), "AUD-06 other fails warning")
	require.True(t, of(agents, false))
	require.False(t, of(agents, true))
	require.False(t, of(proxies, false))
}

// TestOne: a waiver holds for one resource as for all.
func TestOne(t *testing.T) {
	t.Parallel()
	bad := node(false)
	bad["digest"] = "latest"
	g := declared(t, map[string]map[string]any{nodeToken + " n1": bad, nodeToken + " n2": bad})
	o := Options{One: "urn:pulumi:prod::web::" + nodeToken + "::n1", Today: "2026-12-01"}
	require.True(t, Check(g, o).Blocks())
	o.Waivers = []Waiver{
		{"LOC-02", "n1", "ops", "a trial", "2027-01-01", "x"}, {"LOC-02", "n3", "ops", "a trial", "2026-01-01", "y"},
	}
	require.False(t, Check(g, o).Blocks())
}
