package xds

import (
	"context"
	"net/http"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern/postern/xds/ledger"
)

// Observability serves what monitoring reads, and nothing that changes
// anything: /metrics (Prometheus), /healthz (the process is alive), /readyz (it
// serves a bundle that it could read and verify). It does not authenticate; it
// tells names of nothing but resource types.
func (c *Control) Observability() http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(c.meter.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if c.bundle() == nil {
			say(w, http.StatusServiceUnavailable, "nothing is served: no publication was found that could be read "+
				"and verified")
			return
		}
		say(w, http.StatusOK, "ok")
	})
	return m
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// observer measures what the ledger records: the time until something was acknowledged. It
// implements the callbacks of go-control-plane's delta server.
type observer struct {
	*ledger.Ledger
	meter  *meter
	tracer trace.Tracer

	mu sync.Mutex
	// span is the span of the roll-out in progress, and began is its start. It is zero if there is
	// none.
	span  trace.SpanContext
	began time.Time
	sent  map[sentKey]sentResponse
}

type sentKey struct {
	stream int64
	nonce  string
}

type sentResponse struct {
	at   time.Time
	kind string
	ack  trace.Span
}

func newObserver(l *ledger.Ledger, m *meter, t trace.Tracer) *observer {
	return &observer{Ledger: l, meter: m, tracer: t, sent: map[sentKey]sentResponse{}}
}

// rolling records that a roll-out begins, in the span of ctx. Call the returned function when it
// ends.
func (o *observer) rolling(ctx context.Context, began time.Time) func() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.span, o.began = trace.SpanContextFromContext(ctx), began
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.span, o.began = trace.SpanContext{}, time.Time{}
	}
}

// OnStreamDeltaResponse implements the delta callbacks.
func (o *observer) OnStreamDeltaResponse(stream int64, req *discoveryv3.DeltaDiscoveryRequest,
	resp *discoveryv3.DeltaDiscoveryResponse,
) {
	o.Ledger.OnStreamDeltaResponse(stream, req, resp)
	now, kind := time.Now(), ledger.KindName(resp.GetTypeUrl())
	o.mu.Lock()
	defer o.mu.Unlock()
	s := sentResponse{at: now, kind: kind}
	if !o.began.IsZero() {
		o.meter.push.WithLabelValues(kind).Observe(now.Sub(o.began).Seconds())
		if o.span.IsValid() {
			s.ack = o.push(req, resp, kind)
		}
	}
	o.sent[sentKey{stream, resp.GetNonce()}] = s
}

// push makes the span of a response, and begins the span of its answer. It records numbers only,
// because resources can be secrets.
func (o *observer) push(req *discoveryv3.DeltaDiscoveryRequest, resp *discoveryv3.DeltaDiscoveryResponse,
	kind string,
) trace.Span {
	ctx := trace.ContextWithSpanContext(context.Background(), o.span)
	what := trace.WithAttributes(
		attribute.String("postern.node", req.GetNode().GetId()), attribute.String("postern.type", kind),
		attribute.String("postern.version", resp.GetSystemVersionInfo()),
		attribute.Int("postern.resources", len(resp.GetResources())),
		attribute.Int("postern.removed", len(resp.GetRemovedResources())),
	)
	ctx, push := o.tracer.Start(ctx, "push", what, trace.WithTimestamp(o.began))
	push.End()
	_, ack := o.tracer.Start(ctx, "ack", what)
	return ack
}

// OnStreamDeltaRequest implements the delta callbacks.
func (o *observer) OnStreamDeltaRequest(stream int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	// Before the ledger: who waits for the answer is woken by it.
	o.answered(sentKey{stream, req.GetResponseNonce()}, req.GetErrorDetail() != nil)
	return o.Ledger.OnStreamDeltaRequest(stream, req)
}

func (o *observer) answered(key sentKey, refused bool) {
	o.mu.Lock()
	s, ok := o.sent[key]
	delete(o.sent, key)
	o.mu.Unlock()
	if !ok {
		return
	}
	o.meter.ack.WithLabelValues(s.kind).Observe(time.Since(s.at).Seconds())
	if refused {
		o.meter.nacks.WithLabelValues(s.kind).Inc()
	}
	if s.ack != nil {
		if refused {
			// Envoy's words are in the log and in `postern status`.
			s.ack.SetStatus(codes.Error, "refused")
		}
		s.ack.End()
	}
}

// OnDeltaStreamClosed implements the delta callbacks.
func (o *observer) OnDeltaStreamClosed(stream int64, node *corev3.Node) {
	o.mu.Lock()
	for key, s := range o.sent {
		if key.stream == stream {
			delete(o.sent, key)
			if s.ack != nil {
				s.ack.SetStatus(codes.Error, "the node is gone")
				s.ack.End()
			}
		}
	}
	o.mu.Unlock()
	o.Ledger.OnDeltaStreamClosed(stream, node)
}
