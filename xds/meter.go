package xds

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/ledger"
	"github.com/postern/postern/xds/mint"
)

// meter holds the metrics of a control plane, in its own registry. No label has a value that an
// agent could make up, and no metric has hosts. docs/reference-metrics.md lists them.
type meter struct {
	registry *prometheus.Registry

	publish, push, ack          *prometheus.HistogramVec
	build                       prometheus.Observer
	nacks, leaves, rollBacks    *prometheus.CounterVec
	storeErrors, leases, rotate prometheus.Counter
	eventErrors                 prometheus.Counter
}

// The values of label "result" of a publication.
const (
	resultConverged = "converged"
	resultRejected  = "rejected"
	resultUnhealthy = "unhealthy"
	resultTimeout   = "timeout"
	resultFailed    = "failed"
)

// buckets are in seconds: a push to a fleet is meant to take milliseconds.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func newMeter(c *Control) *meter {
	m := &meter{registry: prometheus.NewRegistry()}
	histograms := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_control_" + name, Help: help, Buckets: buckets,
		}, labels)
		m.registry.MustRegister(v)
		return v
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_control_" + name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.publish = histograms("publish_duration_seconds", "From the news of a publication until every connected node "+
		"acknowledged it, or the roll-out ended otherwise.", "result")
	m.build = histograms("build_duration_seconds",
		"Building and packing the Envoy resources of one publication.").WithLabelValues()
	m.push = histograms("push_duration_seconds", "From the start of a roll-out until a resource type was sent to "+
		"a node.", "type")
	m.ack = histograms("ack_duration_seconds", "From sending a resource type to a node until it acknowledged or "+
		"refused it.", "type")
	m.nacks = counters("nacks_total", "Resources that a node refused.", "type")
	m.rollBacks = counters("rollbacks_total", "Publications that the control plane took back.", "result")
	m.storeErrors = counters("store_errors_total", "Reads of the bundle store that failed.").WithLabelValues()
	m.leaves = counters("leaf_certificates_total", "Leaf certificates that nodes requested.", "result")
	m.leases = counters("leases_ended_total", "Leases (rules with an end) that ended.").WithLabelValues()
	m.rotate = counters("secret_rotations_total", "Secrets that changed while they were in use.").WithLabelValues()
	m.eventErrors = counters("audit_errors_total", "Events of the control plane that could not be written to the "+
		"audit log.").WithLabelValues()
	// Every counter whose labels are known is there from the start, as 0.
	for _, k := range ledger.Kinds {
		m.push.WithLabelValues(k.Name)
		m.ack.WithLabelValues(k.Name)
		m.nacks.WithLabelValues(k.Name)
	}
	for _, r := range []string{resultConverged, resultRejected, resultUnhealthy, resultTimeout, resultFailed} {
		m.publish.WithLabelValues(r)
		if r != resultConverged {
			m.rollBacks.WithLabelValues(r)
		}
	}
	for _, r := range []string{mint.Minted, mint.Refused, mint.Failed} {
		m.leaves.WithLabelValues(r)
	}
	m.registry.MustRegister(gauges{c})
	return m
}

// gauges are computed when they are asked for.
type gauges struct{ c *Control }

var (
	descResources = prometheus.NewDesc("postern_control_resources",
		"Published resources, by type. Leaf certificates count as secrets.", []string{"type"}, nil)
	descNodes = prometheus.NewDesc("postern_control_nodes", "Nodes that are part of the stack (known), have a "+
		"stream (connected), or have acknowledged everything (converged).", []string{"state"}, nil)
	descSeq = prometheus.NewDesc("postern_control_bundle_seq", "Number of the live publication, or 0.", nil,
		nil)
	descAge = prometheus.NewDesc("postern_control_bundle_age_seconds", "Age of the live publication, or 0.",
		nil, nil)
	descRejected = prometheus.NewDesc("postern_control_rejected",
		"1 if a node refused the last publication, which was taken back.", nil, nil)
	descCredentials = prometheus.NewDesc("postern_control_credentials", "Credentials of the live plan: ok, expiring (works, and cannot be renewed) or failing (its routes fail closed).", []string{"state"}, nil)
	descKilled      = prometheus.NewDesc("postern_control_agents_killed", "Agents that an operator has killed.", nil,
		nil)
	descRefused = prometheus.NewDesc("postern_control_refused_total", "Refused connections, joins and streams: of machines that are not nodes of this stack, or beyond a bound.", []string{"reason"}, nil)
	descLease   = prometheus.NewDesc("postern_control_next_lease_end_seconds",
		"Seconds until the next lease ends, or 0.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descResources, descNodes, descSeq, descAge, descRejected, descCredentials, descKilled, descLease, descRefused,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, k := range ledger.Kinds {
		set(descResources, float64(g.c.cache.Len(k.URL)), k.Name)
	}
	s := g.c.Status()
	connected, converged := 0, 0
	for _, n := range s.Nodes {
		if n.Connected {
			connected++
			if n.Version == s.Version {
				converged++
			}
		}
	}
	set(descNodes, float64(len(s.Nodes)), "known")
	set(descNodes, float64(connected), "connected")
	set(descNodes, float64(converged), "converged")
	set(descSeq, float64(s.Seq))
	now := g.c.leases.Now()
	age, lease := 0.0, 0.0
	g.c.mu.Lock()
	if g.c.live != nil {
		age = now.Sub(g.c.live.Time).Seconds()
	}
	if !g.c.expiry.IsZero() {
		lease = max(0, g.c.expiry.Sub(now).Seconds())
	}
	g.c.mu.Unlock()
	set(descAge, age)
	set(descLease, lease)
	rejected := 0.0
	if s.Rejected != nil {
		rejected = 1
	}
	set(descRejected, rejected)
	for _, reason := range []string{"handshake", "identity", "mismatch", "rate", "token"} {
		ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(s.Refused[reason]), reason)
	}
	set(descKilled, float64(len(s.Killed)))
	for state, n := range credentialStates(s.Credentials) {
		set(descCredentials, float64(n), state)
	}
}

func credentialStates(creds []api.Credential) map[string]int {
	states := map[string]int{"ok": 0, "expiring": 0, "failing": 0}
	for _, c := range creds {
		switch {
		case !c.OK:
			states["failing"]++
		case c.Problem != "":
			states["expiring"]++
		default:
			states["ok"]++
		}
	}
	return states
}

// published counts the end of a roll-out.
func (m *meter) published(result string, took time.Duration) {
	m.publish.WithLabelValues(result).Observe(took.Seconds())
	if result != resultConverged {
		m.rollBacks.WithLabelValues(result).Inc()
	}
}
