package dataplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// BenchmarkRequest compares the whole intercepting path (CONNECT, TLS with a
// minted leaf, scoped routes, scrubbing, injection, access log) with an Envoy
// that only terminates TLS and forwards: same binary, same upstream, turn by
// turn in one run. Ratios are ours / raw.
func BenchmarkRequest(b *testing.B) {
	f := fleet.New(b, 1)
	up := f.NewUpstream("bench.test")
	r := fleet.Allow("a", "bench.test", up)
	r.Credential = "key"
	f.MustPublish(&plan.Plan{
		Stack: "bench", Credentials: []plan.Credential{{
			Name: "key", Kind: "header", Header: "x-api-key", Secret: "file://" + f.Secret("key", "s3cr3t"),
		}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{r}}},
	})
	raw := rawEnvoy(b, f, up)
	for _, c := range []int{1, 16} {
		b.Run("connections="+strconv.Itoa(c), func(b *testing.B) {
			ours, theirs := make([]*http.Client, c), make([]*http.Client, c)
			for i := range c {
				ours[i] = f.Client("n1", "a")
				theirs[i] = raw()
			}
			load(b, ours, 50) // connections and certificates
			load(b, theirs, 50)
			var us, them sample
			for b.Loop() {
				them.add(load(b, theirs, 200))
				us.add(load(b, ours, 200))
				up.Seen()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(us.quantile(0.5)/them.quantile(0.5), "x-p50")
			b.ReportMetric(us.quantile(0.99)/them.quantile(0.99), "x-p99")
			b.ReportMetric(us.rate()/them.rate(), "x-throughput")
			b.ReportMetric(us.quantile(0.5)*1e6, "µs-p50")
			b.ReportMetric(us.rate(), "req/s")
		})
	}
}

// BenchmarkConvergence is the time from publishing one more destination until
// both nodes have acknowledged it, in a policy of a given size.
func BenchmarkConvergence(b *testing.B) {
	for _, size := range []int{10, 1000} {
		b.Run("destinations="+strconv.Itoa(size), func(b *testing.B) {
			f := fleet.New(b, 1)
			f.StartNode("n2")
			up := f.NewUpstream("bench.test")
			p := &plan.Plan{Stack: "bench", Agents: []plan.Agent{{Name: "a"}}}
			for i := range size {
				p.Agents[0].Rules = append(p.Agents[0].Rules, fleet.Allow("a", "h"+strconv.Itoa(i)+".test", up))
			}
			f.MustPublish(p)
			var took sample
			for i := 0; b.Loop(); i++ {
				q := &plan.Plan{
					Stack: "bench", Agents: []plan.Agent{{Name: "a", Rules: append(slices.Clone(p.Agents[0].Rules),
						fleet.Allow("a", "new"+strconv.Itoa(i)+".test", up))}},
				}
				start := time.Now()
				f.MustPublish(q)
				took.add([]time.Duration{time.Since(start)}, 0)
				f.MustPublish(p)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.quantile(0.5)*1000, "ms-p50")
			b.ReportMetric(took.quantile(0.99)*1000, "ms-p99")
		})
	}
}

// sample collects how long requests took, in seconds, and how long all of them
// together did.
type sample struct {
	each []float64
	all  time.Duration
}

func (s *sample) add(each []time.Duration, all time.Duration) {
	for _, d := range each {
		s.each = append(s.each, d.Seconds())
	}
	s.all += all
}

func (s *sample) quantile(q float64) float64 {
	slices.Sort(s.each)
	return s.each[min(len(s.each)-1, int(q*float64(len(s.each))))]
}

func (s *sample) rate() float64 { return float64(len(s.each)) / s.all.Seconds() }

// load makes n requests, divided among the clients.
func load(b *testing.B, clients []*http.Client, n int) ([]time.Duration, time.Duration) {
	b.Helper()
	var mu sync.Mutex
	var each []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for _, c := range clients {
		wg.Go(func() {
			for range max(1, n/len(clients)) {
				t := time.Now()
				resp, err := c.Get("https://bench.test/v1/x")
				if err != nil {
					b.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					b.Errorf("status %d, %v", resp.StatusCode, err)
					return
				}
				mu.Lock()
				each = append(each, time.Since(t))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return each, time.Since(start)
}

// rawEnvoy starts an Envoy that terminates TLS on a socket and forwards to up,
// and returns a maker of clients for it.
func rawEnvoy(b *testing.B, f *fleet.Fleet, up *fleet.Upstream) func() *http.Client {
	b.Helper()
	binary := fleet.Envoy(b)
	dir := filepath.Join(f.Home.Root, "raw")
	require.NoError(b, os.MkdirAll(dir, 0o700))
	leaf := f.CA.Issue(b, "bench.test")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	require.NoError(b, err)
	for name, data := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"ca.pem":   []byte(up.CA),
		"envoy.yaml": []byte(strings.ReplaceAll(`
static_resources:
  listeners:
  - name: raw
    address: {pipe: {path: raw.sock}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {alpn_protocols: [h2, http/1.1], tls_certificates: [{certificate_chain: {filename: cert.pem}, private_key: {filename: key.pem}}]}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: raw
          route_config: {virtual_hosts: [{name: x, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: up}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: up
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "UPSTREAM"}}}}]}]}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: bench.test
        common_tls_context: {validation_context: {trusted_ca: {filename: ca.pem}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        auto_config: {http_protocol_options: {}, http2_protocol_options: {}}
`, "UPSTREAM", strings.TrimPrefix(up.Address, "unix:"))),
	} {
		require.NoError(b, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	cmd := exec.Command(binary, "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level",
		"error")
	cmd.Dir = dir
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	socket := filepath.Join(dir, "raw.sock")
	require.Eventually(b, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.CA.PEM)
	return func() *http.Client {
		tr := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
			TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
		}
		b.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
}
