package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
)

// Monitor answers what monitoring asks about one node. No label of a metric has a value that an
// agent could make up: agents and reasons come from the policy, and no metric has hosts.
// docs/reference-metrics.md lists them. It is safe for concurrent use.
type Monitor struct {
	dir      string
	registry *prometheus.Registry
	decided  *prometheus.CounterVec
	gaps     prometheus.Counter
	starts   prometheus.Counter
	admin    *http.Client

	mu sync.Mutex
	// agents are the agents that have a series already.
	agents map[string]bool
}

// maxAgents bounds the agents that have their own series; further ones count as "other". Nobody
// reads a plan with more.
const maxAgents = 1000

// NewMonitor returns the monitor of the node whose working folder is dir. Set it as
// [Config.Monitor].
func NewMonitor(dir string) *Monitor {
	m := &Monitor{dir: dir, registry: prometheus.NewRegistry(), agents: map[string]bool{}}
	m.decided = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_node_decisions_total", Help: "Decisions of this node since its supervisor started, by agent, verdict and reason.",
	}, []string{"agent", "verdict", "reason"})
	m.gaps = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_node_audit_gaps_total", Help: "Gaps declared in this node's audit log since its supervisor started.",
	})
	m.starts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_node_envoy_starts_total", Help: "How often the supervisor has started Envoy.",
	})
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_node_ready", Help: "1 if /readyz says so: Envoy is live, has its configuration, and every agent's socket takes connections.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		if m.Ready(ctx) != nil {
			return 0
		}
		return 1
	})
	m.registry.MustRegister(m.decided, m.gaps, m.starts, ready)
	m.admin = adminClient(dir)
	return m
}

// adminTimeout bounds one question to Envoy, or one connection.
const adminTimeout = 5 * time.Second

// Handler serves /metrics (Prometheus, with some of Envoy's own), /healthz (the supervisor is
// alive) and /readyz. It is read-only and does not authenticate. Through it, nothing else of
// Envoy's admin interface can be reached.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{m.registry, envoyGatherer{m}}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := m.Ready(r.Context()); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ok")
	})
	return mux
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

// event counts an event that was written to the audit log.
func (m *Monitor) event(e *audit.Event) {
	switch {
	case e.Verdict == audit.Gap:
		m.gaps.Inc()
		return
	case e.Verdict == audit.Change, e.State != "" && e.State != audit.Opened:
		return // not a decision, or one that was counted
	}
	agent := e.Agent
	m.mu.Lock()
	if !m.agents[agent] && len(m.agents) >= maxAgents {
		agent = "other"
	} else {
		m.agents[agent] = true
	}
	m.mu.Unlock()
	reason := e.Reason
	if !slices.Contains(plan.Reasons, reason) {
		reason = "other"
	}
	m.decided.WithLabelValues(agent, e.Verdict, string(reason)).Add(float64(max(1, e.Count)))
}

// Ready returns nil if the node serves: Envoy is live, the control plane has
// given it listeners, and every agent's socket takes connections.
func (m *Monitor) Ready(ctx context.Context) error {
	if _, err := m.ask(ctx, "/ready"); err != nil {
		return fmt.Errorf("envoy is not live: %w", err)
	}
	b, err := m.ask(ctx, "/listeners?format=json")
	if err != nil {
		return err
	}
	var listeners struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(b, &listeners); err != nil {
		return fmt.Errorf("read envoy's listeners: %w", err)
	}
	if len(listeners.Statuses) == 0 {
		return errors.New("the control plane has given this node nothing to serve yet")
	}
	for _, l := range listeners.Statuses {
		if agent, ok := strings.CutPrefix(l.Name, "agent/"); ok && l.Address.Pipe.Path != "" {
			if err := Probe(ctx, m.dir, agent); err != nil {
				return err
			}
		}
	}
	return nil
}

// ask reads one page of Envoy's admin interface.
func (m *Monitor) ask(ctx context.Context, page string) ([]byte, error) {
	return question(ctx, m.admin, http.MethodGet, page)
}

// probeTime bounds how long an Envoy that is alive takes to close a connection.
const probeTime = 2 * time.Second

// Probe returns nil if the node of this machine whose working folder is dir serves an agent: Envoy
// itself, and not only the kernel, takes a connection at the agent's socket, and the node's log is
// taken. It makes no event.
func Probe(ctx context.Context, dir, agent string) error {
	if err := checkLease(dir); err != nil {
		return err
	}
	conn, err := dialIn(ctx, dir, envoy.AgentSocket(agent))
	if err != nil {
		return fmt.Errorf("the socket of agent %s takes no connection: %w", agent, err)
	}
	defer conn.Close()
	// If a client hangs up without a byte, a living Envoy hangs up, too.
	deadline := time.Now().Add(probeTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	err = errors.Join(conn.SetDeadline(deadline), conn.(*net.UnixConn).CloseWrite())
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("envoy does not answer at the socket of agent %s: %w", agent, err)
	}
	return nil
}

// dialIn connects to the Unix socket at a path below dir, however long dir is.
func dialIn(ctx context.Context, dir, path string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	dialer := net.Dialer{Timeout: adminTimeout}
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), path))
	if err != nil {
		// The error's path is that of a descriptor, which helps nobody.
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn, nil
}
