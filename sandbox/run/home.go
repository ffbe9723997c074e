package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/links"
	"github.com/postern/postern/sandbox/workspace/protect"
	"github.com/postern/postern/visible"
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
func (p *Prepared) protect(folder string, files protect.Files) ([]string, error) {
	const advice = "make a copy of it with cp -a for the agent, or start the agent with --overlay"
	mounts, err := protect.Mounts(folder, files)
	if err != nil {
		return nil, err
	}
	for _, at := range append([]string{folder}, mounts...) {
		in := strings.TrimPrefix(at, folder)
		alone := func(path string) bool { return files.Has(strings.TrimPrefix(filepath.Join(in, path), "/")) }
		if err := p.own(at, alone, advice); err != nil {
			return nil, err
		}
	}
	protection, err := protect.Protect(folder, files)
	if err != nil {
		return nil, err
	}
	p.protections = append(p.protections, protection)
	p.done = append(p.done, protection.Release)
	return protection.Paths, nil
}

// ownPatience bounds the time in which a folder gets files of its own.
const ownPatience = 10 * time.Minute

// own gives a folder of the host that the command writes files of its own: see [links.Own]. An
// interrupt ends that. The advice is for whom that is not possible.
//
//nolint:contextcheck,nolintlint // the caller's context goes on at an interrupt, which is for the command
func (p *Prepared) own(folder string, alone func(at string) bool, advice string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, ownPatience, fmt.Errorf("it takes more than %v", ownPatience))
	defer cancel()
	say := func(format string, args ...any) {
		if p.notes != nil {
			fmt.Fprintf(p.notes, "postern: "+format+"\n", args...)
		}
	}
	copied, err := links.Own(ctx, folder, alone, func(c links.Copied) {
		say("copying files of %s that other folders have, too (hard links): %d so far, %d MiB",
			visible.Quote(folder), c.Files, c.Bytes>>20)
	})
	if copied.Files > 0 {
		say("%s has copies of its own now of files that had other names (hard links, as a local git clone makes "+
			"them), which the agent would have written, too: %d, %d KiB", visible.Quote(folder), copied.Files,
			(copied.Bytes+1023)>>10)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return nil
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

// nothingElse is for folders in which no program of the host runs anything.
func nothingElse(string) bool { return false }

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
	remedy := r.Home.Command("workspace", "volume", "clear", r.Agent, p.Volume.Volume)
	if err := p.own(p.Volume.Files(), nothingElse, "clear it with `"+remedy+"`"); err != nil {
		return err
	}
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
	remedy := r.Home.Command("home", "clear", r.Agent)
	if err := p.own(p.Home.Files(), nothingElse, "clear it with `"+remedy+"`"); err != nil {
		return err
	}
	in.Home = p.Home.Files()
	return nil
}
