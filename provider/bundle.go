package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pulumi/pulumi-go-provider/infer"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// Bundle is the plan, published and live on every node.
type Bundle struct {
	// over is the publication that a person was shown, or nil.
	over *bundle.Bundle
}

// BundleArgs are the inputs.
type BundleArgs struct {
	// Home is the stack's state folder.
	Home string `pulumi:"home"`
	// Plan is the canonical JSON of the plan. It holds no secret.
	Plan string `pulumi:"plan"`
	// Version is the plan's content hash. An input named "version" would be the engine's own.
	Version string `pulumi:"planVersion"`
	// Members are the nodes that must have the plan. They are inputs so that the engine knows the
	// order. A new node fetches the bundle by itself.
	Members []string `pulumi:"members"`
}

// BundleState is the state. Version is the version that was live last.
type BundleState struct {
	BundleArgs
	// Nodes is the number of nodes that acknowledged the version when it was published. Millis is
	// the time until all of them had done so, in milliseconds.
	Nodes  int     `pulumi:"nodes"`
	Millis float64 `pulumi:"millis"`
}

func (a BundleArgs) home() home.Folder { return home.Folder{Root: a.Home} }

// store returns the folder of the bundle store, or "" if the store is not a folder of this machine.
func (a BundleArgs) store() string {
	u, err := url.Parse(a.home().BundleURL())
	if err != nil || u.Scheme != "file" {
		return ""
	}
	return u.Path
}

// Create publishes the plan and returns when every node has acknowledged it.
func (b *Bundle) Create(
	ctx context.Context, req infer.CreateRequest[BundleArgs],
) (infer.CreateResponse[BundleState], error) {
	if req.DryRun {
		return infer.CreateResponse[BundleState]{Output: BundleState{BundleArgs: req.Inputs}}, nil
	}
	state, err := req.Inputs.publish(ctx, b.over)
	if err != nil {
		return infer.CreateResponse[BundleState]{}, err
	}
	return infer.CreateResponse[BundleState]{ID: "bundle", Output: state}, nil
}

// Read asks the control plane which version is live. If the control plane does not answer, only the
// store tells whether the bundle exists.
func (*Bundle) Read(
	ctx context.Context, req infer.ReadRequest[BundleArgs, BundleState],
) (infer.ReadResponse[BundleArgs, BundleState], error) {
	store := req.State.store()
	if _, err := os.Stat(store); store != "" && os.IsNotExist(err) {
		return infer.ReadResponse[BundleArgs, BundleState]{}, nil
	}
	if s, err := status(ctx, req.State.home()); err == nil {
		if s.Version == "" {
			return infer.ReadResponse[BundleArgs, BundleState]{}, nil
		}
		req.State.Version = s.Version
	}
	return infer.ReadResponse[BundleArgs, BundleState](req), nil
}

// Diff requires a publication if another version is live.
func (*Bundle) Diff(_ context.Context, req infer.DiffRequest[BundleArgs, BundleState]) (infer.DiffResponse, error) {
	var d difference
	d.replace("home", req.State.Home != req.Inputs.Home)
	d.update("planVersion", req.State.Version != req.Inputs.Version)
	return d.DiffResponse, nil
}

// Update publishes the plan and returns when every node has acknowledged it. If a node rejects the
// plan, the previous version stays live.
func (b *Bundle) Update(
	ctx context.Context, req infer.UpdateRequest[BundleArgs, BundleState],
) (infer.UpdateResponse[BundleState], error) {
	if req.DryRun {
		return infer.UpdateResponse[BundleState]{Output: BundleState{BundleArgs: req.Inputs}}, nil
	}
	state, err := req.Inputs.publish(ctx, b.over)
	if err != nil {
		return infer.UpdateResponse[BundleState]{}, err
	}
	return infer.UpdateResponse[BundleState]{Output: state}, nil
}

// Delete removes the store if it is in the state folder. A store elsewhere belongs to whoever
// created it. The nodes keep their version until they stop.
func (*Bundle) Delete(_ context.Context, req infer.DeleteRequest[BundleState]) (infer.DeleteResponse, error) {
	store := req.State.store()
	if filepath.Dir(store) != filepath.Clean(req.State.Home) {
		return infer.DeleteResponse{}, nil
	}
	if err := os.RemoveAll(store); err != nil {
		return infer.DeleteResponse{}, fmt.Errorf("remove bundle store: %w", err)
	}
	return infer.DeleteResponse{}, nil
}

// operator returns the operator who publishes to the stack of the folder.
func operator(home home.Folder) *bundle.Operator {
	return &bundle.Operator{
		Store: &bundle.Store{URL: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), Authority: bundle.CertificateIn(home.CACert())},
		Key:   home.OperatorKey(), Controls: []*api.Client{api.Dial(home.ControlSocket())},
	}
}

func (a BundleArgs) publish(ctx context.Context, over *bundle.Bundle) (BundleState, error) {
	var pl plan.Plan
	dec := json.NewDecoder(bytes.NewReader([]byte(a.Plan)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&pl); err != nil {
		return BundleState{}, infer.ProviderErrorf("decode the plan: %w", err)
	}
	version, err := pl.Version()
	if err != nil {
		return BundleState{}, err
	}
	if version != a.Version {
		return BundleState{}, infer.ProviderErrorf("the plan is version %s, not %s", version, a.Version)
	}
	o := operator(a.home())
	o.Over = over
	if o.Killed, err = readKills(a.home()); err != nil {
		return BundleState{}, err
	}
	got, err := o.Publish(ctx, &pl)
	if err != nil {
		return BundleState{}, fmt.Errorf("publish version %s: %w", a.Version, err)
	}
	state := BundleState{BundleArgs: a, Nodes: got.Nodes, Millis: got.Millis}
	state.Version = got.Version
	return state, nil
}
