package workspace

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiskIsKeptFree: a command ends before a disk has no room for bytes, or for files.
func TestDiskIsKeptFree(t *testing.T) {
	t.Parallel()
	b := bound{folder: t.TempDir()}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		floor room
		full  bool
	}{
		"room for both": {b.floor(), false},
		"no bytes":      {room{bytes: math.MaxUint64}, true},
		"no files":      {room{files: math.MaxUint64}, true},
	} {
		var said error
		b.keepFree(ended, c.floor, func(err error) { said = err })
		require.Equal(t, c.full, said != nil, name)
	}
	require.NotZero(t, b.floor().bytes)
}
