package stacks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestLimited: a destination has each of its agent's limits, unless it sets that one itself.
func TestLimited(t *testing.T) {
	t.Parallel()
	agent := plan.Limits{Requests: 1, Per: 60, Concurrent: 2, Body: 3, Upload: 4, Download: 5}
	own := plan.Limits{Requests: 6, Per: 1, Concurrent: 7, Body: 8, Upload: 9, Download: 10}
	require.Equal(t, &agent, limited(nil, &agent))
	require.Equal(t, &agent, limited(&plan.Limits{}, &agent))
	require.Equal(t, &own, limited(&own, nil))
	require.Equal(t, &own, limited(&own, &agent))
	require.Nil(t, limited(nil, nil))
	for _, c := range []struct{ own, want plan.Limits }{
		{
			plan.Limits{Requests: 6, Per: 1},
			plan.Limits{Requests: 6, Per: 1, Concurrent: 2, Body: 3, Upload: 4, Download: 5},
		},
		{plan.Limits{Concurrent: 7}, plan.Limits{Requests: 1, Per: 60, Concurrent: 7, Body: 3, Upload: 4, Download: 5}},
		{plan.Limits{Body: 8}, plan.Limits{Requests: 1, Per: 60, Concurrent: 2, Body: 8, Upload: 4, Download: 5}},
		{plan.Limits{Upload: 9}, plan.Limits{Requests: 1, Per: 60, Concurrent: 2, Body: 3, Upload: 9, Download: 5}},
		{plan.Limits{Download: 10}, plan.Limits{Requests: 1, Per: 60, Concurrent: 2, Body: 3, Upload: 4, Download: 10}},
	} {
		require.Equal(t, &c.want, limited(&c.own, &agent))
	}
}
