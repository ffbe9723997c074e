package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/tests/terminal"
	"github.com/postern/postern/xds/api"
)

const exitStack = `version: 1
target: local
credentials:
  key: {kind: header, header: x-api-key, secret: "file:../../key"}
destinations:
  docs: {host: docs.test, methods: [GET], paths: ["/v1/**"], credential: key}
agents:
  demo: {allow: [docs]}
  other: {allow: [docs]}
`

// statuses records which exit statuses the commands had.
type statuses struct {
	*path
	seen map[string]bool
}

// has requires that a command ends with the status. The command is the first words of args, without
// its flags and arguments, as [exit.Table] has it.
func (s *statuses) has(status int, command string, args ...string) {
	s.t.Helper()
	s.hasIn(s.dir, status, command, args...)
}

func (s *statuses) hasIn(dir string, status int, command string, args ...string) {
	s.t.Helper()
	r := s.posternIn(dir, append(strings.Fields(command), args...)...)
	s.is(status, r.status, command, r.stdout+r.stderr)
}

func (s *statuses) is(want, got int, command, said string) {
	s.t.Helper()
	require.Equal(s.t, want, got, "postern %s: %s", command, said)
	s.seen[fmt.Sprint(command, " ", want)] = true
	documented := slices.ContainsFunc(exit.Of(command), func(m exit.Meaning) bool { return m.Status == want })
	require.True(s.t, documented || command == "run", "postern %s ends with %d, which no document says", command, want)
}

// TestExitStatuses is P56: every status of [exit.Table], from which all documents are made, is
// brought about for every command that the table names, and no command here has another one.
func TestExitStatuses(t *testing.T) {
	t.Parallel()
	s := &statuses{path: newPathOf(t, exitStack), seen: map[string]bool{}}
	before, err := os.ReadFile(s.stackFile())
	require.NoError(t, err)
	s.asked()
	s.ran()
	s.unseen()
	s.write(string(before))
	s.answered(exit.Unseen, "no", nil, "init", "--stack", "mine", "--program", "claude", "--mine",
		"--secret", "file://"+filepath.Join(s.dir, "..", "key"))
	s.inPart(t)
	s.unusable()
	s.others()

	elsewhere := map[string]string{
		"drift 0": "tests/cloud: TestDriftCommand", "drift 1": "tests/cloud: TestDriftCommand",
		"check 6": "tests: TestGuardrailsStopUp", "refresh 1": "tests/cloud: TestUpGoesOnWhereItStopped",
		"prove 6":        "policies/proof: TestEveryResultHasItsStatus",
		"prove 7":        "policies/proof: TestEveryResultHasItsStatus",
		"audit verify 0": "cmd/postern/records: TestVerifyStatuses",
		"audit verify 1": "cmd/postern/records: TestVerifyStatuses",
		"audit verify 6": "cmd/postern/records: TestVerifyStatuses",
		"audit verify 7": "cmd/postern/records: TestVerifyStatuses",
	}
	for _, m := range exit.Table {
		some := slices.ContainsFunc(m.Commands, func(string) bool { return true })
		for _, c := range m.Commands {
			row := fmt.Sprint(c, " ", m.Status)
			if !s.seen[row] && elsewhere[row] == "" {
				t.Errorf("nothing brings about postern %s (%s)", row, m.Means)
			}
		}
		for row := range s.seen {
			some = some || strings.HasSuffix(row, fmt.Sprint(" ", m.Status))
		}
		require.True(t, some, "nothing brings about %d (%s)", m.Status, m.Means)
	}
}

// asked are commands that only look.
func (s *statuses) asked() {
	s.has(exit.Done, "status")
	s.has(exit.Done, "diff")
	s.has(exit.Done, "explain", "https://docs.test/v1/x", "--agent", "demo")
	s.has(exit.Failed, "explain", "https://docs.test/v2/x", "--agent", "demo")
	s.has(exit.Failed, "explain", "https://docs.test/v1/x", "--agent", "nobody")
	s.has(exit.Failed, "history", "--file", "nowhere.yaml")
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "stacks", "empty.yaml"),
		[]byte("version: 1\ntarget: local\nagents: {demo: {allow: []}}\n"), 0o600))
	s.has(exit.Failed, "diff", "--against", "stacks/empty.yaml")
	s.has(exit.Usage, "diff", "--against", "nowhere.yaml")
	for expected, status := range map[string]int{"deny": exit.Done, "allow": exit.Failed} {
		require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "stacks", "local.cases.yaml"), []byte(
			"version: 1\ncases: [{request: GET https://docs.test/v2/x, agent: demo, expect: "+expected+"}]\n"), 0o600))
		s.has(status, "test")
	}
	s.has(exit.Done, "prove")
	s.has(exit.Done, "check")
	s.has(exit.Failed, "check", "--state", "nowhere.json")
	s.has(exit.Failed, "prove", "--state", "nowhere.json")
	s.has(exit.Usage, "drift") // not on AWS: it is not known
}

// ran are commands in the sandbox.
func (s *statuses) ran() {
	work := filepath.Join(s.dir, "work")
	require.NoError(s.t, os.MkdirAll(work, 0o700))
	require.NoError(s.t, os.WriteFile(filepath.Join(work, "text"), []byte("x"), 0o600))
	for want, command := range map[int][]string{
		7: {"bash", "-c", "exit 7"}, 143: {"bash", "-c", "kill -TERM $$"}, exit.NotFound: {"no-such-program"},
		exit.NotExecutable: {"./text"},
	} {
		s.hasIn(work, want, "run", append([]string{"--agent", "demo", "--"}, command...)...)
	}
	s.hasIn(work, exit.Sandbox, "run", "--agent", "nobody", "--", "true")
	s.hasIn(work, exit.Sandbox, "run", "--file", "nowhere.yaml", "--", "true")
	s.hasIn(work, exit.Usage, "run", "--", "true") // two agents
	s.hasIn(work, exit.Usage, "run", "--agent", "demo")
	s.hasIn(work, exit.Usage, "run", "--agent", "demo", "--overlay", "--workspace", "write", "--", "true")

	r := s.posternIn(work, "run", "--agent", "demo", "--overlay", "--", "bash", "-c", "echo agent >text")
	require.Zero(s.t, r.status, r.stderr)
	require.NoError(s.t, os.WriteFile(filepath.Join(work, "text"), []byte("a person"), 0o600))
	id, _, _ := strings.Cut(s.ok(s.postern("workspace", "list")), " ")
	s.has(exit.Partial, "workspace apply", id)
	s.ok(s.postern("workspace", "discard", id))
}

// refused are the arguments of a command to which something is refused.
var refused = []string{"--agent", "demo", "--", "curl", "-s", "https://more.test/"}

// unseen are changes that a person has to see, where there is none.
func (s *statuses) unseen() {
	s.has(exit.Unseen, "allow", "*.wide.test", "--agent", "demo")
	s.hasIn(filepath.Join(s.dir, "work"), exit.Unseen, "learn", refused...)
	s.edit("agents:", "  wide: {host: wide.test}\nagents:")
	s.edit("allow: [docs]", "allow: [docs, wide]")
	s.has(exit.Unseen, "push")
	s.has(exit.Unseen, "up")
	s.has(exit.OtherChanges, "allow", "more.test", "--agent", "demo", "--method", "GET")
	s.has(exit.OtherChanges, "revoke", "docs.test", "--agent", "demo")
	s.hasIn(filepath.Join(s.dir, "work"), exit.OtherChanges, "learn", refused...)
	s.has(exit.Done, "push", "--yes")
	s.has(exit.Done, "rollback")
	s.has(exit.Unseen, "rollback")

	// A stack file that an agent may write is a proposal.
	stacks := filepath.Join(s.dir, "stacks")
	registry := hostpath.In(filepath.Dir(s.home.Root))
	require.NoError(s.t, registry.Record(stacks))
	s.edit("file:../../key", "file:../../other")
	s.has(exit.Unseen, "secret put", "key")
	s.has(exit.Unseen, "revoke", "docs.test", "--agent", "demo", "--with-other-changes")
	cloud, err := os.ReadFile("../stacks/dev-aws.yaml")
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(stacks, "dev-aws.yaml"), cloud, 0o600))
	s.has(exit.Unseen, "operator", "--stack", "dev-aws")
	s.has(exit.Unseen, "workdir forget", stacks)
	require.NoError(s.t, registry.Forget(stacks))
}

// answered requires that a command ends with the status if somebody on a terminal gives the answer.
func (s *statuses) answered(status int, answer string, meanwhile func(), command string, args ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), postern(s.t), append([]string{command}, args...)...)
	cmd.Dir = filepath.Join(s.dir, "work")
	cmd.Env = append(s.environ, "XDG_CONFIG_HOME="+filepath.Join(s.dir, "..", "config"))
	said, err := terminal.Run(cmd, terminal.Consent, answer, meanwhile)
	failed := (*exec.ExitError)(nil)
	require.ErrorAs(s.t, err, &failed, "%s", said)
	s.is(status, failed.ExitCode(), command, said)
}

// inPart are publications that are in force nowhere yet.
func (s *statuses) inPart(t *testing.T) {
	t.Helper()
	s.answered(exit.Partial, "yes", func() { // the node goes while the question is asked
		kill(t, s.pid(s.home.NodeDir("n1")))
		require.NoError(s.t, api.Dial(s.home.ControlSocket()).RemoveNode(t.Context(), "n1"))
	}, "learn", refused...)
	s.has(exit.Partial, "status")
	s.has(exit.Partial, "push", "--yes")
	s.has(exit.Partial, "allow", "most.test", "--agent", "demo", "--method", "GET")
	s.has(exit.Partial, "revoke", "more.test", "--agent", "demo")
	s.has(exit.Partial, "rollback", "--yes")
	s.has(exit.Partial, "kill", "--agent", "demo")
	s.has(exit.Partial, "unkill", "--agent", "demo")
	kill(t, s.pid(s.home.ControlDir()))
	s.has(exit.Partial, "evict", "web-5oqk2kzhnuvw7d3a")
	s.has(exit.Failed, "push")
}

// unusable are command lines that are not valid, of the command and of all below it.
func (s *statuses) unusable(words ...string) {
	name := strings.Join(words, " ")
	s.has(exit.Usage, name, "--nonsense")
	help := s.ok(s.postern(append(slices.Clone(words), "--help")...))
	_, listed, group := strings.Cut(help, "Available Commands:\n")
	if !group {
		return
	}
	s.has(exit.Usage, name, "nonsense")
	listed, _, _ = strings.Cut(listed, "\n\n")
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`).FindAllStringSubmatch(listed, -1) {
		s.unusable(append(slices.Clone(words), m[1])...)
	}
	if name == "" {
		s.has(exit.Usage, "help", "nonsense")
		s.has(exit.Usage, "init", "--mine", "--project")
		s.has(exit.Usage, "explain")
	}
}

// others are the programs whose reference says what their statuses are.
func (s *statuses) others() {
	for _, program := range []string{stackProgram(s.t), posternd(s.t)} {
		for _, word := range []string{"--nonsense", "nonsense"} {
			said, err := exec.CommandContext(s.t.Context(), program, word).CombinedOutput()
			failed := (*exec.ExitError)(nil)
			require.ErrorAs(s.t, err, &failed, "%s", said)
			require.Equal(s.t, exit.Usage, failed.ExitCode(), "%s %s: %s", program, word, said)
		}
	}
}
