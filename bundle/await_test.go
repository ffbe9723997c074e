package bundle

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

// replicated is a stack with one live publication, and two control planes that know the operator only
// by the store: a with 2 nodes, b with 3.
type replicated struct {
	*Operator
	// refuses names the control planes whose nodes do not take publication 2.
	refuses map[string]bool

	mu sync.Mutex
	// took are the publications that were taken, by whom, in this order.
	took, said []string
}

func replicate(t *testing.T, refuses map[string]bool) *replicated {
	t.Helper()
	r := &replicated{Operator: folder(t, "test"), refuses: refuses}
	reporter := r.authority(t)
	r.Say = func(line string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.said = append(r.said, line)
	}
	first := r.store(t, policy("one.test"))
	require.NoError(t, r.mark(t.Context(), kindProven, first, ""))
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // the test's context is over by then
	for id, nodes := range map[string]int{"a": 2, "b": 3} {
		by := reporter("test")
		report := api.Replica{ID: id, Time: time.Now(), Seq: first.Seq, Hash: first.Hash(), Connected: nodes}
		require.NoError(t, r.Report(t.Context(), &report, by))
		running.Go(func() {
			if err := r.follow(t.Context(), report, by); t.Context().Err() == nil {
				assert.NoError(t, err)
			}
		})
	}
	// It has died: it is neither asked to try nor waited for, by whatever name.
	dead := api.Replica{ID: "0", Time: time.Now().Add(-time.Minute), Seq: 1, Connected: 9}
	require.NoError(t, r.Report(t.Context(), &dead, reporter("test")))
	return r
}

// follow takes publications as a control plane does: those that it is to try, and those that are proven.
func (r *replicated) follow(ctx context.Context, report api.Replica, by *Reporter) error {
	for every := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		b, err := r.Current(ctx)
		if err != nil {
			return err
		}
		if b.Seq <= max(report.Seq, report.Failed) {
			continue
		}
		tries, _ := r.Tries(ctx, b)
		proven := r.Proven(ctx, b) == nil
		if tries != report.ID && !proven {
			continue
		}
		how := "tries"
		if proven {
			how = "follows"
		}
		r.mu.Lock()
		r.took = append(r.took, fmt.Sprintf("%s %s %d", report.ID, how, b.Seq))
		r.mu.Unlock()
		if b.Seq == 2 && r.refuses[report.ID] {
			report.Failed, report.FailedHash, report.Problem = b.Seq, b.Hash(), "a node refuses it"
		} else {
			report.Seq, report.Hash, report.Failed = b.Seq, b.Hash(), 0
		}
		if err := r.Report(ctx, &report, by); err != nil {
			return err
		}
	}
}

// TestThroughStore: of control planes that cannot be told, one tries a publication, and the others
// follow only when its nodes have taken it. What one refuses is taken back everywhere.
func TestThroughStore(t *testing.T) {
	t.Parallel()
	publish := func(t *testing.T, r *replicated) (*api.Converged, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return r.Publish(ctx, policy("two.test"))
	}
	t.Run("taken", func(t *testing.T) {
		t.Parallel()
		r := replicate(t, nil)
		v, err := publish(t, r)
		require.NoError(t, err)
		require.Equal(t, []any{uint64(2), 5}, []any{v.Seq, v.Nodes})
		b, proven := r.newest(t)
		require.Equal(t, []any{uint64(2), true}, []any{b.Seq, proven})
		require.Equal(t, b.version(), v.Version)
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Equal(t, []string{"a tries 2", "b follows 2"}, r.took)
		require.Contains(t, r.said[0], "control plane 0 has not reported since ")
		require.Equal(t, []string{
			"control plane a tries version " + v.Version, "control plane a: live on 2 nodes",
			"live on 2 nodes of a; now b", "control plane b: live on 3 nodes",
		}, r.said[1:])
	})
	t.Run("refused by the first", func(t *testing.T) {
		t.Parallel()
		r := replicate(t, map[string]bool{"a": true})
		_, err := publish(t, r)
		var refused *api.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "control plane a: a node refuses it", refused.Message)
		b, proven := r.newest(t)
		require.Equal(t, []any{uint64(1), true}, []any{b.Seq, proven})
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Equal(t, []string{"a tries 2"}, r.took)
	})
	t.Run("refused by the second", func(t *testing.T) {
		t.Parallel()
		r := replicate(t, map[string]bool{"b": true})
		_, err := publish(t, r)
		require.EqualError(t, err, "control plane b: a node refuses it")
		b, proven := r.newest(t)
		require.Equal(t, []any{uint64(3), uint64(2), true}, []any{b.Seq, b.TakesBack, proven})
		require.Equal(t, policy("one.test"), b.Plan)
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Equal(t, []string{"a tries 2", "b follows 2"}, r.took[:2])
		require.ElementsMatch(t, []string{"a follows 3", "b follows 3"}, r.took[2:])
	})
	t.Run("nobody is there", func(t *testing.T) {
		t.Parallel()
		o := folder(t, "test")
		o.authority(t)
		_, err := o.Publish(t.Context(), policy("one.test"))
		require.ErrorContains(t, err, "no control plane has reported to the bundle store")
		_, err = o.Current(t.Context())
		require.ErrorIs(t, err, ErrNone, "it is withdrawn")
	})
}
