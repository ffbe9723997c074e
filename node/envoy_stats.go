package node

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// EnvoyFamilies are the families of Envoy's own metrics that a node serves, with their help. Envoy
// has about a thousand more. Most of them have a label that grows with the policy, or with what
// agents do.
var EnvoyFamilies = map[string]string{
	"envoy_server_live":                                                                 "1 while Envoy is neither starting nor draining.",
	"envoy_server_uptime":                                                               "Seconds since Envoy started.",
	"envoy_server_memory_allocated":                                                     "Bytes that Envoy has allocated.",
	"envoy_server_memory_physical_size":                                                 "Bytes of the machine's memory that Envoy uses.",
	"envoy_server_total_connections":                                                    "Open connections.",
	"envoy_control_plane_connected_state":                                               "1 while Envoy has a stream to a control plane.",
	"envoy_control_plane_pending_requests":                                              "Requests to the control plane that wait for an answer.",
	"envoy_cluster_manager_cds_update_rejected":                                         "Updates of clusters that Envoy refused.",
	"envoy_cluster_manager_cds_update_success":                                          "Updates of clusters that Envoy accepted.",
	"envoy_listener_manager_lds_update_rejected":                                        "Updates of listeners that Envoy refused.",
	"envoy_listener_manager_lds_update_success":                                         "Updates of listeners that Envoy accepted.",
	"envoy_listener_manager_listener_create_failure":                                    "Listeners that could not be opened.",
	"envoy_listener_manager_total_listeners_active":                                     "Listeners that serve.",
	"envoy_listener_manager_total_listeners_warming":                                    "Listeners that wait for something before they serve.",
	"envoy_http_downstream_cx_active":                                                   "Open connections, by connection manager: agent (from agents), intercept (the TLS inside).",
	"envoy_http_downstream_cx_total":                                                    "Connections so far, by connection manager.",
	"envoy_http_downstream_rq_active":                                                   "Requests in progress, by connection manager.",
	"envoy_http_downstream_rq_total":                                                    "Requests so far, by connection manager.",
	"envoy_http_downstream_rq_xx":                                                       "Answers, by connection manager and class of status.",
	"envoy_http_downstream_rq_time":                                                     "Milliseconds that requests took, by connection manager.",
	"envoy_dns_cares_resolve_total":                                                     "DNS queries.",
	"envoy_dns_cares_timeouts":                                                          "DNS queries that were not answered in time.",
	"envoy_dns_cares_get_addr_failure":                                                  "DNS queries that failed.",
	"envoy_cluster_upstream_cx_active":                                                  "Open connections to upstreams. Cluster dynamic has the hosts that DNS finds, and xds is the control plane.",
	"envoy_cluster_upstream_cx_connect_fail":                                            "Connections to upstreams that failed.",
	"envoy_cluster_upstream_rq_total":                                                   "Requests to upstreams.",
	"envoy_cluster_upstream_rq_timeout":                                                 "Requests to upstreams that were not answered in time.",
	"envoy_overload_envoy_resource_monitors_global_downstream_max_connections_pressure": "Open connections, in percent of the most that a node takes.",
}

// envoyLabels are the labels that a family may have, with their values; nil means that few values
// exist anyway. A metric with another label is left out.
var envoyLabels = map[string][]string{
	"envoy_http_conn_manager_prefix": {"agent", "intercept", "intercept-wildcard"},
	"envoy_response_code_class":      nil,
	"envoy_cluster_name":             {"dynamic", "xds"},
}

// envoyFilter keeps Envoy from sending metrics that would be thrown away.
const envoyFilter = `^(server\.|control_plane\.|cluster_manager\.cds\.update|listener_manager\.|http\.(agent|intercept)|dns\.cares\.|cluster\.(dynamic|xds)\.upstream_|overload\.)`

// envoyGatherer gathers Envoy's own metrics, filtered. An Envoy that does not answer has no
// metrics; postern_node_ready shows that.
type envoyGatherer struct{ m *Monitor }

// Gather implements [prometheus.Gatherer].
func (g envoyGatherer) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	b, err := g.m.ask(ctx, "/stats/prometheus?filter="+url.QueryEscape(envoyFilter))
	if err != nil {
		return nil, nil //nolint:nilerr // postern_node_ready shows this
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read envoy's metrics: %w", err)
	}
	var out []*dto.MetricFamily
	for _, name := range slices.Sorted(maps.Keys(families)) {
		help, ok := EnvoyFamilies[name]
		if !ok {
			continue
		}
		f := families[name]
		f.Help = &help
		f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool { return !fewLabels(m) })
		if len(f.Metric) > 0 {
			out = append(out, f)
		}
	}
	return out, nil
}

func fewLabels(m *dto.Metric) bool {
	for _, l := range m.GetLabel() {
		values, ok := envoyLabels[l.GetName()]
		if !ok || values != nil && !slices.Contains(values, l.GetValue()) {
			return false
		}
	}
	return true
}
