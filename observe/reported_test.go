package observe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

// TestCombine: a fleet of several control planes, by what they report.
func TestCombine(t *testing.T) {
	t.Parallel()
	now := time.Now()
	rejected := &api.Rejection{Version: "v2", Node: "n1", Type: "clusters", Message: "bad", Rules: []string{"a/x"}}
	s := &api.Status{Seq: 7, Version: "v1", Wanted: "v1", Replicas: []api.Replica{
		{
			ID: "a", Seq: 7, Version: "v1", Time: now,
			Fleet:       []api.Node{{ID: "n2", Connected: true, Version: "v1"}, {ID: "n1"}},
			Credentials: []api.Credential{{Name: "key", OK: true}},
		},
		{
			ID: "b", Seq: 7, Version: "v1", Time: now,
			Fleet:       []api.Node{{ID: "n1", Connected: true, Version: "v1"}, {ID: "n2"}},
			Credentials: []api.Credential{{Name: "key", Problem: "the file is gone"}}, Rejected: rejected,
		},
		{ID: "c", Stale: true, Fleet: []api.Node{{ID: "n9", Connected: true}}},
	}}
	combine(s)
	require.Equal(t, []api.Node{
		{ID: "n1", Connected: true, Version: "v1"}, {ID: "n2", Connected: true, Version: "v1"},
	}, s.Nodes)
	require.Equal(t, []api.Credential{{Name: "key", Problem: "the file is gone"}}, s.Credentials)
	require.Equal(t, rejected, s.Rejected)
}
