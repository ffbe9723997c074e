package run

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/program"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
)

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{
		Credentials: []plan.Credential{{Name: "a", Placeholders: []string{"A_KEY", "A_TOKEN"}}, {Name: "b"}, {Name: "other", Placeholders: []string{"OTHER_KEY"}}},
		Agents:      []plan.Agent{{Name: "demo", Rules: []plan.Rule{{Credential: "a"}, {Credential: "b"}, {Credential: "a"}, {}}}},
	}
	require.Equal(t, []string{"A_KEY=postern", "A_TOKEN=postern"}, placeholders(p, &p.Agents[0]))
	require.Empty(t, placeholders(p, &plan.Agent{Name: "nobody"}))
}

func TestSpecErrors(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	work := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(work, 0o700))
	p := &plan.Plan{Agents: []plan.Agent{{Name: "coder"}, {Name: "demo"}}}
	refused := func(agent string) error {
		_, err := Prepare(t.Context(), &Request{
			Plan: p, File: "stacks/local.yaml", Home: home, Agent: agent, Workdir: work,
		})
		require.Error(t, err)
		return err
	}
	err := refused("nobody")
	require.EqualError(t, err, "the publication of stacks/local.yaml has no agent \"nobody\": it has coder, demo; `postern push --stack local-1` publishes the file")
	err = refused("demo")
	require.ErrorContains(t, err, "the stack is not up")
	require.NoError(t, os.MkdirAll(home.AgentDir("n1", "coder"), 0o700))
	err = refused("demo")
	require.ErrorContains(t, err, `no node serves the agent "demo" yet`)
	err = refused("coder")
	require.ErrorContains(t, err, "certificate authority")
}

// TestIsolation: the published runtime is the least that isolates an agent, whatever a flag says.
func TestIsolation(t *testing.T) {
	t.Parallel()
	h := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	const isolatesLess = " isolates less: change its runtime in stacks/local.yaml, and publish that with " +
		"`postern push --stack local-1`"
	const noName = " is not the name of an image: `docker images` lists those that are here"
	for _, c := range []struct {
		own, asked plan.Runtime
		ownImage   string
		image      string
		want       string
	}{
		{want: "bubblewrap "},
		{asked: "gvisor", image: "debian:12", want: "gvisor debian:12"},
		{own: "container", ownImage: "debian:12", want: "container debian:12"},
		{own: "container", ownImage: "debian:12", asked: "gvisor", want: "gvisor debian:12"},
		{own: "container", ownImage: "debian:12", image: "other", want: "container other"},
		{own: "gvisor", ownImage: "x", asked: "vm", want: "agent demo has runtime gvisor, and vm" + isolatesLess},
		{own: "gvisor", asked: "container", want: "agent demo has runtime gvisor, and container" + isolatesLess},
		{own: "container", asked: "bubblewrap", want: "agent demo has runtime container, and bubblewrap" + isolatesLess},
		{asked: "docker", want: `"docker" is not a runtime: there are [bubblewrap container gvisor vm]`},
		{own: "newer", want: `"newer" is not a runtime: there are [bubblewrap container gvisor vm]`},
		{asked: "container", image: "a\nb", want: `"a\nb"` + noName},
		{asked: "container", image: "\xff", want: `"\xff"` + noName},
		{asked: "container", image: "../json", want: `"../json"` + noName},
	} {
		r := &Request{File: "stacks/local.yaml", Home: h, Agent: "demo", Runtime: c.asked, Image: c.image}
		err := r.isolation(&plan.Agent{Runtime: c.own, Image: c.ownImage})
		got := string(r.Runtime) + " " + r.Image
		if err != nil {
			got = err.Error()
		}
		require.Equal(t, c.want, got)
	}
}

// What Workdir has looked at may be a link since.
func TestWorkdirThatLeadsOut(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	home := home.Folder{Root: filepath.Join(root, "state", "local-1")}
	project, other := filepath.Join(root, "project"), filepath.Join(root, "other")
	for _, dir := range []string{home.Root, project, filepath.Join(project, "real"), other} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, hostpath.In(filepath.Dir(home.Root)).Record(project))
	require.NoError(t, os.Symlink(other, filepath.Join(project, "sub")))
	p := &plan.Plan{Agents: []plan.Agent{{Name: "demo"}}}
	_, err = Prepare(t.Context(), &Request{
		Plan: p, Home: home, Agent: "demo", Workdir: filepath.Join(project, "sub"),
	})
	require.ErrorContains(t, err, "where an agent may write, and leads out of there: name the folder itself")
	_, err = Prepare(t.Context(), &Request{
		Plan: p, Home: home, Agent: "demo", Workdir: filepath.Join(project, "real"),
	})
	require.ErrorContains(t, err, "the stack is not up")
	require.ErrorContains(t, hostpath.In(filepath.Dir(home.Root)).Record(filepath.Join(project, "sub")), "it leads to "+other)
	// A folder that is not there is not made where an agent could have a link by then.
	_, _, err = Workdir(home, filepath.Join(project, "new", "deep"))
	require.ErrorContains(t, err, "where an agent may write: name a folder that is there, or one elsewhere")
	require.NoDirExists(t, filepath.Join(project, "new"))
	abs, unmake, err := Workdir(home, filepath.Join(other, "new", "deep"))
	require.NoError(t, err)
	require.DirExists(t, abs)
	require.NoError(t, os.WriteFile(filepath.Join(other, "new", "file"), nil, 0o600))
	unmake()
	require.NoDirExists(t, abs, "the run was refused")
	require.FileExists(t, filepath.Join(other, "new", "file"), "somebody else's")
	require.NoError(t, os.Remove(filepath.Join(other, "new", "file")))
	_, unmake, err = Workdir(home, filepath.Join(other, "new"))
	require.NoError(t, err)
	require.Nil(t, unmake, "it was there")
	// Nor is a folder made that would be refused.
	for _, dir := range []string{filepath.Join(root, "state", "x"), "/etc/postern-test/x", "/usr/postern-test/x"} {
		_, _, err = Workdir(home, dir)
		require.ErrorContains(t, err, "as working directory: it is, contains, or is inside", dir)
		require.NoDirExists(t, dir)
	}
}

// TestWorkspaceOfARun: a run may have less of the folder than what is published, and never more.
func TestWorkspaceOfARun(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{Agents: []plan.Agent{{Name: "plain"}}}
	for _, mode := range plan.WorkspaceModes() {
		p.Agents = append(p.Agents, plan.Agent{Name: string(mode), Workspace: &plan.Workspace{Mode: mode, Size: 7}})
	}
	for _, c := range []struct {
		agent string
		mode  plan.WorkspaceMode
		want  plan.WorkspaceMode // "" is an error
	}{
		{"plain", "", "write"},
		{"plain", "write", "write"},
		{"plain", "overlay", "overlay"},
		{
			"plain", "tmpfs",
			"tmpfs",
		},
		{"plain", "rw", ""},
		{"overlay", "", "overlay"},
		{"overlay", "read-only", "read-only"},
		{"overlay", "tmpfs", "tmpfs"},
		{
			"overlay",
			"write", "",
		},
		{"read-only", "", "read-only"},
		{"read-only", "overlay", "overlay"},
		{"read-only", "write", ""},
		{"tmpfs", "", "tmpfs"},
		{"tmpfs", "read-only", ""},
		{"tmpfs", "overlay", ""},
		{"tmpfs", "write", ""},
		{
			"nobody",
			"", "",
		},
	} {
		got, err := (&Request{Plan: p, File: "f", Agent: c.agent, Mode: c.mode}).Workspace()
		if c.want == "" {
			require.Error(t, err, c)
			continue
		}
		require.NoError(t, err, c)
		require.Equal(t, c.want, got.Mode, c)
	}
}

// TestProgramThatIsNotHere: a program that Postern knows is started where no agent can write, or
// not at all; other commands, paths and the programs of an image are whatever they are.
func TestProgramThatIsNotHere(t *testing.T) {
	t.Parallel()
	known := program.Program{Name: "claude"}
	for _, c := range []struct {
		program   program.Program
		container *container.Options
		found     string
		command   string
		starts    string
	}{
		{known, nil, "/opt/bin/claude", "claude", "/opt/bin/claude"},
		{known, nil, "", "claude", ""},
		{known, nil, "", "./claude", "./claude"},
		{known, &container.Options{}, "", "claude", "claude"},
		{program.Program{}, nil, "", "bash", "bash"},
	} {
		r := &Request{Program: c.program, Command: []string{c.command, "-x"}}
		spec := &sandbox.Spec{Command: r.Command, Container: c.container, View: &view.View{Program: c.found}}
		err := r.findProgram(spec)
		if c.starts == "" {
			refused := (*sandbox.RefusedError)(nil)
			require.ErrorAs(t, err, &refused)
			require.Equal(t, exit.NotFound, refused.Status)
			require.ErrorContains(t, err, "claude is not on PATH in a folder")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, []string{c.starts, "-x"}, spec.Command)
		require.Equal(t, c.command, r.Command[0], "what is recorded is what was asked for")
	}
}
