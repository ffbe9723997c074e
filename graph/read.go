package graph

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/visible"
)

// MostBytes bounds what [Read] reads: more than ten times what the engine writes of 5,000 resources.
const MostBytes = 256 << 20

// Read reads what somebody saved of a stack's resources: a graph, as Encode writes it; a state, as
// `pulumi stack export` writes it; or a preview, as `pulumi preview --json --show-sames` writes it.
// Of a secret it keeps only that it is one, also if the file has the value. It refuses a file that
// leaves out resources.
func Read(r io.Reader) (*Graph, error) {
	text, err := io.ReadAll(io.LimitReader(r, MostBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the resources: %w", err)
	}
	if len(text) > MostBytes {
		return nil, fmt.Errorf("read the resources: there are more than %d MiB", MostBytes>>20)
	}
	var kind struct {
		Format     json.RawMessage `json:"format"`
		Deployment json.RawMessage `json:"deployment"`
		Steps      json.RawMessage `json:"steps"`
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return nil, fmt.Errorf("read the resources: %w", misread(err))
	}
	var g *Graph
	switch {
	case kind.Format != nil:
		g, err = Decode(strings.NewReader(string(text)))
	case kind.Deployment != nil:
		g, err = readState(text)
	case kind.Steps != nil:
		g, err = readPreview(text)
	default:
		return nil, errors.New("read the resources: neither a graph, a state nor a preview; write one with " +
			"`pulumi stack export --file FILE` or `pulumi preview --json --show-sames > FILE`")
	}
	if err == nil {
		err = g.printable()
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// misread says what is wrong with a file, and where, without the names of Go.
func misread(err error) error {
	var other *json.UnmarshalTypeError
	if errors.As(err, &other) {
		return fmt.Errorf("%s has a JSON %s at byte %d, which neither a graph, a state nor a preview has there",
			cmp.Or(other.Field, "the file"), other.Value, other.Offset)
	}
	return fmt.Errorf("not JSON: %w", err)
}

// printable returns an error if a resource has a name or a type that means something to a terminal,
// or that hides: reports print these, and an agent may have written the file.
func (g *Graph) printable() error {
	for i := range g.Resources {
		for _, text := range []string{g.Resources[i].URN, g.Resources[i].Type, g.Resources[i].Name} {
			if strings.IndexFunc(text, visible.Hides) >= 0 {
				return fmt.Errorf("read the resources: %q has a character that nobody sees", text)
			}
		}
	}
	return nil
}

// saved is a resource as the engine writes it (apitype.ResourceV3).
type saved struct {
	URN                  string              `json:"urn"`
	ID                   string              `json:"id"`
	Type                 string              `json:"type"`
	Custom               bool                `json:"custom"`
	Delete               bool                `json:"delete"`
	Inputs               map[string]any      `json:"inputs"`
	Outputs              map[string]any      `json:"outputs"`
	Parent               string              `json:"parent"`
	Protect              bool                `json:"protect"`
	External             bool                `json:"external"`
	Provider             string              `json:"provider"`
	Dependencies         []string            `json:"dependencies"`
	PropertyDependencies map[string][]string `json:"propertyDependencies"`
	RetainOnDelete       bool                `json:"retainOnDelete"`
}

func readState(text []byte) (*Graph, error) {
	var state struct {
		Version    int `json:"version"`
		Deployment struct {
			Resources []saved `json:"resources"`
			Pending   []struct {
				Resource saved `json:"resource"`
			} `json:"pending_operations"`
		} `json:"deployment"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return nil, fmt.Errorf("read the state: %w", misread(err))
	}
	if v := state.Version; v != 3 && v != 4 {
		return nil, fmt.Errorf("read the state: its version is %d, this program reads 3 and 4: export it again with "+
			"a Pulumi of this year", v)
	}
	for _, p := range state.Deployment.Pending {
		return nil, fmt.Errorf("read the state: an operation on %s was interrupted, so nobody knows whether it exists: "+
			"run `pulumi refresh`, and export the state again", p.Resource.URN)
	}
	for i := range state.Deployment.Resources {
		if s := &state.Deployment.Resources[i]; s.Delete {
			return nil, fmt.Errorf("read the state: %s still exists, and is to be deleted: run `pulumi up`, and export "+
				"the state again", s.URN)
		}
	}
	g, err := collect(state.Deployment.Resources)
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return g, nil
}

// Operations of a step, by what is there after it (sdk/go/common/apitype.OpType).
var (
	remaining = []string{
		"same", "create", "update", "replace", "create-replacement", "read", "read-replacement", "refresh", "import",
		"import-replacement",
	}
	removing = []string{"delete", "delete-replaced", "discard", "discard-replaced", "remove-pending-replace"}
)

func readPreview(text []byte) (*Graph, error) {
	var preview struct {
		Steps []struct {
			Op       string `json:"op"`
			URN      string `json:"urn"`
			NewState *saved `json:"newState"`
		} `json:"steps"`
		Changes     map[string]int `json:"changeSummary"`
		Corrupt     bool           `json:"maybeCorrupt"`
		Diagnostics []struct {
			Severity string `json:"severity"`
			Message  string `json:"message"`
		} `json:"diagnostics"`
	}
	if err := json.Unmarshal(text, &preview); err != nil {
		return nil, fmt.Errorf("read the preview: %w", misread(err))
	}
	for _, d := range preview.Diagnostics {
		if d.Severity == "error" {
			return nil, fmt.Errorf("read the preview: it failed, so resources may be missing: %s", d.Message)
		}
	}
	if preview.Changes == nil || preview.Corrupt {
		return nil, errors.New("read the preview: it did not end, so resources may be missing: run it again")
	}
	last, same := map[string]saved{}, 0
	for _, step := range preview.Steps {
		switch {
		case slices.Contains(removing, step.Op):
			continue
		case !slices.Contains(remaining, step.Op):
			return nil, fmt.Errorf("read the preview: this program does not know the operation %q on %s", step.Op, step.URN)
		case step.NewState == nil:
			return nil, fmt.Errorf("read the preview: %s of %s has no newState", step.Op, step.URN)
		}
		if step.Op == "same" {
			same++
		}
		last[step.NewState.URN] = *step.NewState
	}
	if left := preview.Changes["same"] - same; left > 0 {
		return nil, fmt.Errorf("read the preview: it leaves out %s that would not change: write it with `pulumi preview "+
			"--json --show-sames`", counted(left, "resource"))
	}
	resources := make([]saved, 0, len(last))
	for _, urn := range sortedKeys(last) {
		resources = append(resources, last[urn])
	}
	g, err := collect(resources)
	if err != nil {
		return nil, fmt.Errorf("read the preview: %w", err)
	}
	return g, nil
}

// collect makes a graph of a stack's resources.
func collect(resources []saved) (*Graph, error) {
	g := &Graph{Format: Format, Resources: []Resource{}}
	for i := range resources {
		s := &resources[i]
		// urn:pulumi:STACK::PROJECT::TYPES::NAME, of which a name may have more of the separator.
		parts := strings.SplitN(s.URN, "::", 4)
		stack, ok := strings.CutPrefix(parts[0], "urn:pulumi:")
		if !ok || len(parts) != 4 || s.Type == "" {
			return nil, fmt.Errorf("%q (type %q) is not a valid resource", s.URN, s.Type)
		}
		if g.Stack == "" {
			g.Stack = stack
		}
		if stack != g.Stack {
			return nil, fmt.Errorf("it has resources of two stacks, %s and %s", g.Stack, stack)
		}
		if s.Type == stackType {
			continue
		}
		r := Resource{
			URN: s.URN, Type: s.Type, Name: parts[3], Parent: s.Parent, Custom: s.Custom, External: s.External,
			Protect: s.Protect, Retain: s.RetainOnDelete, Inputs: map[string]any{}, Dependencies: s.Dependencies,
			PropertyDependencies: s.PropertyDependencies,
		}
		if strings.Contains(s.Parent, "::"+stackType+"::") {
			r.Parent = ""
		}
		if i := strings.LastIndex(s.Provider, "::"); i > 0 {
			r.Provider = s.Provider[:i] // what follows is its ID
		}
		for k, v := range s.Inputs {
			r.Inputs[k] = bare(v)
		}
		for _, k := range computed[s.Type] {
			if v := bare(s.Outputs[k]); r.Inputs[k] == nil && v != nil && v != Unknown {
				r.Inputs[k] = v
			}
		}
		g.Resources = append(g.Resources, r)
	}
	references(g, resources)
	return g, g.Complete()
}

// computed are the outputs that count as inputs if the program says nothing: then the cloud keeps
// what is there, and a group that was imported without its egress may allow everything. An ARN is
// the name by which documents know a role or a secret.
var computed = map[string][]string{
	"aws:autoscaling/group:Group":                       {"vpcZoneIdentifiers"},
	"aws:ec2/defaultNetworkAcl:DefaultNetworkAcl":       {"ingress", "egress", "subnetIds"},
	"aws:ec2/defaultRouteTable:DefaultRouteTable":       {"routes", "propagatingVgws"},
	"aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": {"ingress", "egress"},
	"aws:ec2/instance:Instance": {
		"vpcSecurityGroupIds", "subnetId", "iamInstanceProfile", "associatePublicIpAddress", "publicIp",
	},
	"aws:ec2/launchTemplate:LaunchTemplate": {"latestVersion"},
	"aws:ec2/networkAcl:NetworkAcl":         {"ingress", "egress", "subnetIds"},
	"aws:ec2/routeTable:RouteTable":         {"routes", "propagatingVgws"},
	"aws:ec2/securityGroup:SecurityGroup":   {"ingress", "egress"},
	"aws:ec2/subnet:Subnet":                 {"ipv6CidrBlock"},
	"aws:ec2/vpcEndpoint:VpcEndpoint":       {"routeTableIds", "subnetIds", "securityGroupIds"},
	"aws:iam/role:Role":                     {"managedPolicyArns", "inlinePolicies", "arn"},
	"aws:secretsmanager/secret:Secret":      {"arn"},
}

// stackType is the type of the resource that stands for the stack itself.
const stackType = "pulumi:pulumi:Stack"

// Marks of values in a file of the engine (sdk/go/common/resource).
const (
	referenceMark = "5cf8f73096256a8f31e491e813e4eb8e"
	assetMark     = "c44067f5952c0a294b673a41bacd8c17"
	archiveMark   = "0def7320c3a5731c473e5ecbe6d01bc7"
	// secretText stands for a secret in a preview.
	secretText = "[secret]"
)

// bare returns a value of a file as a graph has it. A value with a mark that it does not know is
// unknown.
func bare(v any) any {
	switch v := v.(type) {
	case string:
		if v == secretText {
			return map[string]any{SecretKey: SecretMark}
		}
	case []any:
		for i := range v {
			v[i] = bare(v[i])
		}
	case map[string]any:
		mark, marked := v[SecretKey]
		switch {
		case !marked:
			for k := range v {
				v[k] = bare(v[k])
			}
		case mark == SecretMark:
			return map[string]any{SecretKey: SecretMark}
		case mark == referenceMark:
			urn, _ := v["urn"].(string)
			return urn
		case mark == assetMark, mark == archiveMark:
			return "(a file)"
		default:
			return Unknown
		}
	}
	return v
}

// ofProvider matches the types of what AWS's provider makes.
var ofProvider = regexp.MustCompile(`^aws:[a-z0-9]+/`)

// mostAncestors bounds the components that a resource may be nested in.
const mostAncestors = 100

// Complete sorts the resources, and gives each its role, parents before children. It returns an
// error if the same resource is there twice, is its own ancestor, or is a component with a type of
// AWS's provider: checks pass over components.
func (g *Graph) Complete() error {
	slices.SortFunc(g.Resources, func(a, b Resource) int { return strings.Compare(a.URN, b.URN) })
	for i := 1; i < len(g.Resources); i++ {
		if urn := g.Resources[i].URN; urn == g.Resources[i-1].URN {
			return fmt.Errorf("%s is declared twice: give one of them another name", urn)
		}
	}
	for i := range g.Resources {
		if r := &g.Resources[i]; !r.Custom && ofProvider.MatchString(r.Type) {
			return fmt.Errorf("%s is not a component: its type is one of AWS's provider, and custom is false; "+
				"write the file again", r.URN)
		}
		var line []*Resource // the resource and its ancestors that have no role yet
		r := &g.Resources[i]
		for ; r != nil && r.Role == ""; r = g.ByURN(r.Parent) {
			if line = append(line, r); len(line) > mostAncestors {
				return fmt.Errorf("%s is its own ancestor, or has more than %d", g.Resources[i].URN, mostAncestors)
			}
		}
		role := ""
		if r != nil {
			role = r.Role
		}
		for _, r := range slices.Backward(line) {
			role = RoleOf(r.Type, r.Inputs, role)
			r.Role = role
		}
	}
	g.started()
	return nil
}
