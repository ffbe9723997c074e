package provider

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
)

// Node is one running `posternd node`, the supervisor of one Envoy.
type Node struct{}

// NodeArgs are the inputs.
type NodeArgs struct {
	// Home is the stack's state folder.
	Home string `pulumi:"home"`
	// ID is the name of the node's folder.
	ID string `pulumi:"nodeId"`
	// Posternd and Envoy are the paths of the binaries. Another path alone does not restart the
	// node; another digest does. Envoy's digest also covers the module that Envoy loads.
	Posternd    string `pulumi:"posternd"`
	Digest      string `pulumi:"digest"`
	Envoy       string `pulumi:"envoy"`
	EnvoyDigest string `pulumi:"envoyDigest"`
	// Module is the path of libguard.so, which Envoy loads.
	Module string `pulumi:"module,optional"`
	// Separate means that the processes run as [home.NodeUser]; see [Separate].
	Separate bool `pulumi:"separate,optional"`
}

// NodeState is the state.
type NodeState struct {
	NodeArgs
}

func (a NodeArgs) home() home.Folder   { return home.Folder{Root: a.Home} }
func (a NodeArgs) dir() string         { return a.home().NodeDir(a.ID) }
func (a NodeArgs) process() process    { return process{dir: a.dir()} }
func (a NodeArgs) client() *api.Client { return api.Dial(a.home().ControlSocket()) }

// Check refuses an ID that the control plane would refuse. At preview, the empty string stands for
// an unknown ID.
func (*Node) Check(ctx context.Context, req infer.CheckRequest) (infer.CheckResponse[NodeArgs], error) {
	args, failures, err := infer.DefaultCheck[NodeArgs](ctx, req.NewInputs)
	if err == nil && len(failures) == 0 && args.ID != "" && !svid.IsNode(args.ID) {
		failures = append(failures, p.CheckFailure{
			Property: "nodeId",
			Reason:   fmt.Sprintf("%q is not a valid name of a node: use up to 63 lower-case letters, digits and dashes, such as n1, and not control", args.ID),
		})
	}
	return infer.CheckResponse[NodeArgs]{Inputs: args, Failures: failures}, err
}

// Create starts the node and returns when it is connected to the control plane and has the fleet's
// version.
func (*Node) Create(ctx context.Context, req infer.CreateRequest[NodeArgs]) (infer.CreateResponse[NodeState], error) {
	state := NodeState{NodeArgs: req.Inputs}
	if req.DryRun {
		return infer.CreateResponse[NodeState]{Output: state}, nil
	}
	if err := req.Inputs.run(ctx); err != nil {
		return infer.CreateResponse[NodeState]{}, err
	}
	return infer.CreateResponse[NodeState]{ID: req.Inputs.ID, Output: state}, nil
}

// Read reports a node as gone if its supervisor does not run, if the control plane does not know
// the node, or if the node takes no connection of its agents. It ignores an Envoy that is down for
// the moment, which the supervisor restarts.
func (*Node) Read(
	ctx context.Context, req infer.ReadRequest[NodeArgs, NodeState],
) (infer.ReadResponse[NodeArgs, NodeState], error) {
	gone := infer.ReadResponse[NodeArgs, NodeState]{}
	_, running, err := daemon.Running(req.State.process().pidfile())
	if err != nil {
		return gone, fmt.Errorf("look at node %s: %w", req.State.ID, err)
	}
	if !running {
		return gone, nil
	}
	// A control plane that is down says nothing about its nodes.
	if s, err := status(ctx, req.State.home()); err == nil {
		if n := find(s, req.State.ID); n == nil || n.Problem != "" {
			return gone, nil
		}
	}
	return infer.ReadResponse[NodeArgs, NodeState](req), nil
}

// Diff requires a restart for other binaries.
func (*Node) Diff(_ context.Context, req infer.DiffRequest[NodeArgs, NodeState]) (infer.DiffResponse, error) {
	var d difference
	d.replace("home", req.State.Home != req.Inputs.Home)
	d.replace("nodeId", req.State.ID != req.Inputs.ID)
	d.update("digest", req.State.Digest != req.Inputs.Digest)
	d.update("envoyDigest", req.State.EnvoyDigest != req.Inputs.EnvoyDigest)
	d.update("separate", req.State.Separate != req.Inputs.Separate)
	return d.DiffResponse, nil
}

// Update restarts the node.
func (*Node) Update(
	ctx context.Context, req infer.UpdateRequest[NodeArgs, NodeState],
) (infer.UpdateResponse[NodeState], error) {
	if !req.DryRun {
		if err := req.Inputs.run(ctx); err != nil {
			return infer.UpdateResponse[NodeState]{}, err
		}
	}
	return infer.UpdateResponse[NodeState]{Output: NodeState{NodeArgs: req.Inputs}}, nil
}

// Delete stops the node, removes it from the control plane and removes its folder. Its events stay.
func (*Node) Delete(ctx context.Context, req infer.DeleteRequest[NodeState]) (infer.DeleteResponse, error) {
	if err := req.State.process().stop(ctx); err != nil {
		return infer.DeleteResponse{}, fmt.Errorf("stop node %s: %w", req.State.ID, err)
	}
	// If the control plane does not answer, it is not there to keep the node.
	if err := req.State.client().RemoveNode(ctx, req.State.ID); err != nil {
		if refusal := (*api.Error)(nil); errors.As(err, &refusal) {
			return infer.DeleteResponse{}, fmt.Errorf("remove node %s from the control plane: %w", req.State.ID, err)
		}
	}
	if err := os.RemoveAll(req.State.dir()); err != nil {
		return infer.DeleteResponse{}, fmt.Errorf("remove the folder of node %s: %w", req.State.ID, err)
	}
	os.Remove(req.State.home().NodesDir()) //nolint:errcheck // the last node's, if it is empty
	return infer.DeleteResponse{}, nil
}

func (a NodeArgs) run(ctx context.Context) error {
	if err := a.client().AddNode(ctx, a.ID); err != nil {
		return fmt.Errorf("register node %s: %w", a.ID, err)
	}
	proc := a.process()
	if err := a.start(ctx, proc); err != nil {
		return fmt.Errorf("start node %s: %w", a.ID, err)
	}
	err := proc.until(ctx, fmt.Sprintf("wait for node %s to connect", a.ID), nodeUp, func(ctx context.Context) error {
		s, err := status(ctx, a.home())
		if err != nil {
			return err
		}
		switch n := find(s, a.ID); {
		case n == nil:
			return errors.New("the control plane does not know the node")
		case n.Nack != "" && n.LastNack.After(n.LastAck):
			return fmt.Errorf("it rejects what the control plane sends: %s", n.Nack)
		case !n.Connected:
			return errors.New("it is not connected to the control plane")
		case n.Version != s.Version:
			return fmt.Errorf("it is at version %q of %q", n.Version, s.Version)
		case n.Problem != "":
			return fmt.Errorf("it does not serve: %s", n.Problem)
		}
		return nil
	})
	if err != nil {
		proc.stop(ctx) //nolint:errcheck // the first error is the one to tell
		return err
	}
	return nil
}

// start starts the process, as a user of its own if there is one.
func (a NodeArgs) start(ctx context.Context, proc process) error {
	env, err := nodeEnv()
	if err != nil {
		return err
	}
	if !a.Separate {
		return proc.start(ctx, nil, a.Posternd, env, "node", "--home", a.Home, "--id", a.ID, "--envoy", a.Envoy)
	}
	users, err := lookUp()
	if err != nil {
		return err
	}
	if err := proc.stop(ctx); err != nil { // its files' owners are about to change
		return err
	}
	if err := users.ownNode(a.dir()); err != nil {
		return err
	}
	name := a.Digest + "-" + a.EnvoyDigest
	dir, err := install(a.home(), name, a.Digest, a.Posternd)
	if err == nil {
		_, err = install(a.home(), name, a.EnvoyDigest, a.Envoy, a.Module)
	}
	if err != nil {
		return err
	}
	return proc.start(ctx, users.node, filepath.Join(dir, filepath.Base(a.Posternd)), append(env, "HOME="+a.dir()),
		"node", "--home", a.Home, "--id", a.ID, "--envoy", filepath.Join(dir, filepath.Base(a.Envoy)))
}

func find(s *api.Status, id string) *api.Node {
	if i := slices.IndexFunc(s.Nodes, func(n api.Node) bool { return n.ID == id }); i >= 0 {
		return &s.Nodes[i]
	}
	return nil
}
