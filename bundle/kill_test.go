package bundle

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestKillsAddUp: a second kill frees nobody, and an unkill frees who it names.
func TestKillsAddUp(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.authority(t)
	p := policy("one.test")
	p.Agents = append(p.Agents, plan.Agent{Name: "b"}, plan.Agent{Name: "c"})
	require.NoError(t, o.mark(t.Context(), kindProven, o.store(t, p), ""))
	for _, step := range []struct {
		name   string
		do     func() (*Outcome, error)
		killed Killed
	}{
		{
			"kill b", func() (*Outcome, error) { return o.Kill(t.Context(), Killed{Agents: []string{"b"}}) },
			Killed{Agents: []string{"b"}},
		},
		{
			"kill a", func() (*Outcome, error) { return o.Kill(t.Context(), Killed{Agents: []string{"a"}}) },
			Killed{Agents: []string{"a", "b"}},
		},
		{
			"kill a again", func() (*Outcome, error) { return o.Kill(t.Context(), Killed{Agents: []string{"a"}}) },
			Killed{Agents: []string{"a", "b"}},
		},
		{
			"unkill b", func() (*Outcome, error) { return o.Unkill(t.Context(), Killed{Agents: []string{"b"}}) },
			Killed{Agents: []string{"a"}},
		},
		{
			"kill all", func() (*Outcome, error) { return o.Kill(t.Context(), Killed{Stack: true}) },
			Killed{Stack: true, Agents: []string{"a"}},
		},
		{
			"unkill all", func() (*Outcome, error) { return o.Unkill(t.Context(), Killed{Stack: true}) },
			Killed{Agents: []string{"a"}},
		},
	} {
		out, err := step.do()
		require.ErrorContains(t, err, "no control plane has reported", step.name)
		require.NoError(t, out.Unrecorded, step.name)
		b, err := o.Current(t.Context())
		require.NoError(t, err)
		require.Equal(t, out.Seq, b.Seq, step.name)
		require.Equal(t, step.killed, b.Killed, step.name)
		require.NoError(t, o.Proven(t.Context(), b), step.name)
	}
}

// TestKillNothing: where nothing was published nobody is killed, and the error says so.
func TestKillNothing(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	out, err := o.Kill(t.Context(), Killed{Stack: true})
	require.ErrorIs(t, err, ErrNone)
	require.Nil(t, out)
}

// TestWithdrawOnlyTheLast: what somebody has built on stays.
func TestWithdrawOnlyTheLast(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	first, second := o.store(t, policy("one.test")), o.store(t, policy("two.test"))
	require.NoError(t, o.withdraw(t.Context(), first.Seq))
	seqs, err := o.numbers(t.Context())
	require.NoError(t, err)
	require.Equal(t, []uint64{first.Seq, second.Seq}, seqs)
	require.NoError(t, o.withdraw(t.Context(), second.Seq))
	seqs, err = o.numbers(t.Context())
	require.NoError(t, err)
	require.Equal(t, []uint64{first.Seq}, seqs)
}

// TestWithdrawThatFails: a publication whose mark stays in the store stays, too, and the error says so. A mark
// without its publication would count for the next one of its number.
func TestWithdrawThatFails(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	b := o.store(t, policy("one.test"))
	o.plant(t, object(b.Seq, suffixTry)+"/file", "") // a folder that is not empty cannot be removed
	require.ErrorContains(t, o.withdraw(t.Context(), b.Seq), "delete 0000000000000001.try from the bundle store")
	require.FileExists(t, o.file(b.Seq, suffixBundle))
}

// TestKeyThatOthersMayRead: it is no proof of anything.
func TestKeyThatOthersMayRead(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		require.NoError(t, os.Chmod(o.Key, mode))
		_, err := readKey(o.Key)
		require.ErrorContains(t, err, "others may read "+o.Key, "%o", mode)
	}
}
