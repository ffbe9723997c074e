package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/tests/terminal"
)

// honest is the stack file of a team that keeps its policy in the repository in
// which its agent works.
const honest = `version: 1
target: local
destinations:
  docs: {host: docs.test, methods: [GET]}
agents:
  demo:
    allow: [docs]
`

// hostile is what the agent makes of the file: the control plane would run a program
// that the agent chose, outside of the sandbox. It is not the agent's own: a file that
// names one of those does not even compile.
const hostile = `version: 1
target: local
credentials:
  helper: {kind: bearer, secret: "exec://%s"}
destinations:
  docs: {host: docs.test, methods: [GET], credential: helper}
agents:
  demo:
    allow: [docs]
`

// desk is where an operator works, with a shell in the repository's folder, which
// is the agent's working directory, too.
type desk struct {
	t *testing.T
	// project is the repository, victim another one of the operator's.
	project, victim string
	postern         string
	environ         []string
	fleet           *fleet.Fleet
	// canary is what the agent's helper makes, if anything runs it.
	canary  string
	hostile string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	root, err := os.MkdirTemp("", "desk") // short: sockets are below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	d := &desk{t: t, project: filepath.Join(root, "project"), victim: filepath.Join(root, "victim"), canary: filepath.Join(root, "canary")}
	for _, dir := range []string{d.project, d.victim} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "stacks"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "stacks", "local.yaml"), []byte(honest), 0o600))
	}
	helper := filepath.Join(root, "helper")
	require.NoError(t, os.WriteFile(helper, []byte("#!/bin/sh\n: > "+d.canary+"\n"), 0o700))
	d.hostile = fmt.Sprintf(hostile, helper)

	base := filepath.Join(root, "home")
	file, err := stacks.Open(d.file())
	require.NoError(t, err)
	real, err := file.Home()
	require.NoError(t, err)
	home := home.Folder{Root: filepath.Join(base, filepath.Base(real.Root))}
	require.NoError(t, home.Claim(file.Owner()))
	d.fleet = fleet.NewIn(t, home, 1)
	stack, err := file.Load()
	require.NoError(t, err)
	d.fleet.MustPublish(stack.Plan)
	require.NoError(t, hostpath.In(base).Record(d.project), "as run does")

	bin := t.TempDir()
	fleet.Put(t, bin, "postern", "postern-sandbox")
	d.postern = filepath.Join(bin, "postern")
	d.environ = append(os.Environ(), "POSTERN_HOME="+base, "XDG_CONFIG_HOME="+filepath.Join(root, "config"))
	return d
}

func (d *desk) file() string { return filepath.Join(d.project, "stacks", "local.yaml") }

// write replaces a file as editors do.
func (d *desk) write(path, content string) {
	d.t.Helper()
	require.NoError(d.t, os.WriteFile(path+"~", []byte(content), 0o600))
	require.NoError(d.t, os.Rename(path+"~", path))
}

func (d *desk) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), d.postern, args...)
	cmd.Dir, cmd.Env = d.project, d.environ
	return cmd
}

// runs is what a command of the operator's says, and its exit status.
func (d *desk) runs(args ...string) (string, int) {
	d.t.Helper()
	cmd := d.command(args...)
	out, err := cmd.CombinedOutput()
	if failed := (*exec.ExitError)(nil); !errors.As(err, &failed) {
		require.NoError(d.t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (d *desk) live() string {
	d.t.Helper()
	s, err := d.fleet.API.Status(d.t.Context())
	require.NoError(d.t, err)
	return s.Version
}

func (d *desk) git(args ...string) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@a.test", "-c", "core.hooksPath=/dev/null"}, args...)...)
	cmd.Dir = d.project
	out, err := cmd.CombinedOutput()
	require.NoError(d.t, err, "%s", out)
}

// TestPublication: whatever an agent does to the stack file of the folder in which
// the operator works, no command publishes it that nobody has watched.
func TestPublication(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	before := d.live()
	dirty := filepath.Join(d.project, "old")
	edit := func() { d.write(d.file(), d.hostile) }
	plant := func(target string) {
		require.NoError(t, os.Rename(filepath.Join(d.project, "stacks"), dirty))
		require.NoError(t, os.Symlink(target, filepath.Join(d.project, "stacks")))
	}
	for _, c := range []struct {
		name    string
		agent   func()
		command []string
		status  int
		says    string
	}{
		{
			"H-publish-1 the file is replaced by a rename (W6)", edit,
			[]string{"push"},
			exit.Unseen, "where an agent may write, so it is only a proposal",
		},
		{
			"H-publish-2 said yes beforehand (W6)", edit,
			[]string{"push", "--yes"},
			exit.Unseen, "for which --yes does not count",
		},
		{"H-publish-3 by a checkout (W6)", func() {
			d.git("init", "-q")
			d.git("add", "stacks")
			d.git("commit", "-qm", "honest")
			edit()
			d.git("commit", "-qam", "hostile")
			d.git("checkout", "-q", "HEAD~1")
			d.git("checkout", "-q", "-")
		}, []string{"push"}, exit.Unseen, "only a proposal"},
		{"H-publish-4 behind a link (W2)", func() { plant(d.victim + "/stacks") }, []string{"push"}, 1, "stacks is a symbolic link"},
		{"H-publish-5 a command about something else (W7)", edit, []string{"allow", "new.test", "--agent", "demo", "--method", "GET", "--yes"}, exit.OtherChanges, "nothing was changed"},
		{"H-publish-6 taking something away (W7)", edit, []string{"revoke", "docs.test", "--agent", "demo"}, exit.OtherChanges, "nothing was changed"},
		{"H-publish-7 all of it, without a terminal (W7)", edit, []string{"allow", "new.test", "--agent", "demo", "--with-other-changes", "--yes"}, exit.Unseen, "for which --yes does not count"},
		{"H-publish-8 the file itself, by a link that was named (W2)", func() {
			d.write(filepath.Join(d.victim, "stacks", "theirs.yaml"), d.hostile)
			require.NoError(t, os.Remove(d.file()))
			require.NoError(t, os.Symlink("../../victim/stacks/theirs.yaml", d.file()))
		}, []string{"push", "--file", d.file()}, 1, "leads through the symbolic link"},
		{
			"H-publish-9 a link to another stack of the operator's (W2)", func() { plant("../victim/stacks") },
			[]string{"allow", "evil.test", "--agent", "demo", "--yes"},
			1, "stacks is a symbolic link",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			inHostTable(t, c.name)
			d.t = t
			c.agent()
			said, status := d.runs(c.command...)
			// What the agent did is undone, for the next.
			_ = os.Remove(filepath.Join(d.project, "stacks"))
			_ = os.Rename(dirty, filepath.Join(d.project, "stacks"))
			d.write(d.file(), honest)
			require.Equal(t, c.status, status, said)
			require.Contains(t, said, c.says)
			require.Equal(t, before, d.live())
			require.NoFileExists(t, d.canary)
			theirs, err := os.ReadFile(filepath.Join(d.victim, "stacks", "local.yaml"))
			require.NoError(t, err)
			require.Equal(t, honest, string(theirs))
		})
	}
	d.t = t

	t.Run("H-publish-10 a second preimage of the state folder's name (W2)", func(t *testing.T) {
		inHostTable(t, "H-publish-10 a second preimage of the state folder's name (W2)")
		d.t = t
		record := d.fleet.Home.RecordFile()
		mine, err := os.ReadFile(record)
		require.NoError(t, err)
		d.write(record, strings.ReplaceAll(string(mine), d.project, d.victim))
		defer d.write(record, string(mine))
		for _, command := range [][]string{{"push", "--yes"}, {"status"}, {"unkill", "--agent", "demo"}, {"run", "--agent", "demo", "--", "true"}, {"allow", "x.test", "-a", "demo", "--yes"}} {
			said, status := d.runs(command...)
			require.NotZero(t, status, command)
			require.Contains(t, said, "belongs to the stack local of "+d.victim, command)
		}
		require.Equal(t, before, d.live())
	})

	t.Run("H-publish-11 replaced while a person reads (W6)", func(t *testing.T) {
		inHostTable(t, "H-publish-11 replaced while a person reads (W6)")
		d.t = t
		d.write(d.file(), strings.Replace(honest, "docs.test", "seen.test", 1))
		said, err := terminal.Run(d.command("push"), terminal.Consent, "yes", func() { edit() })
		require.NoError(t, err, said)
		require.Contains(t, said, "seen.test")
		require.NotContains(t, said, "exec:")
		live, err := publish.ReadLive(t.Context(), d.fleet.Operator())
		require.NoError(t, err)
		require.Equal(t, "seen.test", live.Plan.Agents[0].Rules[0].Host, "what was shown")
		require.Empty(t, live.Plan.Credentials)

		// An edit is written over nothing that came meanwhile, and not published then.
		d.write(d.file(), strings.Replace(honest, "docs.test", "seen.test", 1))
		version := d.live()
		said, err = terminal.Run(d.command("allow", "new.test", "--agent", "demo"), terminal.Consent, "yes", func() { edit() })
		require.Error(t, err)
		require.Contains(t, said, "the file was changed meanwhile")
		require.Equal(t, version, d.live())
		now, err := os.ReadFile(d.file())
		require.NoError(t, err)
		require.Equal(t, d.hostile, string(now))
		require.NoFileExists(t, d.canary)
	})

	t.Run("H-publish-12 what runs is what is published (W6)", func(t *testing.T) {
		inHostTable(t, "H-publish-12 what runs is what is published (W6)")
		d.t = t
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d.write(d.file(), strings.ReplaceAll(honest, "demo:", "root:"))
		work := filepath.Join(d.project, "work")
		require.NoError(t, os.MkdirAll(work, 0o700))
		cmd := exec.CommandContext(ctx, d.postern, "run", "--agent", "root", "--workdir", work, "--", "true")
		cmd.Dir, cmd.Env = d.project, d.environ
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), `has no agent "root": it has demo`)
		// Not even a file that does not load keeps the published agent from work.
		d.write(d.file(), "agents: [")
		cmd = exec.CommandContext(ctx, d.postern, "run", "--agent", "demo", "--workdir", work, "--", "echo", "works")
		cmd.Dir, cmd.Env = d.project, d.environ
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Run(), stderr.String())
		require.Equal(t, "works\n", stdout.String())
	})

	t.Run("H-publish-13 no stack file at all (W2)", func(t *testing.T) {
		inHostTable(t, "H-publish-13 no stack file at all (W2)")
		d.t = t
		require.NoError(t, os.RemoveAll(filepath.Join(d.project, "stacks")))
		said, status := d.runs("kill", "--agent", "demo")
		require.Zero(t, status, said)
		live, _, err := d.fleet.Operator().Live(t.Context())
		require.NoError(t, err)
		require.Equal(t, bundle.Killed{Agents: []string{"demo"}}, live.Killed)
	})
}
