package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCreateEnds: an agent's folder with very many files that look like secrets takes neither the
// host's inodes nor its time, and whoever waits can end it. Nothing is left.
func TestCreateEnds(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	host, state := filepath.Join(root, "host"), filepath.Join(root, "state")
	write(t, filepath.Join(host, "a/b.key"), "")
	r := Record{Agent: "demo", Workdir: host, Size: 1 << 30, Hidden: []string{"a/b.key"}}
	ended := errors.New("somebody ended it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ended)
	_, err = Create(ctx, state, r)
	require.ErrorIs(t, err, ended)
	r.Hidden = []string{"gone/b.key"}
	_, err = Create(t.Context(), state, r)
	require.ErrorContains(t, err, "hide gone/b.key: ")
	r.Hidden = nil
	_, err = Create(ctx, state, r)
	require.ErrorIs(t, err, ended)
	for i := range maxHidden + 1 {
		r.Hidden = append(r.Hidden, strconv.Itoa(i)+".key")
	}
	_, err = Create(t.Context(), state, r)
	require.ErrorContains(t, err, "10001 files look like secrets, and only 10000 can be hidden one by one")
	left, err := os.ReadDir(state)
	require.NoError(t, err)
	require.Empty(t, left)
}
