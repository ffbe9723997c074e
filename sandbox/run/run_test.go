package run

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
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
		_, _, err := Prepare(&Request{Plan: p, File: "stacks/local.yaml", Home: home, Agent: agent, Workdir: work})
		require.Error(t, err)
		return err
	}
	err := refused("nobody")
	require.EqualError(t, err, "the publication of stacks/local.yaml has no agent \"nobody\": it has coder, demo; `postern push` publishes the file")
	err = refused("demo")
	require.ErrorContains(t, err, "the stack is not up")
	require.NoError(t, os.MkdirAll(home.AgentDir("n1", "coder"), 0o700))
	err = refused("demo")
	require.ErrorContains(t, err, `no node serves the agent "demo" yet`)
	err = refused("coder")
	require.ErrorContains(t, err, "certificate authority")
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
	_, _, err = Prepare(&Request{Plan: p, Home: home, Agent: "demo", Workdir: filepath.Join(project, "sub")})
	require.ErrorContains(t, err, "where an agent may write, and leads out of there: name the folder itself")
	_, _, err = Prepare(&Request{Plan: p, Home: home, Agent: "demo", Workdir: filepath.Join(project, "real")})
	require.ErrorContains(t, err, "the stack is not up")
	require.ErrorContains(t, hostpath.In(filepath.Dir(home.Root)).Record(filepath.Join(project, "sub")), "it leads to "+other)
	// A folder that is not there is not made where an agent could have a link by then.
	_, _, err = Workdir(home, filepath.Join(project, "new", "deep"))
	require.ErrorContains(t, err, "where an agent may write: name a folder that is there, or one elsewhere")
	require.NoDirExists(t, filepath.Join(project, "new"))
	abs, made, err := Workdir(home, filepath.Join(other, "new", "deep"))
	require.NoError(t, err)
	require.True(t, made)
	require.DirExists(t, abs)
}
