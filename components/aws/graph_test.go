package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// declaredResource is a resource as the engine would be told of it.
type declaredResource struct {
	token, name, parent string
	protect, retain     bool
	inputs              resource.PropertyMap
	dependencies        []string
}

func (r *declaredResource) id() string { return r.token + "|" + r.name }

// text is an input that is text; "" if it is not there.
func (r *declaredResource) text(key resource.PropertyKey) string {
	if v, ok := r.inputs[key]; ok && v.IsString() {
		return v.StringValue()
	}
	return ""
}

func (r *declaredResource) number(key resource.PropertyKey) int {
	if v, ok := r.inputs[key]; ok && v.IsNumber() {
		return int(v.NumberValue())
	}
	return -1
}

// texts are the items of a list of text.
func (r *declaredResource) texts(key resource.PropertyKey) []string {
	var out []string
	if v, ok := r.inputs[key]; ok && v.IsArray() {
		for _, x := range v.ArrayValue() {
			out = append(out, x.StringValue())
		}
	}
	return out
}

// declarations is everything that a stack declares. It stands in for the engine and
// the provider, which need an account: it answers with IDs and ARNs made of the
// resource's own token and name, so that references can be followed.
type declarations struct {
	mu  sync.Mutex
	all []*declaredResource
}

func (g *declarations) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r := &declaredResource{token: args.TypeToken, name: args.Name, inputs: args.Inputs}
	if rpc := args.RegisterRPC; rpc != nil {
		r.protect, r.retain, r.parent, r.dependencies = rpc.GetProtect(), rpc.GetRetainOnDelete(), rpc.GetParent(),
			rpc.GetDependencies()
	}
	g.mu.Lock()
	g.all = append(g.all, r)
	g.mu.Unlock()
	out := args.Inputs.Copy()
	text := func(key resource.PropertyKey, value string) {
		if _, ok := out[key]; !ok {
			out[key] = resource.NewProperty(value)
		}
	}
	for _, key := range []resource.PropertyKey{"defaultRouteTableId", "defaultSecurityGroupId", "defaultNetworkAclId", "keyId", "publicIp", "serviceName", "prefixListId", "arnSuffix"} {
		text(key, string(key)+"|"+r.name)
	}
	kind := args.TypeToken[strings.LastIndexByte(args.TypeToken, ':')+1:]
	text("name", r.name)
	text("bucket", r.name)
	text("arn", fmt.Sprintf("arn:aws:%s:eu-west-1:123456789012:%s/%s", strings.ToLower(kind), kind, r.name))
	out["latestVersion"] = resource.NewProperty(1.0)
	return r.id(), out, nil
}

func (g *declarations) Call(args pulumi.MockCallArgs) (resource.PropertyMap, error) {
	return nil, fmt.Errorf("%s: the program asks nobody anything", args.Token)
}

// of are the resources of a type, sorted by name.
func (g *declarations) of(token string) []*declaredResource {
	var out []*declaredResource
	for _, r := range g.all {
		if r.token == token {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *declaredResource) int { return strings.Compare(a.name, b.name) })
	return out
}

// one is the resource of a type with that suffix.
func (g *declarations) one(t *testing.T, token, suffix string) *declaredResource {
	t.Helper()
	for _, r := range g.of(token) {
		if strings.HasSuffix(r.name, suffix) {
			return r
		}
	}
	require.Failf(t, "no such resource", "%s %s", token, suffix)
	return nil
}

const (
	digest = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	repo   = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/"
)

// variants are stack files that between them have every mode and option.
var variants = map[string]string{
	"minimal": `
  agents:
    coder: {image: ` + repo + `coder` + digest + `, ami: ami-0123456789abcdef0}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0}`,
	"strict": `
  zones: 3
  singletons: true
  proxies: {compute: ec2, ami: ami-0123456789abcdef0, min: 3, max: 9}
  control: {replicas: 3}
  audit: {email: security@example.test}
  agents:
    coder: {image: ` + repo + `coder` + digest + `, ami: ami-0123456789abcdef0, metadata: disabled, count: 3}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0}`,
	"fargate": `
  nat: one
  protect: false
  agents:
    coder: {compute: fargate, image: ` + repo + `coder` + digest + `, command: [run, "a b"]}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0}`,
	"zones": `
  zones: [c, a]
  control: {replicas: 1}
  agents:
    coder: {image: ` + repo + `coder` + digest + `, ami: ami-0123456789abcdef0}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0, count: 0}
proxies: {resolvers: ["192.0.2.53:53", "192.0.2.54:5353"]}`,
	"machines": `
  mode: shared
  zones: 2
  proxies: {compute: ec2, ami: ami-0123456789abcdef0, instance: c7i.large}
  agents:
    coder: {image: ` + repo + `coder` + digest + `, ami: ami-0123456789abcdef0}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0, metadata: disabled}`,
	"shared": `
  mode: shared
  zones: 1
  protect: false
  audit: {lock: false, retention: 30d}
  tags: {team: platform}
  agents:
    coder: {image: ` + repo + `coder` + digest + `, ami: ami-0123456789abcdef0}
    tester: {image: ` + repo + `tester` + digest + `, ami: ami-0123456789abcdef0}`,
}

// load is the arguments of a variant: the stack file's, with credentials.
func load(t *testing.T, section string) *EnvironmentArgs {
	t.Helper()
	path := filepath.Join(t.TempDir(), "prod.yaml")
	require.NoError(t, os.WriteFile(path, []byte(`version: 1
target: aws
aws:
  account: "123456789012"
  region: eu-west-1
  image: `+repo+`postern`+digest+section+`
destinations:
  api: {host: api.example.test}
  other: {host: db.example.test, port: 8443}
agents:
  coder: {allow: [api, other]}
  tester: {}
`), 0o600))
	stack, err := stacks.Load(path)
	require.NoError(t, err)
	stack.Plan.Credentials = []plan.Credential{
		{Name: "api", Kind: plan.KindBearer, Secret: "awssecretsmanager://prod/api?region=eu-west-1"},
		{Name: "other", Kind: plan.KindBearer, Secret: "awssecretsmanager://prod/other?region=eu-west-1#token"},
	}
	return &EnvironmentArgs{AWS: stack.AWS, Plan: stack.Plan}
}

// declareAll is what args declare.
func declareAll(t *testing.T, args *EnvironmentArgs) *declarations {
	t.Helper()
	g := &declarations{}
	require.NoError(t, pulumi.RunErr(func(ctx *pulumi.Context) error {
		_, err := NewEnvironment(ctx, "prod", args)
		return err
	}, pulumi.WithMocks("postern", "prod", g)))
	require.NotEmpty(t, g.all)
	return g
}

// everyVariant runs a test for each.
func everyVariant(t *testing.T, test func(t *testing.T, args *EnvironmentArgs, g *declarations)) {
	t.Helper()
	for name, section := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := load(t, section)
			test(t, args, declareAll(t, args))
		})
	}
}

// policies are all policy documents of the graph, by where they are.
func (g *declarations) policies(t *testing.T) map[string]document.Policy {
	t.Helper()
	out := map[string]document.Policy{}
	for _, r := range g.all {
		for _, key := range []resource.PropertyKey{"policy", "assumeRolePolicy", "policyDocument"} {
			text := r.text(key)
			if text == "" || strings.HasPrefix(r.token, "aws:cloudwatch/logDataProtectionPolicy:") { // it is not of IAM
				continue
			}
			var p document.Policy
			require.NoError(t, json.Unmarshal([]byte(text), &p), "%s %s", r.token, r.name)
			out[r.id()+"|"+string(key)] = p
		}
	}
	require.NotEmpty(t, out)
	return out
}
