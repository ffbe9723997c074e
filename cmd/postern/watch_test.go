package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

func TestStatusChanges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	first := &api.Status{
		Version: "v1", Wanted: "v1", Seq: 1,
		Nodes:       []api.Node{{ID: "n1", Connected: true, Version: "v1"}, {ID: "n2"}},
		Credentials: []api.Credential{{Name: "key", OK: true}},
	}
	require.Equal(t, []string{
		"node n1 connected", "node n1 has version v1", "node n2 is not connected", "publication 1, version v1, is live on 1/2 nodes",
	}, statusChanges(nil, first))
	again := *first
	again.Nodes = []api.Node{{ID: "n1", Connected: true, Version: "v1", LastAck: now}, {ID: "n2"}}
	require.Empty(t, statusChanges(first, &again), "an acknowledgement of the same")
	next := &api.Status{
		Version: "v1", Wanted: "v2", Seq: 1, Killed: []string{"demo"},
		Rejected:    &api.Rejection{Version: "v2", Node: "n1", Type: "clusters", Message: "bad"},
		Nodes:       []api.Node{{ID: "n1", Connected: true, Version: "v1", LastNack: now, Nack: "bad\n"}},
		Credentials: []api.Credential{{Name: "key", Problem: "the file is gone"}},
	}
	require.Equal(t, []string{
		"rolling out version v2", "node n1 refused: bad", "node n2 is no longer part of the stack",
		"version v2 was taken back: node n1 refused clusters", "killed: demo", "credential key: the file is gone",
	}, statusChanges(&again, next))
	require.Contains(t, statusChanges(next, &again), "credential key is there again")
}

func TestPrintStatusOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &api.Status{
		Version: "v1", Wanted: "v1",
		Rejected: &api.Rejection{Version: "v2", Node: "n1", Type: "clusters", Message: "bad\n", Rules: []string{"demo/echo"}},
		Nodes: []api.Node{
			{ID: "n1", Connected: true, Version: "v1", Types: []api.Type{{Name: "clusters", Version: "v1", AckedAt: now, Nack: "bad"}}},
			{ID: "n2", Since: now.Add(-time.Minute)},
			{ID: "n3"},
		},
	}
	var b strings.Builder
	require.NoError(t, printStatus(&b, "local", s, now, statusDetails{types: true, source: func(string) string { return "stacks/local.yaml:12" }}))
	for _, text := range []string{
		"live on 1/3 nodes", "node n2 is missing since ", "(1m0s)", "node n3 is missing: it has not connected since the control plane started",
		"it is about rule demo/echo (stacks/local.yaml:12)", "n1    clusters  v1      v1     0s ago    bad",
	} {
		require.Contains(t, b.String(), text)
	}
}

// TestPrintStatusOfControlPlanes: a fleet of several control planes, by what they report.
func TestPrintStatusOfControlPlanes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &api.Status{
		Seq: 7, Version: "v1", Wanted: "v1",
		Replicas: []api.Replica{
			{ID: "a", Seq: 7, Version: "v1", Time: now}, {ID: "b", Seq: 7, Version: "v1", Time: now}, {ID: "c", Stale: true},
		},
		Nodes:       []api.Node{{ID: "n1", Connected: true, Version: "v1"}, {ID: "n2", Connected: true, Version: "v1"}},
		Credentials: []api.Credential{{Name: "key", Problem: "the file is gone"}},
		Rejected:    &api.Rejection{Version: "v2", Node: "n1", Type: "clusters", Message: "bad", Rules: []string{"a/x"}},
	}
	var b strings.Builder
	details := statusDetails{elsewhere: true, source: func(string) string { return "stacks/prod.yaml:9" }}
	require.NoError(t, printStatus(&b, "prod", s, now, details))
	for _, text := range []string{
		"stack prod: version v1, live at 2/2 control planes, by what they report",
		"it is about rule a/x (stacks/prod.yaml:9)", "routes fail closed: the file is gone", "no longer reports",
	} {
		require.Contains(t, b.String(), text)
	}
}
