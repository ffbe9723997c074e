// Package pack serves the guardrails to the Pulumi engine as a policy pack, for programs of any
// language: `pulumi up --policy-pack policies/pack`. The engine finds no language host for the
// runtime that PulumiPolicy.yaml names, and so starts the program pulumi-analyzer-policy-postern.
package pack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/blang/semver"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"

	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail"
)

// Program is the name by which the engine starts this program.
const Program = "pulumi-analyzer-policy-postern"

// patience is how long the engine may be gone before this program ends.
const patience = 5 * time.Second

// Serve serves the guardrails until the engine goes away. It prints its port, as the engine
// expects.
func Serve(ctx context.Context, options guardrail.Options) error {
	if len(os.Args) < 2 {
		return errors.New("serve the policy pack: the Pulumi engine starts this program, with its address")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := rpcutil.Healthcheck(ctx, os.Args[1], patience, cancel); err != nil {
		return fmt.Errorf("serve the policy pack to the engine at %s: %w", os.Args[1], err)
	}
	end := make(chan bool)
	context.AfterFunc(ctx, func() { close(end) })
	a := &analyzer{options: options, seen: map[string]graph.Resource{}, said: map[string]bool{}}
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{Cancel: end, Init: func(s *grpc.Server) error {
		pulumirpc.RegisterAnalyzerServer(s, &server{AnalyzerServer: plugin.NewAnalyzerServer(a), analyzer: a})
		return nil
	}})
	if err != nil {
		return fmt.Errorf("serve the policy pack: %w", err)
	}
	fmt.Println(handle.Port)
	return <-handle.Done
}

// server learns what the SDK's own server does not tell its analyzer: whether this is a preview.
type server struct {
	pulumirpc.AnalyzerServer
	analyzer *analyzer
}

func (s *server) ConfigureStack(
	ctx context.Context, req *pulumirpc.AnalyzerStackConfigureRequest,
) (*pulumirpc.AnalyzerStackConfigureResponse, error) {
	s.analyzer.mu.Lock()
	s.analyzer.preview = req.GetDryRun()
	s.analyzer.mu.Unlock()
	return s.AnalyzerServer.ConfigureStack(ctx, req)
}

type analyzer struct {
	options guardrail.Options

	mu sync.Mutex
	// preview means that nothing is made, and that IDs are not known. What is not known then is
	// looked at again before each resource is made, if it says enough itself; otherwise it fails.
	preview bool
	// seen are all resources so far, with their inputs. At the end the engine only tells what a
	// provider has made of these.
	seen map[string]graph.Resource
	// said is what was reported already.
	said map[string]bool
}

var _ plugin.Analyzer = (*analyzer)(nil)

// Analyze checks one resource, before it is made.
func (a *analyzer) Analyze(_ context.Context, r plugin.AnalyzerResource) (plugin.AnalyzeResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[string(r.URN)] = resourceOf(plugin.AnalyzerStackResource{AnalyzerResource: r, Parent: r.Options.Parent})
	if a.preview { // AnalyzeStack will see all of it
		return plugin.AnalyzeResponse{}, nil
	}
	report, err := a.one(string(r.URN))
	if err != nil {
		return plugin.AnalyzeResponse{}, err
	}
	return a.answer(report, ""), nil
}

// one checks one resource. The engine does not say to what the resource refers until the end.
func (a *analyzer) one(urn string) (*guardrail.Report, error) {
	o := a.options
	o.One = urn
	g := &graph.Graph{Format: graph.Format}
	// Its ancestors say which part it plays. None is there twice, so this ends.
	for len(g.Resources) <= len(a.seen) {
		x, ok := a.seen[urn]
		if !ok {
			break
		}
		g.Resources = append(g.Resources, x)
		urn = x.Parent
	}
	if err := g.Complete(); err != nil {
		return nil, err
	}
	return guardrail.Check(g, o), nil
}

// again reports whether the finding will be looked at again before its resource is made.
func (a *analyzer) again(f guardrail.Finding) bool {
	report, err := a.one(f.Resource)
	return err == nil && slices.ContainsFunc(report.Findings, func(x guardrail.Finding) bool {
		return x.Rail == f.Rail && x.Resource == f.Resource && x.Property == f.Property && x.Verdict == f.Verdict
	})
}

// AnalyzeStack checks all resources: at the end of a preview, before anything is made.
func (a *analyzer) AnalyzeStack(
	_ context.Context, resources []plugin.AnalyzerStackResource,
) (plugin.AnalyzeResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := &graph.Graph{Format: graph.Format}
	stack := resource.URN("")
	for _, r := range resources {
		if r.Type == resource.RootStackType {
			stack = r.URN
			continue
		}
		x := resourceOf(r)
		if before, ok := a.seen[x.URN]; ok {
			x.Inputs = before.Inputs
		}
		g.Resources = append(g.Resources, x)
		g.Stack = r.URN.Stack().String()
	}
	if stack == "" && len(resources) > 0 {
		// The engine cannot show a finding without a resource.
		stack = resources[0].URN
	}
	if err := g.Complete(); err != nil {
		return plugin.AnalyzeResponse{}, err
	}
	return a.answer(guardrail.Check(g, a.options), stack), nil
}

// answer returns findings as the engine takes them. What belongs to no resource is shown at the
// stack.
func (a *analyzer) answer(report *guardrail.Report, stack resource.URN) plugin.AnalyzeResponse {
	out := plugin.AnalyzeResponse{}
	for _, f := range report.Findings {
		if f.Waiver != nil || a.said[f.Resource+" "+f.String()] {
			continue
		}
		a.said[f.Resource+" "+f.String()] = true
		d := plugin.AnalyzeDiagnostic{
			PolicyName: f.Rail, PolicyPackName: name, PolicyPackVersion: version, Description: f.What,
			Message: f.String(), EnforcementLevel: apitype.Advisory, URN: resource.URN(f.Resource),
			Severity: apitype.PolicySeverityLow,
		}
		if f.Severity == guardrail.Error && !(a.preview && f.Verdict == guardrail.Indeterminate && a.again(f)) {
			d.EnforcementLevel, d.Severity = apitype.Mandatory, apitype.PolicySeverityHigh
		}
		if d.URN == "" {
			d.URN = stack
		}
		out.Diagnostics = append(out.Diagnostics, d)
	}
	return out
}

// resourceOf returns a resource as a graph has it.
func resourceOf(r plugin.AnalyzerStackResource) graph.Resource {
	out := graph.Resource{
		URN: string(r.URN), Type: string(r.Type), Name: r.Name, Parent: string(r.Parent), Protect: r.Options.Protect,
		// A component has no provider.
		Custom: r.Provider != nil, Inputs: map[string]any{},
		PropertyDependencies: map[string][]string{},
	}
	for k, v := range r.Properties {
		out.Inputs[string(k)] = capture.Plain(v)
	}
	for k, urns := range r.PropertyDependencies {
		for _, urn := range urns {
			out.PropertyDependencies[string(k)] = append(out.PropertyDependencies[string(k)], string(urn))
		}
	}
	return out
}

const (
	name    = "postern"
	version = "0.0.1"
)

// GetAnalyzerInfo names the policies.
func (a *analyzer) GetAnalyzerInfo(context.Context) (plugin.AnalyzerInfo, error) {
	info := plugin.AnalyzerInfo{
		Name: name, DisplayName: "Postern", Version: version,
		Description: "Guardrails for environments that agents must not leave",
	}
	add := func(id, says, fix string, level apitype.EnforcementLevel) {
		info.Policies = append(info.Policies, plugin.AnalyzerPolicyInfo{
			Name: id, DisplayName: id, Description: says, Message: fix, EnforcementLevel: level,
			Type: plugin.AnalyzerPolicyTypeStack,
		})
	}
	for _, rails := range [][]guardrail.Rail{guardrail.Rails, a.options.More} {
		for _, r := range rails {
			level := apitype.Mandatory
			if r.Severity == guardrail.Warning {
				level = apitype.Advisory
			}
			add(r.ID, r.Says, r.Fix, level)
		}
	}
	add(guardrail.TypeRail, "Every type of resource is known to a guardrail.", "look at it yourself", apitype.Advisory)
	add(guardrail.WaiverRail, "Every waiver is in use, and has not ended.", "remove it", apitype.Mandatory)
	return info, nil
}

// Name implements plugin.Analyzer.
func (a *analyzer) Name() tokens.QName { return name }

// Remediate changes nothing: whoever wrote the program decides.
func (a *analyzer) Remediate(context.Context, plugin.AnalyzerResource) (plugin.RemediateResponse, error) {
	return plugin.RemediateResponse{}, nil
}

// GetPluginInfo implements plugin.Analyzer.
func (a *analyzer) GetPluginInfo(context.Context) (plugin.PluginInfo, error) {
	v := semver.MustParse(version)
	return plugin.PluginInfo{Version: &v}, nil
}

// Configure implements plugin.Analyzer: the pack has no settings but its own file.
func (a *analyzer) Configure(context.Context, map[string]plugin.AnalyzerPolicyConfig) error {
	return nil
}

// Cancel implements plugin.Analyzer.
func (a *analyzer) Cancel(context.Context) error { return nil }

// Close implements plugin.Analyzer.
func (a *analyzer) Close() error { return nil }
