package attack

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

// HostCase is an attack of class H: what an agent left behind in its folder, and then a command of the operator's.
// Whatever happens, the laptop's canary file must not change and its canary program must not run.
type HostCase struct {
	// ID is H and a number.
	ID   string
	What string
	Run  func(*laptop)
}

// hostCases is class H, in order. Every file h_<topic>_test.go has its own.
var hostCases = slices.Concat(hostPaths, hostDescriptors, hostTools)

// laptop is a machine on which a stack is up, with an operator and an agent. The stack file is outside of the agent's
// folder.
type laptop struct {
	*testing.T
	fleet *fleet.Fleet
	plan  *plan.Plan
	// root holds everything; work is the agent's folder, and the operator's current one.
	root, work string
	postern    string
	environ    []string
}

const (
	hostStack = `version: 1
target: local
destinations:
  docs: {host: docs.test, methods: [GET]}
agents:
  demo: {allow: [docs]}
`
	hostCanary = "the host's canary"
)

// newLaptop brings a stack up.
func newLaptop(t *testing.T, postern string) *laptop {
	t.Helper()
	root, err := os.MkdirTemp("", "laptop") // short: sockets are below it
	require.NoError(t, err)
	t.Cleanup(func() { // go may still write its telemetry
		require.Eventually(t, func() bool { return os.RemoveAll(root) == nil }, time.Minute, pause)
	})
	l := &laptop{T: t, root: root, work: filepath.Join(root, "work"), postern: postern}
	require.NoError(t, os.Mkdir(l.work, 0o700))
	l.write("canary", hostCanary)
	l.write("policy/local.yaml", hostStack)
	base := l.path("home")
	file, err := stacks.Open(l.path("policy/local.yaml"))
	require.NoError(t, err)
	real, err := file.Home()
	require.NoError(t, err)
	home := home.Folder{Root: filepath.Join(base, filepath.Base(real.Root))}
	require.NoError(t, home.Claim(file.Owner()))
	l.fleet = fleet.NewIn(t, home, 1)
	stack, err := file.Load()
	require.NoError(t, err)
	l.plan = stack.Plan
	l.fleet.MustPublish(l.plan)
	l.environ = append(os.Environ(), "POSTERN_HOME="+base, "HOME="+l.path("user"))
	require.NoError(t, os.Mkdir(l.path("user"), 0o700))
	return l
}

func (l *laptop) path(p string) string { return filepath.Join(l.root, p) }

// write makes a file, and its folders.
func (l *laptop) write(p, content string) string {
	l.Helper()
	path := l.path(p)
	require.NoError(l, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(l, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// plant makes a program that gives itself away: it changes the canary.
func (l *laptop) plant(p string) string {
	l.Helper()
	path := l.write(p, "#!/bin/sh\necho \"$0 was run\" >> "+l.path("canary")+"\n")
	require.NoError(l, os.Chmod(path, 0o700))
	return path
}

// untouched requires that nothing of the host was changed, and nothing planted was run.
func (l *laptop) untouched() {
	l.Helper()
	content, err := os.ReadFile(l.path("canary"))
	require.NoError(l, err)
	require.Equal(l, hostCanary, string(content))
}

// does runs a command of the operator's in the agent's folder, with more variables, and returns what it says and its
// exit status.
func (l *laptop) does(variables []string, args ...string) (string, int) {
	l.Helper()
	args = slices.Insert(args, 1, "--file", l.path("policy/local.yaml"))
	cmd := exec.CommandContext(l.Context(), l.postern, args...)
	cmd.Dir, cmd.Env = l.work, append(slices.Clone(l.environ), variables...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		require.NoError(l, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// runs runs a shell command as the agent, which must work.
func (l *laptop) runs(variables []string, script string) string {
	l.Helper()
	out, status := l.does(variables, "run", "--agent", "demo", "--", "sh", "-c", script)
	require.Zero(l, status, out)
	return out
}

// refused requires that `postern run` starts nothing and says why, with the laptop's folder cut out.
func (l *laptop) refused(variables []string, says ...string) {
	l.Helper()
	out, status := l.does(variables, "run", "--agent", "demo", "--", "sh", "-c", "echo started > started")
	require.Equal(l, 125, status, out)
	require.NoFileExists(l, filepath.Join(l.work, "started"))
	for _, s := range says {
		require.Contains(l, strings.ReplaceAll(out, l.root, ""), s)
	}
}

// credential publishes a plan whose only destination has a credential with this secret. It is published as by somebody
// who could not know that an agent works there.
func (l *laptop) credential(secret string) {
	l.Helper()
	p := *l.plan
	p.Credentials = []plan.Credential{{Name: "key", Kind: plan.KindBearer, Header: "authorization", Secret: secret}}
	p.Agents = []plan.Agent{{Name: "demo", Rules: []plan.Rule{{ID: "demo/docs", Host: "docs.test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath}, Credential: "key"}}}}
	l.fleet.MustPublish(&p)
}

// problem waits for what the control plane says is wrong with the credential, or for nothing to be wrong.
func (l *laptop) problem(want string) {
	l.Helper()
	last := ""
	require.Eventually(l, func() bool {
		s, err := l.fleet.API.Status(l.Context())
		require.NoError(l, err)
		require.Len(l, s.Credentials, 1)
		last = strings.ReplaceAll(s.Credentials[0].Problem, l.root, "")
		return s.Credentials[0].OK == (want == "") && strings.Contains(last, want)
	}, time.Minute, pause, "%q is not said, but %q", want, last)
}

// bound mounts a folder at another, if this is root.
func (l *laptop) bound(from, at string) bool {
	l.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	require.NoError(l, os.MkdirAll(l.path(at), 0o700))
	require.NoError(l, unix.Mount(l.path(from), l.path(at), "", unix.MS_BIND, ""))
	l.Cleanup(func() { require.NoError(l, unix.Unmount(l.path(at), unix.MNT_DETACH)) })
	return true
}

// TestHostEveryAttackIsThere: IDs are numbered without a gap.
func TestHostEveryAttackIsThere(t *testing.T) {
	t.Parallel()
	for i, c := range hostCases {
		require.Equal(t, fmt.Sprint("H", i+1), c.ID, c.What)
	}
}

// TestHost runs the cases of class H that have a stack of their own each.
func TestHost(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	fleet.Put(t, bin, "postern", "postern-sandbox")
	for _, c := range hostCases {
		if *only != "" && c.ID != *only {
			continue
		}
		t.Run(c.ID+"/"+strings.ReplaceAll(c.What, " ", "_"), func(t *testing.T) {
			t.Parallel()
			inHostTable(t, c.ID+" "+c.What)
			l := newLaptop(t, filepath.Join(bin, "postern"))
			c.Run(l)
			l.untouched()
		})
	}
}

// hostTable is the lines of class H, by ID, of those that have ended.
var hostTable sync.Map

// inHostTable puts what becomes of a test into the table of class H. Title is its ID and what is tried. In CI, a test
// that was not tried has failed.
func inHostTable(t *testing.T, title string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Skipped() && os.Getenv("CI") != "" {
			t.Error("this was not tried: CI must be able to")
		}
		id, what, _ := strings.Cut(title, " ")
		hostTable.Store(id, fmt.Sprintf("%s\t%s\t%s\n", id, what, verdict(t.Failed(), t.Skipped())))
	})
}

func verdict(failed, skipped bool) string {
	switch {
	case failed:
		return "FAILED"
	case skipped:
		return "not tried"
	}
	return "held"
}

// TestHostTable: what was skipped is not said to have held.
func TestHostTable(t *testing.T) {
	t.Setenv("CI", "")
	t.Run("skipped", func(t *testing.T) {
		inHostTable(t, "H-skipped what was skipped")
		t.Skip()
	})
	line, ok := hostTable.LoadAndDelete("H-skipped")
	require.True(t, ok)
	require.Equal(t, "H-skipped\twhat was skipped\tnot tried\n", line)
	require.Equal(t, "FAILED", verdict(true, true))
	require.Equal(t, "held", verdict(false, false))
}

// writeHostTable writes the table of class H to the file at path.
func writeHostTable(path string) error {
	lines := map[string]string{}
	hostTable.Range(func(id, line any) bool {
		lines[id.(string)] = line.(string)
		return true
	})
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\twhat\tverdict")
	ids := slices.SortedFunc(maps.Keys(lines), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) // H9 before H10
	})
	for _, id := range ids {
		fmt.Fprint(w, lines[id])
	}
	return errors.Join(w.Flush(), os.WriteFile(path, table.Bytes(), 0o600))
}
