package run

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/vm"
)

// runsc is the name by which a container engine knows gVisor.
const runsc = "runsc"

// isolation completes the request by what is published for the agent. A request may only have a
// runtime that isolates no less than that. It may have another image, with which the agent may do
// no more.
func (r *Request) isolation(agent *plan.Agent) error {
	own := agent.RuntimeOrDefault()
	if r.Runtime = cmp.Or(r.Runtime, own); r.Runtime.HasImage() {
		r.Image = cmp.Or(r.Image, agent.Image)
	}
	switch {
	case !slices.Contains(plan.Runtimes(), r.Runtime):
		return fmt.Errorf("%q is not a runtime: there are %v", r.Runtime, plan.Runtimes())
	case r.Runtime.Weaker(own):
		return fmt.Errorf("agent %s has runtime %s, and %s isolates less: change its runtime in %s, and publish that "+
			"with `%s`", r.Agent, own, r.Runtime, r.File, r.Home.Command("push"))
	case r.Image != "" && !plan.IsImage(r.Image):
		return fmt.Errorf("%q is not the name of an image: `docker images` lists those that are here", r.Image)
	}
	return nil
}

// runtime decides how spec runs, and what it sees besides the working directory.
func (r *Request) runtime(
	ctx context.Context, folders *hostpath.Folders, spec *sandbox.Spec, in *view.Input,
) (err error) {
	if !r.Runtime.HasImage() {
		if r.Image != "" {
			return fmt.Errorf("%s has no images: name the runtime of %s with --runtime container", r.Runtime, r.Image)
		}
		if spec.Bubblewrap, err = findBubblewrap(folders); err != nil || r.Runtime != plan.RuntimeVM {
			return err
		}
		inside, err := findInside(folders)
		if err != nil {
			return err
		}
		if spec.VM, err = vm.Find(ctx, folders, inside, filepath.Join(r.Home.Root, "vm")); err != nil {
			return fmt.Errorf("runtime %s: %w", r.Runtime, err)
		}
		return nil
	}
	if r.Image == "" {
		return fmt.Errorf("the runtime %s needs an image, and none is named: `docker images` lists those that are "+
			"here; then: postern run --agent %s --runtime %s --image IMAGE -- COMMAND", r.Runtime, r.Agent, r.Runtime)
	}
	socket, err := findEngine(folders)
	if err != nil {
		return err
	}
	engine, err := container.Open(ctx, socket)
	if err != nil {
		return fmt.Errorf("runtime %s: %w", r.Runtime, err)
	}
	o := &container.Options{Socket: socket, Folder: filepath.Join(r.Home.Root, "containers")}
	info, err := engine.Info(ctx)
	if err != nil {
		return fmt.Errorf("runtime %s: %w", r.Runtime, err)
	}
	o.Users = info.Users()
	if r.Runtime == plan.RuntimeGVisor {
		o.Runtime, o.Foreign = runsc, true
		if err := checkGVisor(info); err != nil {
			return fmt.Errorf("runtime %s: %w", r.Runtime, err)
		}
	}
	// Inside, the folder cannot be told from another one: gVisor gives it numbers of its own, and
	// so does an overlay.
	layered := in.Workspace.Mode == view.Overlay || in.Workspace.Mode == view.ReadOnly
	if in.Workdir.Path != "" && (o.Foreign || layered) {
		if err := folders.Check(filepath.Dir(in.Workdir.Path)); err != nil {
			return fmt.Errorf("runtime %s: another agent may replace the working directory: %w", r.Runtime, err)
		}
	}
	image, err := engine.Image(ctx, r.Image)
	if err != nil {
		return fmt.Errorf("runtime %s: %w", r.Runtime, err)
	}
	o.Image = image.ID
	for place := range image.Config.Volumes {
		o.Volumes = append(o.Volumes, place)
	}
	slices.Sort(o.Volumes)
	spec.Container, in.Image = o, &view.Image{Env: image.Config.Env}
	return nil
}

// gvisorArguments are what the engine's configuration tells gVisor: to let a container open the
// proxy's socket, and to have no network whatever the engine says.
var gvisorArguments = []string{"--host-uds=open", "--network=none"}

// gvisorRemedy writes what the engine's configuration needs for gVisor.
const gvisorRemedy = "postern doctor --fix gvisor"

// checkGVisor makes sure that the engine knows gVisor, and starts it as it has to.
func checkGVisor(info *container.Info) error {
	known, ok := info.Runtimes[runsc]
	if !ok {
		return &container.UnusableError{
			Why:    "the container engine does not know gVisor: apt install runsc, and then write its configuration",
			Remedy: gvisorRemedy,
		}
	}
	for _, needed := range gvisorArguments {
		if !slices.Contains(known.Args, needed) {
			return &container.UnusableError{
				Why:    "the container engine starts gVisor without " + needed,
				Remedy: gvisorRemedy,
			}
		}
	}
	return nil
}
