package xds

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "memory.max")
	require.EqualValues(t, 1<<30, memoryLimit(file), "there is none")
	for content, want := range map[string]int64{
		"max\n": 1 << 30, "536870912\n": 402653184, "8589934592\n": 1 << 30, "0\n": 1 << 30, "": 1 << 30,
	} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		require.Equal(t, want, memoryLimit(file), content)
	}
}
