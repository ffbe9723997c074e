package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPace runs testdata/pace.c, which says what waits, for how long and how much of it.
func TestPace(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "pace")
	out, err := exec.Command("gcc", "-Wall", "-Werror", "-pthread", "-o", program, "pace.c", filepath.Join("testdata", "pace.c")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(program).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
