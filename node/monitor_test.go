package node_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

func ask(t *testing.T, m *node.Monitor, page string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, page, nil))
	return w.Code, w.Body.String()
}

// TestMonitor: what monitoring sees of a node through its life.
func TestMonitor(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	m := f.Monitors["n1"]
	code, body := ask(t, m, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code, "it has no configuration: %s", body)
	code, _ = ask(t, m, "/healthz")
	require.Equal(t, http.StatusOK, code)

	up := f.NewUpstream("one.test")
	rule := plan.Rule{ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.Pin()}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule}}, {Name: "b"}}})
	code, body = ask(t, m, "/readyz")
	require.Equal(t, http.StatusOK, code, body)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	for range 3 {
		require.Equal(t, 0, f.Get("n1", "b", "https://grown-by-an-agent.test/"))
	}
	f.Events(4)
	_, body = ask(t, m, "/metrics")
	for _, line := range []string{
		`postern_node_decisions_total{agent="a",reason="allowed",verdict="allow"} 1`,
		`postern_node_decisions_total{agent="b",reason="host_not_allowed",verdict="deny"} 3`,
		`postern_node_audit_gaps_total 0`, `postern_node_envoy_starts_total 1`, `postern_node_ready 1`,
		`envoy_server_live 1`, `envoy_control_plane_connected_state 1`,
		`envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="intercept"} 1`,
	} {
		require.Contains(t, body, line+"\n")
	}
	require.NotContains(t, body, ".test", "no host is a label")
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (envoy_\S+)`).FindAllStringSubmatch(body, -1) {
		require.Contains(t, node.EnvoyFamilies, m[1])
	}
	for family := range node.EnvoyFamilies {
		require.Contains(t, body, "# TYPE "+family+" ", "Envoy has no such family")
	}
	// Whatever is asked for, the admin interface is not behind it.
	for _, page := range []string{"/quitquitquit", "/config_dump", "/stats", "/metrics/../config_dump"} {
		code, body = ask(t, m, page)
		require.NotEqual(t, http.StatusOK, code, page)
		require.NotContains(t, body, "configs")
	}

	// The socket of an agent is gone: the node is not ready, and says whose it is.
	socket := filepath.Join(f.Home.NodeDir("n1"), envoy.AgentSocket("a"))
	require.NoError(t, os.Rename(socket, socket+".away"))
	code, body = ask(t, m, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "the socket of agent a takes no connection")
	require.NoError(t, os.Rename(socket+".away", socket))

	// Its own Envoy dies: not ready, then ready again, and a gap is counted.
	require.NoError(t, syscall.Kill(f.EnvoyPID("n1"), syscall.SIGKILL))
	require.Eventually(t, func() bool {
		_, body := ask(t, m, "/metrics")
		lines := strings.Split(body, "\n")
		return slices.Contains(lines, "postern_node_envoy_starts_total 2") && slices.Contains(lines, "postern_node_audit_gaps_total 1") && slices.Contains(lines, "postern_node_ready 1")
	}, time.Minute, 50*time.Millisecond)
}
