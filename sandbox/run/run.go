// Package run decides what the sandbox of a stack's agent is: from the published plan, the state
// folder and the working directory to a [sandbox.Spec]. It refuses a working directory in which the
// agent could write what the host trusts.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/program"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/run/named"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/protect"
)

// caller is the environment that this program was started with, whatever it has made of it for
// itself.
var caller = os.Environ()

// Request describes the command to run.
type Request struct {
	// Plan is the live plan, which an operator has signed. The stack file may have changed since.
	Plan *plan.Plan
	// File is the stack file's name, for messages.
	File string
	Home home.Folder
	// Agent is the name of one of the plan's agents.
	Agent string
	// Workdir is the absolute path of the working directory: see [Workdir]. A workspace in memory
	// has none.
	Workdir string
	// Mode, if set, is the workspace of this run, which shows and changes no more of the host than
	// the agent's own.
	Mode plan.WorkspaceMode
	// PersistHome says whether the command has the home that the agent keeps.
	PersistHome Persist
	// Command is the command and its arguments.
	Command []string
	// Program is what is known of the command's program, if anything is.
	Program program.Program
	// Env are NAME=VALUE that the command gets in addition.
	Env []string
	// Notes, if set, is where [Prepare] writes what takes long, and what it has changed.
	Notes io.Writer
	// Args is the command line, for advice.
	Args []string
	// Runtime, if set, isolates this run, and no less than the agent's own.
	Runtime plan.Runtime
	// Image, if set, is the name or digest of the image that a container is made of, in place of
	// the agent's own.
	Image string
}

// Workdir returns the absolute path of dir, and makes the folder if there is none and it may be an
// agent's: then unmake, for a run that is refused later, removes what was made and is still empty. A
// path that leads into an agent's folder and out again is the agent's choice, and refused.
func Workdir(home home.Folder, dir string) (abs string, unmake func(), err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return "", nil, fmt.Errorf("find working directory: %w", err)
	}
	base := filepath.Dir(home.Root)
	folders, err := hostpath.In(base).Folders()
	if err != nil {
		return "", nil, err
	}
	there := abs
	real, err := filepath.EvalSymlinks(there)
	for errors.Is(err, fs.ErrNotExist) { // a folder that does not exist will be made where its parent is
		there = filepath.Dir(there)
		real, err = filepath.EvalSymlinks(there)
	}
	if err != nil {
		return "", nil, fmt.Errorf("find working directory: %w", err)
	}
	if err := leadsOut(folders, dir, abs, real); err != nil {
		return "", nil, err
	}
	if _, err := os.Stat(abs); !errors.Is(err, fs.ErrNotExist) {
		return abs, nil, nil
	}
	// An agent that works above could put a link there before the folder is made.
	if err := folders.Check(abs); err != nil {
		return "", nil, fmt.Errorf("make the working directory %s: %w: name a folder that is there, or one elsewhere",
			abs, err)
	}
	if err := view.Judge(abs, caller, []string{base}); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", nil, fmt.Errorf("make working directory: %w", err)
	}
	return abs, func() {
		for made := abs; made != there && os.Remove(made) == nil; {
			made = filepath.Dir(made)
		}
	}, nil
}

// leadsOut refuses a path that leads through an agent's folder to a real folder outside.
func leadsOut(folders *hostpath.Folders, dir, abs, real string) error {
	writable := (*hostpath.WritableError)(nil)
	if !errors.As(folders.Check(abs), &writable) || strings.HasPrefix(real+"/", writable.Step+"/") {
		return nil
	}
	return fmt.Errorf("use %s as working directory: %w, and leads out of there: name the folder itself", dir, writable)
}

// agent returns the agent's part of the plan.
func (r *Request) agent() (*plan.Agent, error) {
	agents := r.Plan.Agents
	if i := slices.IndexFunc(agents, func(a plan.Agent) bool { return a.Name == r.Agent }); i >= 0 {
		return &agents[i], nil
	}
	names := make([]string, len(agents))
	for i, a := range agents {
		names[i] = a.Name
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return nil, fmt.Errorf("the publication of %s has no agent %q: it has %s; "+
		"`%s` publishes the file", r.File, r.Agent, strings.Join(names, ", "), r.Home.Command("push"))
}

// Workspace returns the workspace of the run. The request may only have one that shows the agent no
// more, and lets it change no more, than what is published.
func (r *Request) Workspace() (plan.Workspace, error) {
	agent, err := r.agent()
	if err != nil {
		return plan.Workspace{}, err
	}
	own := agent.WorkspaceOrDefault()
	if r.Mode == "" || r.Mode == own.Mode {
		return own, nil
	}
	if !slices.Contains(plan.WorkspaceModes(), r.Mode) {
		return own, fmt.Errorf("--workspace %s: write one of write, read-only, overlay, tmpfs and volume", r.Mode)
	}
	reach := map[plan.WorkspaceMode]int{
		plan.WorkspaceTmpfs: 0, plan.WorkspaceVolume: 0, plan.WorkspaceReadOnly: 1, plan.WorkspaceOverlay: 1,
		plan.WorkspaceWrite: 2,
	}
	if reach[r.Mode] > reach[own.Mode] {
		return own, fmt.Errorf("agent %s has workspace %s, and %s would reach more of the folder: change its "+
			"workspace in %s, and publish that with `%s`", r.Agent, own.Mode, r.Mode, r.File, r.Home.Command("push"))
	}
	own.Mode = r.Mode
	return own, nil
}

// Prepared is a command that is ready to run.
type Prepared struct {
	// Spec has everything but the command's streams.
	Spec *sandbox.Spec
	// Layer takes what the command writes, if its workspace is an overlay, and hides files. It may
	// be nil.
	Layer *workspace.Run
	// Home is the home that the agent keeps, or nil.
	Home *workspace.Kept
	// Volume is the volume that it works in, or nil.
	Volume *workspace.Kept
	// Writes is true if the command writes the working directory itself.
	Writes bool
	// Isolation says what isolates the command, and of which image it is, unless that is what every
	// command has.
	Isolation string
	// Secrets are what looks like a secret in the working directory, if the command does not see
	// that, and Leaked of these what is in a repository's objects: see [Committed].
	Secrets *workspace.Found
	Leaked  []Leaked
	// Git says what git will not do in the working directory, and why, if it would elsewhere.
	Git string
	// OnPath is what of the caller's PATH leads into a folder that the command writes.
	OnPath []string
	// Unsaid is the folder for notes about commands whose end is not told yet.
	Unsaid string
	// Unsigned is set if the caller's commits are signed: the command's are not.
	Unsigned bool
	// Tools are what the command may have done outside its sandbox, or nil.
	Tools *Tools
	// NoTools says why the agent has no tools in this run, if it has some in others.
	NoTools string
	// protections are those of the folders of the host that the command writes.
	protections []*protect.Protection
	done        []func()
	notes       io.Writer
}

// Done must be called when the command has ended. It keeps the layer and the home.
func (p *Prepared) Done() {
	p.Tools.Close()
	for _, done := range p.done {
		done()
	}
}

// Abandon is [Prepared.Done] for a command that has not run: nothing is left of it.
func (p *Prepared) Abandon(ctx context.Context) (err error) {
	if p.Layer != nil {
		err = p.Layer.Discard(ctx)
	}
	p.Done()
	return err
}

// Prepare returns what to run. From then on the working directory counts as an agent's, if the
// agent can write there. If Prepare fails, nothing is left of it.
func Prepare(ctx context.Context, r *Request) (p *Prepared, err error) {
	agent, err := r.agent()
	if err != nil {
		return nil, err
	}
	w, err := r.Workspace()
	if err == nil {
		err = r.isolation(agent)
	}
	if err != nil {
		return nil, err
	}
	base := filepath.Dir(r.Home.Root)
	in := &view.Input{
		Agent: r.Agent, Environ: caller,
		Env: slices.Concat(r.Program.Environ(), placeholders(r.Plan, agent), r.Env),
		// The folder of all stacks of this user, not only of this one.
		Private:   []string{base},
		Workspace: view.Workspace{Mode: view.Mode(w.Mode), Size: w.Size},
	}
	folders, err := r.folder(in)
	if err != nil {
		return nil, err
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	git := askGit(asking, folders)
	in.Trusted = func(path string) bool {
		err := folders.Check(path)
		writable := (*hostpath.WritableError)(nil)
		return err == nil || errors.As(err, &writable) && writable.Names > 0 // a further name leads nowhere
	}
	for _, f := range r.Plan.Files() {
		in.Private = append(in.Private, f.Path)
	}
	spec := &sandbox.Spec{Command: r.Command}
	for _, f := range r.Program.Files {
		spec.Files = append(spec.Files, wire.File{
			Path: wire.Bytes(f.Path), Content: wire.Bytes(strings.Join(f.Lines, "\n") + "\n"),
		})
	}
	for _, rule := range agent.Rules {
		spec.Ports = append(spec.Ports, int(rule.Port))
		if rule.Gateway != 0 {
			spec.Gateways = append(spec.Gateways, int(rule.Gateway))
		}
	}
	if in.Sockets, err = socketFolders(r.Home, r.Agent); err != nil {
		return nil, err
	}
	if in.CA, err = hostpath.ReadFile(r.Home.CACert(), 1<<20); err != nil {
		return nil, fmt.Errorf("read certificate authority: %w: is the stack up? `%s` says", err,
			r.Home.Command("status"))
	}
	own, err := ownPrograms(r.Home)
	if err != nil {
		return nil, err
	}
	if err := r.trusted(folders, in.Workdir.Path, own); err != nil {
		return nil, err
	}
	if err = r.runtime(ctx, folders, spec, in); err != nil {
		return nil, err
	}
	if in.Inside, err = findInside(folders); err != nil {
		return nil, err
	}
	made := &Prepared{Spec: spec, notes: r.Notes, Unsaid: Unsaid(base)}
	p = made
	in.Git, p.Unsigned = gitSettings(<-git, agent)
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Abandon(context.WithoutCancel(ctx))) // not p: an error is returned without it
		}
	}()
	if r.Runtime != plan.RuntimeBubblewrap {
		p.Isolation = string(r.Runtime)
	}
	if spec.Container != nil {
		p.Isolation += fmt.Sprintf(", in image %s (%s)", r.Image, spec.Container.Image)
	}
	if !strings.Contains(r.Command[0], "/") {
		in.Program = r.Program.Name
	}
	switch w.Mode {
	case plan.WorkspaceWrite:
		done, err := hostpath.In(base).Use(in.Workdir.Path, r.owner())
		if err != nil {
			return nil, err
		}
		p.Writes, spec.Begin = true, p.lost
		p.OnPath = named.OnPath(in.Environ, in.Workdir.Path)
		p.done = append(p.done, func() { done(made.unprotect) }) // not p, as above
		if err := named.Refuse(in.Workdir.Path, caller, elsewhere(in.Workdir.Path)); err != nil {
			return nil, err
		}
		files := protect.WorkdirOf(in.Workdir.Path).And(named.Protectable(in.Workdir.Path, Named(in.Workdir.Path)))
		if in.Workspace.Protected, err = p.protect(in.Workdir.Path, files); err != nil {
			return nil, err
		}
	case plan.WorkspaceOverlay, plan.WorkspaceReadOnly:
		if err := p.layer(ctx, folders, r, in, w); err != nil {
			return nil, err
		}
	}
	if err := p.volume(r, in, w); err != nil {
		return nil, err
	}
	if err := p.repository(ctx, r, folders, in, w.Hide); err != nil {
		return nil, err
	}
	if err := p.home(r, in, agent); err != nil {
		return nil, err
	}
	if err := p.listenForTools(r, in, agent); err != nil {
		return nil, err
	}
	if spec.View, err = view.Make(in); err != nil {
		return nil, err
	}
	if err := r.findProgram(spec); err != nil {
		return nil, err
	}
	for at, to := range spec.View.HomeLinks {
		if err := p.Home.Link(at, to, spec.View.HostHome); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// findProgram has the command start the program of this machine, not one of that name in a folder
// that an agent can write.
func (r *Request) findProgram(spec *sandbox.Spec) error {
	if r.Program.Name == "" || spec.Container != nil || strings.Contains(r.Command[0], "/") {
		return nil
	}
	if spec.View.Program == "" {
		return &sandbox.RefusedError{Status: exit.NotFound, Message: fmt.Sprintf(
			"%s is not on PATH in a folder that the sandbox shows and no agent can write: install it, e.g. in "+
				"~/.local/bin (`%s` says which folders are not shown), or start it by its path", r.Command[0],
			r.Home.Command("run", "-v")+" -- true")}
	}
	spec.Command = slices.Concat([]string{spec.View.Program}, r.Command[1:])
	return nil
}

// folder looks at the working directory, if there is one, and returns the folders that agents may
// write. This one is among them: whether the agent can write there or only read, nothing that the
// host trusts may be there.
func (r *Request) folder(in *view.Input) (*hostpath.Folders, error) {
	registry := hostpath.In(filepath.Dir(r.Home.Root))
	if !plan.WorkspaceMode(in.Workspace.Mode).HasFolder() {
		return registry.Folders()
	}
	var err error
	if in.Workdir, err = view.Look(r.Workdir, in.Environ, in.Private); err != nil {
		return nil, err
	}
	folders, err := registry.Folders(in.Workdir.Path)
	if err != nil {
		return nil, err
	}
	// Of what was found: an agent that works above may have put a link there since Workdir looked.
	return folders, leadsOut(folders, r.Workdir, r.Workdir, in.Workdir.Path)
}

// placeholders are the variables that the clients of the agent's credentials
// insist on. What they send is replaced on the way.
func placeholders(p *plan.Plan, a *plan.Agent) []string {
	var env []string
	for _, c := range p.Credentials {
		if !slices.ContainsFunc(a.Rules, func(r plan.Rule) bool { return r.Credential == c.Name }) {
			continue
		}
		for _, name := range c.Placeholders {
			env = append(env, name+"=postern")
		}
	}
	return env
}

// socketFolders are the folders of the agent's sockets, one per node.
func socketFolders(home home.Folder, agent string) ([]string, error) {
	nodes, err := os.ReadDir(home.NodesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find nodes: %w", err)
	}
	var folders []string
	for _, n := range nodes {
		if folder, err := hostpath.OpenBelow(home.Root, home.AgentDir(n.Name(), agent)); err == nil {
			folder.Close()
			folders = append(folders, folder.Name())
		}
	}
	switch {
	case len(nodes) == 0:
		return nil, fmt.Errorf("find nodes: the stack is not up: run `%s`", home.Command("up"))
	case len(folders) == 0:
		return nil, fmt.Errorf("find nodes: no node serves the agent %q yet: publish the stack file with `%s`",
			agent, home.Command("push"))
	}
	return folders, nil
}
