package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiffOfWorkspaces: more of the host's files is a risk, less is none, and the default is the
// same as nothing.
func TestDiffOfWorkspaces(t *testing.T) {
	t.Parallel()
	with := func(w *Workspace) *Plan { return &Plan{Agents: []Agent{{Name: "a", Workspace: w}}} }
	overlay, tmpfs := &Workspace{Mode: WorkspaceOverlay, Size: 1024}, &Workspace{Mode: WorkspaceTmpfs}
	volume := &Workspace{Mode: WorkspaceVolume}
	const kept = "  [medium: what it writes is there in its next command]"
	for _, c := range []struct {
		was, is *Workspace
		want    string
	}{
		{nil, nil, ""},
		{nil, overlay, "~ a has workspace overlay (1024 bytes), was write"},
		{overlay, nil, "~ a has workspace write, was overlay (1024 bytes)  [medium: it changes the host's files at once]"},
		{tmpfs, overlay, "~ a has workspace overlay (1024 bytes), was tmpfs  [medium: it reads the host's files]"},
		{overlay, tmpfs, "~ a has workspace tmpfs, was overlay (1024 bytes)"},
		{tmpfs, volume, "~ a has workspace volume, was tmpfs" + kept},
		{volume, &Workspace{Mode: WorkspaceVolume, Volume: "b"}, "~ a has workspace volume b, was volume" + kept},
		{volume, overlay, "~ a has workspace overlay (1024 bytes), was volume  [medium: it reads the host's files]"},
		{overlay, volume, "~ a has workspace volume, was overlay (1024 bytes)" + kept},
	} {
		got := ""
		for _, change := range Diff(with(c.was), with(c.is)) {
			got += change.Line()
		}
		require.Equal(t, c.want, got)
	}
	require.Len(t, Diff(&Plan{}, with(overlay)), 2, "an agent that is new")
	hides := &Workspace{
		Mode: WorkspaceOverlay, Size: 1024, Hide: []string{"*.x"}, Show: map[string]string{"test.key": "made up"},
	}
	lines := func(was, is *Workspace) (all []string) {
		for _, change := range Diff(with(was), with(is)) {
			all = append(all, change.Line())
		}
		return all
	}
	require.Equal(t, []string{
		`+ a may see "test.key": made up  [high: it looks like a secret]`, `- a may see "*.x"`,
	}, lines(overlay, hides))
	require.Equal(t, []string{
		`+ a may see "*.x"  [high: a person has hidden it]`, `- a may see "test.key": made up`,
	}, lines(hides, overlay))
	reworded := *hides
	reworded.Show = map[string]string{"test.key": "of a test"}
	require.Equal(t, []string{
		`+ a may see "test.key": of a test  [high: it looks like a secret]`, `- a may see "test.key": made up`,
	}, lines(hides, &reworded))
}

// TestDiffOfHomes: a home that starts to persist is a risk, and less is none.
func TestDiffOfHomes(t *testing.T) {
	t.Parallel()
	with := func(h *Home) *Plan { return &Plan{Agents: []Agent{{Name: "a", Home: h}}} }
	for _, c := range []struct {
		was, is *Home
		want    string
	}{
		{nil, nil, ""},
		{&Home{}, &Home{}, ""},
		{nil, &Home{}, "~ a has a home that persists, was an empty home in each run  " +
			"[medium: what it learns in one folder is there when it works in another]"},
		{&Home{}, &Home{Size: 1024}, "~ a has a home that persists (1024 bytes), was a home that persists"},
		{&Home{Size: 1024}, nil, "~ a has an empty home in each run, was a home that persists (1024 bytes)"},
	} {
		got := ""
		for _, change := range Diff(with(c.was), with(c.is)) {
			got += change.Line()
		}
		require.Equal(t, c.want, got)
	}
}
