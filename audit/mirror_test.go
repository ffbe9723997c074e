package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// What the platform ships is what is on disk, byte for byte; what it cannot
// take ends the writer, as a full disk does.
func TestMirror(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := NewWriter(dir, "n1")
	require.NoError(t, err)
	var mirror bytes.Buffer
	w.Mirror = &mirror
	for range 3 {
		require.NoError(t, w.Record(Event{Agent: "coder", Host: "api.example.test"}))
	}
	onDisk, err := os.ReadFile(segmentPath(filepath.Join(dir, "n1"), 1))
	require.NoError(t, err)
	require.Equal(t, string(onDisk), mirror.String())
	require.Equal(t, 3, bytes.Count(onDisk, []byte("\n")))
	w.Mirror = full{}
	require.ErrorContains(t, w.Record(Event{Agent: "coder"}), "mirror event: no space left")
	require.NoError(t, w.Close())
}

// A replica's events say which one they are of; its file is the control plane's.
func TestReplicaIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 { // it continues where it was
		w, err := NewWriter(dir, ControlPlane+"/eu-1")
		require.NoError(t, err)
		require.NoError(t, w.Record(Event{Kind: "published"}))
		require.NoError(t, w.Close())
	}
	events, err := Read(dir, Filter{})
	require.NoError(t, err)
	require.Len(t, events, 2)
	for i, e := range events {
		require.Equal(t, "control/eu-1", e.Node)
		require.EqualValues(t, i+1, e.Seq)
	}
	require.FileExists(t, segmentPath(filepath.Join(dir, "control"), 1))
}
