package scale_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

// TestMemoryOfManyAgents: C18. An agent with rules that others have too costs Envoy little more than
// what differs. Without what agents share, it is more than twice as much.
func TestMemoryOfManyAgents(t *testing.T) {
	const few, many, each = 20, 60, 120
	f := fleet.New(t, 1)
	pid := f.EnvoyPID("n1")
	inParts(f, shared(each, few, each))
	before := resident(t, pid)
	inParts(f, shared(each, many, each))
	more := (resident(t, pid) - before) / (many - few) / each
	t.Logf("%d bytes for each agent and destination more", more)
	require.Less(t, more, 12<<10)
}

// TestAllowOfManyAgents: C18. `allow` reads, compares and publishes 5,000 destinations of 200
// agents. What it computes is bounded here; what it waits for is measured by BenchmarkAllow.
func TestAllowOfManyAgents(t *testing.T) {
	var programs fleet.Programs
	defer programs.Remove()
	postern, err := programs.Build("postern", "postern", "")
	require.NoError(t, err)
	t.Setenv("POSTERN_HOME", fleetFolder(t))
	path := stackFile(t, 5000, 200, 25)
	file, err := stacks.Open(path)
	require.NoError(t, err)
	home, err := home.Claim(file.Owner())
	require.NoError(t, err)
	stack, err := file.Load()
	require.NoError(t, err)
	f := fleet.NewIn(t, home, 1)
	inParts(f, stack.Plan)
	args := []string{"allow", "new.example.com", "--agent", "a000", "--file", path, "--yes"}
	cmd := exec.CommandContext(t.Context(), postern, args...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), " live on 1/1 nodes")
	computed := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	t.Logf("%v, of which it computed %v", time.Since(start), computed)
	require.Less(t, computed, time.Second)
}
