package publish_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// TestAsk: when somebody has to see a difference, where nobody can be asked.
func TestAsk(t *testing.T) {
	root := t.TempDir()
	base := filepath.Join(root, "state")
	t.Setenv("POSTERN_HOME", base)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	open := func(dir string) *stacks.File {
		t.Helper()
		path := filepath.Join(root, dir, "stacks", "local.yaml")
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("version: 1\n"), 0o600))
		f, err := stacks.Open(path)
		require.NoError(t, err)
		return f
	}
	mine, moved, agents := open("mine"), open("moved"), open("agents")
	for _, f := range []*stacks.File{mine, moved, agents} {
		_, err := home.Claim(f.Owner())
		require.NoError(t, err)
	}
	require.NoError(t, os.Rename(filepath.Join(root, "moved"), filepath.Join(root, "before")))
	moved = open("moved")
	require.NoError(t, hostpath.In(base).Record(filepath.Join(root, "agents")))

	low := []plan.Change{{Kind: "-", Text: "less", Risk: plan.RiskLow}}
	high := []plan.Change{{Kind: "+", Text: "more", Risk: plan.RiskHigh}, {Kind: "+", Text: "most", Risk: plan.RiskHigh}}
	const proposal = " is in ROOT/agents, where an agent may write, so it is only a proposal"
	for name, c := range map[string]struct {
		file         *stacks.File
		changes      []plan.Change
		more         []string
		careful, yes bool
		want         string // without the beginning; "" if it may be published
	}{
		"nothing":                  {file: agents},
		"low":                      {file: mine, changes: low, careful: true},
		"high":                     {file: mine, changes: high, careful: true, want: "2 changes have a high risk: look at the difference, and run this: postern push --yes"},
		"high, yes":                {file: mine, changes: high, careful: true, yes: true},
		"high, up":                 {file: mine, changes: high},
		"replaced":                 {file: moved, changes: low, want: "the folder of ROOT/moved/stacks/local.yaml is not the one from which the stack was brought up: look at the difference, and run this: postern push --yes"},
		"replaced, yes":            {file: moved, changes: low, yes: true},
		"an agent's, low":          {file: agents, changes: low, want: "ROOT/agents/stacks/local.yaml" + proposal + ": look at the difference, and run this on a terminal: postern push"},
		"an agent's, yes":          {file: agents, changes: low, yes: true, want: "ROOT/agents/stacks/local.yaml" + proposal + ", for which --yes does not count: look at the difference, and run this on a terminal: postern push"},
		"an agent's, not the plan": {file: agents, more: []string{"~ 9 proxies, was 1"}, want: "ROOT/agents/stacks/local.yaml" + proposal + ": look at the difference, and run this on a terminal: postern push"},
	} {
		t.Run(name, func(t *testing.T) {
			home, err := c.file.Home()
			require.NoError(t, err)
			nobody, err := os.Open(os.DevNull)
			require.NoError(t, err)
			defer nobody.Close()
			var out bytes.Buffer
			r := &publish.Review{
				File: c.file, Home: home, Changes: c.changes, More: c.more, Careful: c.careful, Yes: c.yes, Command: "postern push",
				In: nobody, Out: &out, Err: &out,
			}
			err = r.Ask(t.Context())
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			var unseen *publish.UnseenError
			require.ErrorAs(t, err, &unseen)
			require.Equal(t, "nothing was done: "+c.want, string(bytes.ReplaceAll([]byte(err.Error()), []byte(root), []byte("ROOT"))))
			for _, change := range c.changes {
				require.Contains(t, out.String(), change.String(), "shown all the same")
			}
			for _, line := range c.more {
				require.Contains(t, out.String(), line)
			}
		})
	}

	require.NoError(t, publish.RefuseProposal(mine))
	require.ErrorContains(t, publish.RefuseProposal(agents), "keep it where no agent works: install -D -m 600 "+agents.Real+" "+root+"/config/postern/stacks/local.yaml")

	_, err := publish.RefuseUnmeant(mine)
	require.NoError(t, err)
	h, err := mine.Home()
	require.NoError(t, err)
	record, err := os.ReadFile(h.RecordFile())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(h.RecordFile(), []byte("{"), 0o600))
	var unseen *publish.UnseenError
	_, err = publish.RefuseUnmeant(mine)
	require.ErrorAs(t, err, &unseen, "whose the folder is cannot be read")
	require.NoError(t, os.Remove(h.RecordFile()))
	folder, err := publish.RefuseUnmeant(mine)
	require.NoError(t, err, "it was claimed by nobody")
	require.NoError(t, os.WriteFile(h.RecordFile(), record, 0o600))
	other := mine.Owner()
	other.Folder.Inode++ // the file's folder was put into the place of the first
	require.ErrorIs(t, folder.Claim(other), home.ErrClaimed, "somebody has claimed it since the look")
	require.NoError(t, folder.Claim(mine.Owner()), "for the same folder it is no matter")
	require.NoError(t, os.WriteFile(h.RecordFile(), record, 0o600))

	// A list of agents' folders that is damaged stops everything.
	require.NoError(t, os.WriteFile(filepath.Join(base, "workdirs"), []byte("torn\n"), 0o600))
	_, err = publish.Proposal(mine)
	require.Error(t, err)
	var said bytes.Buffer
	publish.Announce(&said, mine)
	require.Contains(t, said.String(), "this line of the list of agents' working directories is damaged")
}
