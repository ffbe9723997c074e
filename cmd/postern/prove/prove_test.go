package prove

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/drive"
	"github.com/postern/postern/policies/proof"
)

// TestAPipeIsNoFile: nobody waits for who would write into it.
func TestAPipeIsNoFile(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	for name, read := range map[string]func() error{
		"a state": func() error { return state(&cobra.Command{}, &drive.Request{State: pipe}) },
		"a plan": func() error {
			return compare(&cobra.Command{}, &drive.Request{Graph: pipe}, nil, nil, &proof.Report{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan error, 1)
			go func() { done <- read() }()
			select {
			case err := <-done:
				require.ErrorContains(t, err, pipe)
			case <-time.After(10 * time.Second):
				require.Fail(t, "it waits")
			}
		})
	}
}
