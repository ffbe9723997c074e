package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestC runs the programs in testdata: pace.c says what waits, for how long and how much of
// it, hooks.c which of what Envoy calls is paced.
func TestC(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pace", "woken", "hooks"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), name)
			out, err := exec.Command("gcc", "-Wall", "-Werror", "-pthread", "-I", "testdata", "-o", program, filepath.Join("testdata", name+".c"), "-lm").CombinedOutput()
			require.NoError(t, err, "%s", out)
			out, err = exec.Command(program).CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}
