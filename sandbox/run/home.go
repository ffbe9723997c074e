package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace"
)

// Persist says whether a command has the home that its agent keeps: "true", "false", or "" for what
// the plan says.
type Persist string

// Flag adds the flag that sets p.
func (p *Persist) Flag(flags *pflag.FlagSet) {
	flags.BoolFunc("persist-home",
		"whether the command has the home that the agent keeps (default: what the stack file says, or an empty one)",
		func(value string) error {
			b, err := strconv.ParseBool(value)
			*p = Persist(strconv.FormatBool(b))
			return err
		})
}

// Bound calls stop when the layer, the home or the volume has become too large, or a file that
// programs of this machine run is no longer protected, until ctx ends.
func (p *Prepared) Bound(ctx context.Context, stop func(error)) {
	for _, protection := range p.protections {
		go protection.Watch(ctx, stop)
	}
	if p.Layer != nil {
		go p.Layer.Bound(ctx, stop)
	}
	for _, kept := range []*workspace.Kept{p.Home, p.Volume} {
		if kept != nil {
			go kept.Bound(ctx, stop)
		}
	}
}

// protect keeps the command from writing the files in a folder that it writes, and returns their
// paths there.
func (p *Prepared) protect(folder string, files workspace.Files) ([]string, error) {
	protection, err := workspace.Protect(folder, files)
	if err != nil {
		return nil, err
	}
	p.protections = append(p.protections, protection)
	p.done = append(p.done, protection.Release)
	return protection.Paths, nil
}

// Written returns the real paths of the folders of the host that the command writes: the working
// directory, and git's.
func (p *Prepared) Written() (folders []string) {
	for _, protection := range p.protections {
		folders = append(folders, protection.Folder)
	}
	return folders
}

// lost returns why a file may no longer be protected, or nil.
func (p *Prepared) lost() (err error) {
	for _, protection := range p.protections {
		err = errors.Join(err, protection.Lost())
	}
	return err
}

// unprotect removes what was made for the protection, if this is the last command in the working
// directory. Git's folder elsewhere has it for this working directory alone.
func (p *Prepared) unprotect() {
	for _, protection := range p.protections {
		protection.Remove()
	}
}

// defaultVolume is the name of a volume that has no other one.
const defaultVolume = "workspace"

// volume takes the volume in which the command works, if it works in one.
func (p *Prepared) volume(r *Request, in *view.Input, w plan.Workspace) error {
	if w.Mode != plan.WorkspaceVolume {
		return nil
	}
	if p.Spec.Container != nil && os.Getuid() == 0 {
		return fmt.Errorf("agent %s works in a volume, and root's containers have another user than its owner: "+
			"write --workspace tmpfs, or run this as an ordinary user", r.Agent)
	}
	var err error
	p.Volume, err = workspace.Keep(r.Home.KeptDir(), r.Agent, cmp.Or(w.Volume, defaultVolume), w.Size)
	if err != nil {
		return err
	}
	p.done = append(p.done, p.Volume.Close)
	in.Workspace.Volume = p.Volume.Files()
	return nil
}

// home takes the home that the agent keeps, if the command shall have it.
func (p *Prepared) home(r *Request, in *view.Input, agent *plan.Agent) error {
	persist, size := agent.Home != nil, uint64(0)
	if persist {
		size = agent.Home.Size
	}
	if r.PersistHome != "" {
		persist = r.PersistHome == "true"
	}
	if !persist {
		return nil
	}
	if p.Spec.Container != nil && os.Getuid() == 0 {
		return fmt.Errorf("agent %s has a home that persists, and root's containers have another user than its owner: "+
			"write --persist-home=false, or run this as an ordinary user", r.Agent)
	}
	var err error
	if p.Home, err = workspace.Keep(r.Home.KeptDir(), r.Agent, "", size); err != nil {
		return err
	}
	p.done = append(p.done, p.Home.Close)
	in.Home = p.Home.Files()
	return nil
}
