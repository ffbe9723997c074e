// Package run decides what the sandbox of a stack's agent is: from the published plan, the state
// folder and the working directory to a [sandbox.Spec]. It refuses a working directory in which the
// agent could write what the host trusts.
package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
)

// Request describes the command to run.
type Request struct {
	// Plan is the one that is live: what runs is what an operator has signed, not what the stack
	// file says at the moment.
	Plan *plan.Plan
	// File is the stack file's name, for messages.
	File string
	Home home.Folder
	// Agent is the name of one of the plan's agents.
	Agent string
	// Workdir is the absolute path of the working directory: see [Workdir].
	Workdir string
	// Env are NAME=VALUE that the command gets in addition.
	Env []string
	// Args is the command line, for advice.
	Args []string
}

// Workdir returns the absolute path of dir, and makes the folder if there is none. A path that
// leads into an agent's folder and out again is the agent's choice, and refused.
func Workdir(home home.Folder, dir string) (abs string, made bool, err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return "", false, fmt.Errorf("find working directory: %w", err)
	}
	folders, err := hostpath.In(filepath.Dir(home.Root)).Folders()
	if err != nil {
		return "", false, err
	}
	there := abs
	real, err := filepath.EvalSymlinks(there)
	for errors.Is(err, fs.ErrNotExist) { // what is not there yet is made where its folder is
		there = filepath.Dir(there)
		real, err = filepath.EvalSymlinks(there)
	}
	if err != nil {
		return "", false, fmt.Errorf("find working directory: %w", err)
	}
	if err := leadsOut(folders, dir, abs, real); err != nil {
		return "", false, err
	}
	if _, err := os.Stat(abs); !errors.Is(err, fs.ErrNotExist) {
		return abs, false, nil
	}
	// An agent that works above could have a link there by the time that the folder is made.
	if err := folders.Check(abs); err != nil {
		return "", false, fmt.Errorf("make the working directory %s: %w: name a folder that is there, or one elsewhere",
			abs, err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", false, fmt.Errorf("make working directory: %w", err)
	}
	return abs, true, nil
}

// leadsOut refuses the absolute path of a folder that leads through an agent's folder to the real
// one outside of it.
func leadsOut(folders *hostpath.Folders, dir, abs, real string) error {
	writable := (*hostpath.WritableError)(nil)
	if !errors.As(folders.Check(abs), &writable) || strings.HasPrefix(real+"/", writable.Step+"/") {
		return nil
	}
	return fmt.Errorf("use %s as working directory: %w, and leads out of there: name the folder itself", dir, writable)
}

// Prepare returns what to run, without the command and its streams. From then on the working
// directory counts as an agent's. The caller calls done when the command has ended.
func Prepare(r *Request) (spec *sandbox.Spec, done func(), err error) {
	agents := r.Plan.Agents
	i := slices.IndexFunc(agents, func(a plan.Agent) bool { return a.Name == r.Agent })
	if i < 0 {
		names := make([]string, len(agents))
		for i, a := range agents {
			names[i] = a.Name
		}
		if len(names) == 0 {
			names = []string{"none"}
		}
		return nil, nil, fmt.Errorf("the publication of %s has no agent %q: it has %s; "+
			"`postern push` publishes the file", r.File, r.Agent, strings.Join(names, ", "))
	}
	base := filepath.Dir(r.Home.Root)
	in := &view.Input{
		Agent: r.Agent, Environ: os.Environ(), Env: append(placeholders(r.Plan, &agents[i]), r.Env...),
		// The folder of all stacks of this user, not only of this one.
		Private: []string{base},
	}
	if in.Workdir, err = view.Look(r.Workdir, in.Environ, in.Private); err != nil {
		return nil, nil, err
	}
	folders, err := hostpath.In(base).Folders(in.Workdir.Path)
	if err != nil {
		return nil, nil, err
	}
	// Of what was found: an agent that works above may have put a link there since Workdir looked.
	if err := leadsOut(folders, r.Workdir, r.Workdir, in.Workdir.Path); err != nil {
		return nil, nil, err
	}
	in.Trusted = func(path string) bool {
		err := folders.Check(path)
		writable := (*hostpath.WritableError)(nil)
		return err == nil || errors.As(err, &writable) && writable.Names > 0 // a further name leads nowhere
	}
	for _, f := range r.Plan.Files() {
		in.Private = append(in.Private, f.Path)
	}
	spec = new(sandbox.Spec)
	for _, rule := range agents[i].Rules {
		spec.Ports = append(spec.Ports, int(rule.Port))
		if rule.Gateway != 0 {
			spec.Gateways = append(spec.Gateways, int(rule.Gateway))
		}
	}
	if in.Sockets, err = socketFolders(r.Home, r.Agent); err != nil {
		return nil, nil, err
	}
	if in.CA, err = hostpath.ReadFile(r.Home.CACert(), 1<<20); err != nil {
		return nil, nil, fmt.Errorf("read certificate authority: %w: is the stack up? `postern status` says", err)
	}
	own, err := ownPrograms(r.Home)
	if err != nil {
		return nil, nil, err
	}
	if err := r.trusted(folders, in.Workdir.Path, own); err != nil {
		return nil, nil, err
	}
	if spec.Bubblewrap, err = findBubblewrap(folders); err != nil {
		return nil, nil, err
	}
	if in.Inside, err = findInside(folders); err != nil {
		return nil, nil, err
	}
	if done, err = hostpath.In(base).Use(in.Workdir.Path); err != nil {
		return nil, nil, err
	}
	if spec.View, err = view.Make(in); err != nil {
		done()
		return nil, nil, err
	}
	return spec, done, nil
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
		return nil, errors.New("find nodes: the stack is not up: run `make up`")
	case len(folders) == 0:
		return nil, fmt.Errorf("find nodes: no node serves the agent %q yet: publish the stack file with `make up`",
			agent)
	}
	return folders, nil
}
