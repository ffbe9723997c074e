package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/xds/api"
)

// ControlPlane is a running `posternd control`.
type ControlPlane struct{}

// ControlPlaneArgs are the inputs.
type ControlPlaneArgs struct {
	// Home is the stack's state folder.
	Home string `pulumi:"home"`
	// Posternd is the path of the binary. Another path alone does not restart the process.
	Posternd string `pulumi:"posternd"`
	// Digest is the binary's digest. Another digest restarts the process.
	Digest string `pulumi:"digest"`
	// CAFingerprint is the fingerprint of the agents' authority. Another fingerprint restarts the
	// process.
	CAFingerprint string `pulumi:"caFingerprint"`
	// Variables are the names of the environment variables that hold secrets. If the caller's value
	// of one differs from the running process's, the process restarts: this is how such a secret is
	// rotated.
	Variables []string `pulumi:"variables,optional"`
	// Separate means that the process runs as [home.ControlUser]; see [Separate].
	Separate bool `pulumi:"separate,optional"`
}

// ControlPlaneState is the state.
type ControlPlaneState struct {
	ControlPlaneArgs
	// Socket is the path at which the control plane answers operators.
	Socket string `pulumi:"socket"`
}

func (a ControlPlaneArgs) home() home.Folder { return home.Folder{Root: a.Home} }
func (a ControlPlaneArgs) process() process  { return process{dir: a.home().ControlDir()} }

// Create starts the control plane and returns when it answers. It replaces one that already runs,
// because nothing says what that one is.
func (*ControlPlane) Create(
	ctx context.Context, req infer.CreateRequest[ControlPlaneArgs],
) (infer.CreateResponse[ControlPlaneState], error) {
	state := ControlPlaneState{ControlPlaneArgs: req.Inputs, Socket: req.Inputs.home().ControlSocket()}
	if req.DryRun {
		return infer.CreateResponse[ControlPlaneState]{Output: state}, nil
	}
	if err := req.Inputs.run(ctx); err != nil {
		return infer.CreateResponse[ControlPlaneState]{}, err
	}
	return infer.CreateResponse[ControlPlaneState]{ID: "control", Output: state}, nil
}

// Read reports a control plane as gone if it does not run, or does not answer operators and nodes.
func (*ControlPlane) Read(
	ctx context.Context, req infer.ReadRequest[ControlPlaneArgs, ControlPlaneState],
) (infer.ReadResponse[ControlPlaneArgs, ControlPlaneState], error) {
	gone := infer.ReadResponse[ControlPlaneArgs, ControlPlaneState]{}
	_, running, err := daemon.Running(req.State.process().pidfile())
	if err != nil {
		return gone, fmt.Errorf("look at the control plane: %w", err)
	}
	if !running {
		return gone, nil
	}
	if _, err := status(ctx, req.State.home()); err != nil {
		return gone, ctx.Err()
	}
	// Nodes that are connected would not notice that no other can connect.
	conn, err := (&net.Dialer{Timeout: answer}).DialContext(ctx, "unix", req.State.home().XDSSocket())
	if err != nil {
		return gone, ctx.Err()
	}
	conn.Close()
	return infer.ReadResponse[ControlPlaneArgs, ControlPlaneState](req), nil
}

// Diff requires a restart for another binary, authority or value of a secret's variable.
func (*ControlPlane) Diff(
	ctx context.Context, req infer.DiffRequest[ControlPlaneArgs, ControlPlaneState],
) (infer.DiffResponse, error) {
	var d difference
	d.replace("home", req.State.Home != req.Inputs.Home)
	d.update("digest", req.State.Digest != req.Inputs.Digest)
	d.update("caFingerprint", req.State.CAFingerprint != req.Inputs.CAFingerprint)
	d.update("variables", req.Inputs.stale(ctx, req.State.Variables))
	d.update("separate", req.State.Separate != req.Inputs.Separate)
	d.update("operator", !bundle.HasKey(req.Inputs.home().OperatorKey(), req.Inputs.home().Trusted()))
	return d.DiffResponse, nil
}

// Update restarts the control plane. Its nodes reconnect by themselves.
func (*ControlPlane) Update(
	ctx context.Context, req infer.UpdateRequest[ControlPlaneArgs, ControlPlaneState],
) (infer.UpdateResponse[ControlPlaneState], error) {
	state := ControlPlaneState{ControlPlaneArgs: req.Inputs, Socket: req.Inputs.home().ControlSocket()}
	if !req.DryRun {
		if err := req.Inputs.run(ctx); err != nil {
			return infer.UpdateResponse[ControlPlaneState]{}, err
		}
	}
	return infer.UpdateResponse[ControlPlaneState]{Output: state}, nil
}

// Delete stops the control plane and removes its working folder.
func (*ControlPlane) Delete(
	ctx context.Context, req infer.DeleteRequest[ControlPlaneState],
) (infer.DeleteResponse, error) {
	if err := req.State.process().stop(ctx); err != nil {
		return infer.DeleteResponse{}, fmt.Errorf("stop the control plane: %w", err)
	}
	for _, dir := range []string{req.State.home().ControlDir(), req.State.home().OperatorDir(), programs(req.State.home())} {
		if err := os.RemoveAll(dir); err != nil {
			return infer.DeleteResponse{}, fmt.Errorf("remove the control plane's folder: %w", err)
		}
	}
	return infer.DeleteResponse{}, nil
}

func (a ControlPlaneArgs) run(ctx context.Context) error {
	if err := a.home().CheckSockets(); err != nil {
		return err
	}
	if err := bundle.MakeKey(a.home().OperatorKey(), a.home().Trusted()); err != nil {
		return err
	}
	proc := a.process()
	if err := a.start(ctx, proc); err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	err := proc.until(ctx, "wait for the control plane to answer", controlUp, func(ctx context.Context) error {
		_, err := status(ctx, a.home())
		return err
	})
	if err != nil {
		proc.stop(ctx) //nolint:errcheck // the first error is the one to tell
		return err
	}
	return a.gather(ctx)
}

// start starts the process, as a user of its own if there is one.
func (a ControlPlaneArgs) start(ctx context.Context, proc process) error {
	env, err := controlEnv()
	if err != nil {
		return err
	}
	if !a.Separate {
		return proc.start(ctx, nil, a.Posternd, env, "control", "--home", a.Home)
	}
	users, err := lookUp()
	if err != nil {
		return err
	}
	if err := proc.stop(ctx); err != nil { // its files' owners are about to change
		return err
	}
	if err := users.own(a.home()); err != nil {
		return err
	}
	dir, err := install(a.home(), a.Digest, a.Digest, a.Posternd)
	if err != nil {
		return err
	}
	env = append(env, "HOME="+a.home().ControlDir()) // the last one counts
	return proc.start(ctx, users.control, filepath.Join(dir, filepath.Base(a.Posternd)), env,
		"control", "--home", a.Home, "--nodes-group", home.NodeUser)
}

// gather returns when the control plane has the publication, and the running nodes have reconnected
// to it. Nodes that do not reconnect are not a failure of the control plane: gather reports them,
// and they keep their version.
func (a ControlPlaneArgs) gather(ctx context.Context) error {
	_, err := operator(a.home()).Read(ctx)
	published := err == nil
	err = a.process().until(ctx, "wait for the nodes to come back to the control plane", nodeUp, func(ctx context.Context) error {
		s, err := status(ctx, a.home())
		if err != nil {
			return err
		}
		if published && s.Version == "" {
			return errors.New("it has not loaded the bundle")
		}
		for _, n := range s.Nodes {
			_, running, err := daemon.Running(process{dir: a.home().NodeDir(n.ID)}.pidfile())
			if err == nil && running && (!n.Connected || n.Version != s.Version) {
				return fmt.Errorf("node %s is not back", n.ID)
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		p.GetLogger(ctx).Warning(err.Error())
		return nil
	}
	return err
}

// stale reports whether the caller's environment has a secret that the running control plane has
// not, or has with another value. One that the caller lacks is left alone: `up` from another
// terminal must not take secrets away. The control plane is asked only about the variables that it
// was given before. Nobody has agreed yet to a name that is new, so its value is sent nowhere.
func (a ControlPlaneArgs) stale(ctx context.Context, before []string) bool {
	ours := map[string]string{}
	for _, name := range a.Variables {
		value, ok := os.LookupEnv(name)
		switch {
		case !ok:
		case !slices.Contains(before, name):
			return true
		default:
			ours[name] = value
		}
	}
	if len(ours) == 0 {
		return false
	}
	names, err := api.Dial(a.home().ControlSocket()).Differing(ctx, ours)
	return err == nil && len(names) > 0 // if it does not answer, Read tells
}
