// Package local groups the resources of package provider into the environment of a stack with
// `target: local`: everything is on this machine.
package local

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
)

// Binary is one of our programs or Envoy, with the SHA-256 of its file and of the files that it
// loads from the same folder, in hexadecimal. Another digest restarts the processes that run it.
type Binary struct{ Path, Digest string }

// EnvironmentArgs say what to run, and where.
type EnvironmentArgs struct {
	Home home.Folder
	Plan *plan.Plan
	// Nodes is the number of Envoys, at least one.
	Nodes           int
	Posternd, Envoy Binary
	// Module is the path of the library that Envoy loads. Envoy's digest covers both files.
	Module string
	// Separate gives the control plane and the nodes users of their own.
	Separate bool
}

// Environment is the local environment of one stack.
type Environment struct {
	pulumi.ResourceState

	// Certificate is the certificate of the agents' authority, in PEM.
	Certificate pulumi.StringOutput `pulumi:"certificate"`
	// Socket is the control plane's socket.
	Socket pulumi.StringOutput `pulumi:"socket"`
	// Version is the version of the live plan.
	Version pulumi.StringOutput `pulumi:"version"`
}

type authority struct {
	pulumi.CustomResourceState
	Certificate pulumi.StringOutput `pulumi:"certificate"`
	Fingerprint pulumi.StringOutput `pulumi:"fingerprint"`
}

type control struct {
	pulumi.CustomResourceState
	Home   pulumi.StringOutput `pulumi:"home"`
	Socket pulumi.StringOutput `pulumi:"socket"`
}

type node struct {
	pulumi.CustomResourceState
	NodeID pulumi.StringOutput `pulumi:"nodeId"`
}

type published struct {
	pulumi.CustomResourceState
	Version pulumi.StringOutput `pulumi:"planVersion"`
}

// NewEnvironment declares the environment. The order of creation follows from
// the inputs: authority, control plane, nodes one by one, bundle.
func NewEnvironment(ctx *pulumi.Context, name string, args *EnvironmentArgs, opts ...pulumi.ResourceOption) (*Environment, error) {
	if args.Nodes < 1 {
		return nil, fmt.Errorf("declare environment %s: it has no node", name)
	}
	encoded, err := args.Plan.Encode()
	if err != nil {
		return nil, err
	}
	version, err := args.Plan.Version()
	if err != nil {
		return nil, err
	}
	env := &Environment{}
	if err := ctx.RegisterComponentResource("postern:local:Environment", name, env, opts...); err != nil {
		return nil, fmt.Errorf("declare environment %s: %w", name, err)
	}
	child := pulumi.Parent(env)
	declare := func(kind, suffix string, props pulumi.Map, res pulumi.CustomResource, opts ...pulumi.ResourceOption) error {
		if err := ctx.RegisterResource("postern:local:"+kind, name+suffix, props, res, append(opts, child)...); err != nil {
			return fmt.Errorf("declare %s%s: %w", name, suffix, err)
		}
		return nil
	}

	ca := &authority{}
	if err := declare("CertificateAuthority", "-ca", pulumi.Map{
		"dir":   pulumi.String(args.Home.CADir()),
		"stack": pulumi.String(args.Plan.Stack),
	}, ca); err != nil {
		return nil, err
	}

	cp := &control{}
	if err := declare("ControlPlane", "-control", pulumi.Map{
		"home":          pulumi.String(args.Home.Root),
		"posternd":      pulumi.String(args.Posternd.Path),
		"digest":        pulumi.String(args.Posternd.Digest),
		"caFingerprint": ca.Fingerprint,
		"variables":     pulumi.ToStringArray(variables(args.Plan)),
		"separate":      pulumi.Bool(args.Separate),
	}, cp); err != nil {
		return nil, err
	}

	members := pulumi.StringArray{}
	// One after the other, so that an upgrade never has all of them down.
	var before []pulumi.Resource
	for i := 1; i <= args.Nodes; i++ {
		n := &node{}
		if err := declare("Node", fmt.Sprintf("-node-%d", i), pulumi.Map{
			"home":        cp.Home,
			"nodeId":      pulumi.String(fmt.Sprintf("n%d", i)),
			"posternd":    pulumi.String(args.Posternd.Path),
			"digest":      pulumi.String(args.Posternd.Digest),
			"envoy":       pulumi.String(args.Envoy.Path),
			"envoyDigest": pulumi.String(args.Envoy.Digest),
			"module":      pulumi.String(args.Module),
			"separate":    pulumi.Bool(args.Separate),
		}, n, pulumi.DependsOn(before)); err != nil {
			return nil, err
		}
		before = []pulumi.Resource{n}
		members = append(members, n.NodeID)
	}

	live := &published{}
	if err := declare("Bundle", "-bundle", pulumi.Map{
		"home":        cp.Home,
		"plan":        pulumi.String(string(encoded)),
		"planVersion": pulumi.String(version),
		"members":     members,
	}, live); err != nil {
		return nil, err
	}

	env.Certificate, env.Socket, env.Version = ca.Certificate, cp.Socket, live.Version
	if err := ctx.RegisterResourceOutputs(env, pulumi.Map{
		"certificate": env.Certificate,
		"socket":      env.Socket,
		"version":     env.Version,
	}); err != nil {
		return nil, fmt.Errorf("declare outputs of %s: %w", name, err)
	}
	return env, nil
}

// variables are the names of the environment variables that p's secrets are in.
func variables(p *plan.Plan) []string {
	var names []string
	for _, c := range p.Credentials {
		if r, err := plan.ParseReference(c.Secret); err == nil && r.Source == plan.SourceEnv {
			names = append(names, r.Name)
		}
	}
	return names
}
