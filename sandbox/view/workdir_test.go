package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNobodysHomeIsAWorkdir(t *testing.T) {
	t.Parallel()
	homes := new(machine).peopleHomes()
	require.NotEmpty(t, homes)
	for _, home := range homes {
		for dir := home; dir != "/"; dir = filepath.Dir(dir) {
			_, err := look(dir, "/nonexistent")
			require.Error(t, err, dir)
		}
	}
	project := t.TempDir()
	for _, name := range []string{".ssh/x", "project"} {
		require.NoError(t, os.MkdirAll(filepath.Join(project, name), 0o755))
	}
	_, err := look(filepath.Join(project, "project"), project)
	require.NoError(t, err)
	for dir, want := range map[string]bool{"/proc": true, "/dev/pts": true, "/usr/share": false, project: false} {
		whole, _, err := new(machine).mounts(dir)
		require.NoError(t, err)
		require.Equal(t, want, whole, dir)
	}
}
