// Package telemetry sends traces to an OpenTelemetry collector, if the environment names one. It
// sends nothing to anybody else.
package telemetry

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// flushTimeout bounds how long a process that ends waits for a collector.
const flushTimeout = 2 * time.Second

// Tracer returns a tracer that sends the spans of this process to the collector at
// $OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT), over OTLP/HTTP. If neither is set, the
// spans go nowhere. The other variables of the OpenTelemetry specification also count, such as
// OTEL_SERVICE_NAME (default: service), OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_HEADERS. The
// returned function sends the remaining spans, for at most two seconds.
func Tracer(ctx context.Context, service string) (trace.Tracer, func(), error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return noop.NewTracerProvider().Tracer(service), func() {}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("send traces: %w; correct or unset OTEL_EXPORTER_OTLP_ENDPOINT", err)
	}
	name := resource.Environment()
	if os.Getenv("OTEL_SERVICE_NAME") == "" {
		if name, err = resource.New(ctx, resource.WithFromEnv(), resource.WithAttributes(attribute.String("service.name", service))); err != nil {
			return nil, nil, fmt.Errorf("send traces: %w; correct or unset OTEL_RESOURCE_ATTRIBUTES", err)
		}
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(name))
	return provider.Tracer("github.com/postern/postern"), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		// A collector that is down is nothing that a user of Postern has to know.
		_ = provider.Shutdown(ctx)
	}, nil
}
