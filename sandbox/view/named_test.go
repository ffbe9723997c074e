package view

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath/places"
)

// TestInALongFile: many lines before a setting do not hide the setting.
func TestInALongFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config")
	before := strings.Repeat("[section]\n", 90_000)
	require.NoError(t, os.WriteFile(file, []byte(before+"[core]\n\thooksPath = hk\n"), 0o600))
	named := InRepository(file, nil)
	require.Len(t, named, 1)
	require.Equal(t, places.Named{Name: named[0].Name, Path: "hk", Folder: true}, named[0])
}
