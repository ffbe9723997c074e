package telemetry_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/telemetry"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
)

// collector stands in for an OpenTelemetry collector: it keeps what it is sent.
type collector struct {
	mu    sync.Mutex
	raw   []byte
	spans map[string][]*tracev1.Span
	// services are the names of the processes that sent something.
	services map[string]bool
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	var req collectorv1.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(b, &req) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, b...)
	for _, rs := range req.GetResourceSpans() {
		for _, a := range rs.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.services[a.GetValue().GetStringValue()] = true
			}
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans[s.GetName()] = append(c.spans[s.GetName()], s)
			}
		}
	}
}

// TestOnePublicationIsOneTrace: from the operator's command to every node's
// answer, in two processes, and nothing in it that is secret.
func TestOnePublicationIsOneTrace(t *testing.T) {
	c := &collector{spans: map[string][]*tracev1.Span{}, services: map[string]bool{}}
	server := httptest.NewServer(c)
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)

	control, flushControl, err := telemetry.Tracer(t.Context(), "postern-control")
	require.NoError(t, err)
	f := fleet.New(t, 2)
	f.StopControl()
	f.Configure = func(c *xds.Config) { c.Tracer = control }
	f.StartControl()
	for _, id := range []string{"n1", "n2"} {
		require.Eventually(t, func() bool { return f.Node(id).Connected }, time.Minute, 10*time.Millisecond)
	}
	const canary = "CANARY-of-a-secret"
	up := f.NewUpstream("one.test")
	operator, flushOperator, err := telemetry.Tracer(t.Context(), "postern")
	require.NoError(t, err)
	ctx, span := operator.Start(t.Context(), "publish")
	_, err = f.Operator().Publish(ctx, &plan.Plan{
		Stack:       "test",
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindBearer, Header: "authorization", Secret: "file://" + f.Secret("key", canary)}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.Pin(), Credential: "key",
		}}}},
	})
	require.NoError(t, err)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	span.End()
	flushOperator()
	flushControl()

	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, map[string]bool{"postern": true, "postern-control": true}, c.services)
	trace := c.spans["publish"][0].GetTraceId()
	for _, name := range []string{"sync", "build", "push", "ack"} {
		require.NotEmpty(t, c.spans[name], name)
	}
	require.Equal(t, c.spans["publish"][0].GetSpanId(), c.spans["sync"][0].GetParentSpanId(), "the traceparent header leads from one process to the other")
	nodes := map[string]bool{}
	for _, ack := range c.spans["ack"] {
		require.Equal(t, trace, ack.GetTraceId())
		for _, a := range ack.GetAttributes() {
			if a.GetKey() == "postern.node" {
				nodes[a.GetValue().GetStringValue()] = true
			}
		}
	}
	require.Equal(t, map[string]bool{"n1": true, "n2": true}, nodes)
	require.NotContains(t, string(c.raw), canary)
	require.NotContains(t, strings.ToLower(string(c.raw)), "authorization")
}

// TestNobodyIsTold: without the variable there is no exporter, whatever else is set.
func TestNobodyIsTold(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	tracer, flush, err := telemetry.Tracer(t.Context(), "postern")
	require.NoError(t, err)
	defer flush()
	_, span := tracer.Start(t.Context(), "publish")
	require.False(t, span.IsRecording())
	require.False(t, span.SpanContext().IsValid())
}
