package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestInAnotherFolder: what is advised works when it is pasted, whatever was typed before.
func TestInAnotherFolder(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"bin/postern run --workdir ~/agent --agent demo -- sh -c 'echo $HOME'":   {"bin/postern", "run", "--agent", "demo", "--", "sh", "-c", "echo $HOME"},
		"postern run --workdir ~/agent -a demo -- x -w y --workdir z":            {"postern", "run", "-w", ".", "-a", "demo", "--", "x", "-w", "y", "--workdir", "z"},
		"postern --file 'a b' run --workdir ~/agent --agent demo -- bin/postern": {"postern", "--file", "a b", "run", "--agent", "demo", "--workdir=/x", "--", "bin/postern"},
	} {
		require.Equal(t, want, inAnotherFolder(args))
	}
}
