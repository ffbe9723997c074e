// Package capture runs a Pulumi program without an engine, against the SDK's in-process monitor,
// and records what the program declares. It needs no account, provider plugin, CLI or network.
package capture

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/postern/postern/graph"
	check "github.com/postern/postern/policies/check/aws"
)

// Result is what a program declares.
type Result struct {
	Graph *graph.Graph
	// Arguments are the arguments of each resource type that the program uses, as the SDK knows
	// them.
	Arguments check.Arguments
}

// Options name the stack, and hold the answers of a provider.
type Options struct {
	Project, Stack string
	// Region and Account answer the program's questions to the AWS provider. Zones are the region's
	// name with a, b and c. If "", the values are those of AWS's own examples.
	Region, Account string
}

// Run runs the program twice, as the engine would at a preview, and returns what it declares. The
// first time no ID is known. The second time every ID and ARN is made up, so that people can read
// the documents that are computed from them. If the program declares something else the second
// time, it depends on more than its stack file, and Run refuses it.
func Run(program pulumi.RunFunc, opts Options) (*Result, error) {
	if opts.Region == "" {
		opts.Region = "us-east-1"
	}
	if opts.Account == "" {
		opts.Account = "123456789012"
	}
	first, err := run(program, opts, false)
	if err != nil {
		return nil, err
	}
	second, err := run(program, opts, true)
	if err != nil {
		return nil, err
	}
	if a, b := slices.Sorted(maps.Keys(first.resources)), slices.Sorted(maps.Keys(second.resources)); !slices.Equal(a, b) {
		return nil, fmt.Errorf("preview stack %s offline: the program declares other resources when IDs are known: declare them outside of ApplyT (%s)", opts.Stack, difference(a, b))
	}
	g := &graph.Graph{Format: graph.Format, Stack: opts.Stack, Resources: []graph.Resource{}}
	for _, urn := range slices.Sorted(maps.Keys(first.resources)) {
		r := first.resources[urn]
		for property, v := range r.Inputs {
			if !graph.HasUnknown(v) {
				continue
			}
			if example, ok := second.resources[urn].Inputs[property]; ok {
				if r.Example == nil {
					r.Example = map[string]any{}
				}
				r.Example[property] = example
			}
		}
		g.Resources = append(g.Resources, *r)
	}
	if err := g.Complete(); err != nil {
		return nil, fmt.Errorf("preview stack %s offline: %w", opts.Stack, err)
	}
	return &Result{Graph: g, Arguments: first.arguments}, nil
}

func difference(a, b []string) string {
	for _, urn := range a {
		if !slices.Contains(b, urn) {
			return urn
		}
	}
	for _, urn := range b {
		if !slices.Contains(a, urn) {
			return urn
		}
	}
	return ""
}

func run(program pulumi.RunFunc, opts Options, example bool) (*monitor, error) {
	m := &monitor{opts: opts, example: example, resources: map[string]*graph.Resource{}, arguments: check.Arguments{}}
	err := pulumi.RunErr(
		func(ctx *pulumi.Context) error {
			if err := ctx.RegisterStackTransformation(m.learn); err != nil {
				return fmt.Errorf("watch the program: %w", err)
			}
			return program(ctx)
		},
		func(info *pulumi.RunInfo) {
			// The environment may describe another engine, which is not ours.
			*info = pulumi.RunInfo{Project: opts.Project, Stack: opts.Stack, Mocks: m, DryRun: true, Parallel: 1}
		},
	)
	if err := errors.Join(m.problems...); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("run the program of stack %s: %w", opts.Stack, err)
	}
	return m, nil
}

// monitor records what is registered. The SDK calls it concurrently.
type monitor struct {
	opts    Options
	example bool

	mu        sync.Mutex
	resources map[string]*graph.Resource // by URN
	arguments check.Arguments
	problems  []error
}

// learn notes which arguments the SDK knows for a type: the tags of its argument structs have the
// names, and the Go types tell which may be left out.
func (m *monitor) learn(args *pulumi.ResourceTransformationArgs) *pulumi.ResourceTransformationResult {
	if v := reflect.ValueOf(args.Props); args.Props == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.arguments[args.Type]; !known {
		if t := args.Props.ElementType(); t.Kind() == reflect.Struct {
			m.arguments[args.Type] = check.ArgumentsOf(t)
		}
	}
	return nil
}

// NewResource implements pulumi.MockResourceMonitor.
func (m *monitor) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r := &graph.Resource{Type: args.TypeToken, Name: args.Name, Inputs: map[string]any{}, Custom: args.Custom}
	var object *structpb.Struct
	var providerRef string
	switch {
	case args.RegisterRPC != nil:
		rpc := args.RegisterRPC
		object, providerRef, r.Parent = rpc.GetObject(), rpc.GetProvider(), rpc.GetParent()
		r.Protect, r.Retain = rpc.GetProtect(), rpc.GetRetainOnDelete()
		r.Dependencies = sorted(rpc.GetDependencies())
		r.PropertyDependencies = dependencies(rpc.GetPropertyDependencies())
	case args.ReadRPC != nil:
		object, providerRef, r.Parent = args.ReadRPC.GetProperties(), args.ReadRPC.GetProvider(), args.ReadRPC.GetParent()
		r.External, r.Custom = true, true
		r.Dependencies = sorted(args.ReadRPC.GetDependencies())
	}
	if i := strings.LastIndex(providerRef, "::"); i > 0 {
		r.Provider = providerRef[:i] // what follows is its ID
	}
	if strings.HasSuffix(r.Parent, "::pulumi:pulumi:Stack::"+m.opts.Project+"-"+m.opts.Stack) {
		r.Parent = ""
	}
	r.URN = m.urn(r.Parent, r.Type, r.Name)

	inputs, err := plugin.UnmarshalProperties(object, plugin.MarshalOptions{KeepSecrets: true, KeepUnknowns: true, KeepResources: true})
	if err != nil {
		return "", nil, fmt.Errorf("read the inputs of %s: %w", r.Name, err)
	}
	for k, v := range inputs {
		r.Inputs[string(k)] = Plain(v)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resources[r.URN] != nil {
		err := fmt.Errorf("%s is declared twice: give one of them another name", r.URN)
		m.problems = append(m.problems, err)
		return "", nil, err
	}
	m.resources[r.URN] = r
	id, outputs := args.ID, args.Inputs.Copy()
	if m.example && r.Custom {
		if id == "" {
			id = exampleID(r)
		}
		for k, v := range exampleOutputs(r, id, m.opts) {
			if _, set := outputs[k]; !set {
				outputs[k] = v
			}
		}
	}
	return id, outputs, nil
}

// Call implements pulumi.MockResourceMonitor: what the program asks a provider.
func (m *monitor) Call(args pulumi.MockCallArgs) (resource.PropertyMap, error) {
	answer, err := answer(args.Token, m.opts)
	if err != nil {
		m.mu.Lock()
		m.problems = append(m.problems, err)
		m.mu.Unlock()
	}
	return answer, err
}

func (m *monitor) urn(parent, token, name string) string {
	parentType := tokens.Type("")
	if parent != "" {
		parentType = resource.URN(parent).QualifiedType()
	}
	return string(resource.NewURN(tokens.QName(m.opts.Stack), tokens.PackageName(m.opts.Project), parentType, tokens.Type(token), name))
}

func dependencies(rpc map[string]*pulumirpc.RegisterResourceRequest_PropertyDependencies) map[string][]string {
	var all map[string][]string
	for property, deps := range rpc {
		if len(deps.GetUrns()) == 0 {
			continue
		}
		if all == nil {
			all = map[string][]string{}
		}
		all[property] = sorted(deps.GetUrns())
	}
	return all
}

func sorted(urns []string) []string {
	if len(urns) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(urns)))
}

// Plain returns v as JSON has it, without the values of secrets.
func Plain(v resource.PropertyValue) any {
	switch {
	case v.IsSecret():
		return map[string]any{graph.SecretKey: graph.SecretMark}
	case v.IsComputed():
		return graph.Unknown
	case v.IsOutput():
		out := v.OutputValue()
		if out.Secret {
			return map[string]any{graph.SecretKey: graph.SecretMark}
		}
		if !out.Known {
			return graph.Unknown
		}
		return Plain(out.Element)
	case v.IsArray():
		items := make([]any, 0, len(v.ArrayValue()))
		for _, item := range v.ArrayValue() {
			items = append(items, Plain(item))
		}
		return items
	case v.IsObject():
		m := map[string]any{}
		for k, item := range v.ObjectValue() {
			m[string(k)] = Plain(item)
		}
		return m
	case v.IsResourceReference():
		return string(v.ResourceReferenceValue().URN)
	case v.IsAsset(), v.IsArchive():
		return "(a file)"
	}
	return v.V
}
