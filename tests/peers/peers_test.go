package peers

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// long is one proxy's turn. They are short and many, so that whatever else the
// machine does meanwhile falls on all of them.
const long = 500 * time.Millisecond

// BenchmarkKeepAlive is requests on connections that stay open.
func BenchmarkKeepAlive(b *testing.B) {
	w := newWorld(b)
	p, _ := w.postern(b, 8)
	ps := []*proxy{p, w.squid(b), w.mitmproxy(b), w.bare(b, true), direct()}
	for _, n := range []int{1, 16} {
		b.Run("connections="+strconv.Itoa(n), func(b *testing.B) {
			rs := turns(b, ps, func(r *result, p *proxy) { w.keepAlive(b, r, p, n, long) })
			report(b, fmt.Sprintf("keep-alive, %d connections", n), ps, rs)
		})
	}
}

// BenchmarkNewConnections is CONNECT, a handshake and one request each time.
func BenchmarkNewConnections(b *testing.B) {
	w := newWorld(b)
	p, _ := w.postern(b, 8)
	ps := []*proxy{p, w.squid(b), w.mitmproxy(b), direct()}
	rs := turns(b, ps, func(r *result, p *proxy) { w.newConnections(b, r, p, 16, long) })
	report(b, "new connections, 16 at a time", ps, rs)
}

// BenchmarkGateway is plain HTTP in, TLS out.
func BenchmarkGateway(b *testing.B) {
	w := newWorld(b)
	_, g := w.postern(b, 8)
	ps := []*proxy{g, w.nginxGateway(b), w.bare(b, false)}
	for _, n := range []int{1, 16} {
		b.Run("connections="+strconv.Itoa(n), func(b *testing.B) {
			rs := turns(b, ps, func(r *result, p *proxy) { w.keepAlive(b, r, p, n, long) })
			report(b, fmt.Sprintf("gateway, %d connections", n), ps, rs)
		})
	}
}

// BenchmarkEvents is a stream of server-sent events.
func BenchmarkEvents(b *testing.B) {
	w := newWorld(b)
	p, _ := w.postern(b, 8)
	straight := direct()
	straight.dial = tcp(eventsAddress + ":443")
	ps := []*proxy{p, w.squid(b), w.mitmproxy(b), straight}
	rs := turns(b, ps, func(r *result, p *proxy) { w.stream(b, r, p) })
	for i, p := range ps {
		r := rs[i]
		b.ReportMetric(ms(r.first, 0.5), "ms-first/"+metric(p))
		b.ReportMetric(ms(r.each, 0.5), "ms-event/"+metric(p))
		table.add("server-sent events, every 5 ms", p.name, []column{
			{name: "first p50 ms", value: ms(r.first, 0.5)},
			{name: "first p99 ms", value: ms(r.first, 0.99)},
			{name: "event p50 ms", value: ms(r.each, 0.5)},
			{name: "event p99 ms", value: ms(r.each, 0.99)},
			{name: "CPU ms/1k events", value: r.perThousand()},
		})
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNewHost is the first connection to a host that nobody has asked for
// yet: a certificate to make, a name to resolve, an upstream to connect to.
func BenchmarkNewHost(b *testing.B) {
	const each = 10
	w := newWorld(b)
	p, _ := w.postern(b, 1000)
	ps := []*proxy{p, w.squid(b), w.mitmproxy(b), direct()}
	for _, p := range ps { // what only the first connection of all has to do
		require.NoError(b, w.once(p, benchHost), p.name)
	}
	first, second := make([]*result, len(ps)), make([]*result, len(ps))
	for i := range ps {
		first[i], second[i] = &result{}, &result{}
	}
	for n := 0; b.Loop(); n++ {
		for k := range each {
			host := newHost((n*each + k) % 1000)
			for i, p := range ps {
				for _, r := range []*result{first[i], second[i]} {
					cpu, start := cpuTime(p.pid), time.Now()
					require.NoError(b, w.once(p, host), p.name)
					r.each = append(r.each, time.Since(start))
					r.used(p, cpu, 1)
				}
			}
		}
	}
	none := ms(first[len(ps)-1].each, 0.5)
	for i, p := range ps {
		table.add("first connection to a new host", p.name, []column{
			{name: "first p50 ms", value: ms(first[i].each, 0.5)},
			{name: "first p99 ms", value: ms(first[i].each, 0.99)},
			{name: "added p50 ms", value: ms(first[i].each, 0.5) - none},
			{name: "second p50 ms", value: ms(second[i].each, 0.5)},
			{name: "CPU ms/1k", value: first[i].perThousand()},
		})
		b.ReportMetric(ms(first[i].each, 0.5)-none, "ms-added/"+metric(p))
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPolicySize is the same requests under a policy of 10 destinations and of
// 1,000, on the same Envoy.
func BenchmarkPolicySize(b *testing.B) {
	w := newWorld(b)
	p, _ := w.postern(b, 8)
	secret := w.fleet.Secret("key", key)
	sizes := []int{10, 1000}
	ps, rs := make([]*proxy, len(sizes)), make([]*result, len(sizes))
	for i, size := range sizes {
		q := *p
		q.name = strconv.Itoa(size) + " destinations"
		ps[i], rs[i] = &q, &result{}
	}
	for b.Loop() {
		for i, size := range sizes {
			w.fleet.MustPublish(newPlan(secret, size-2))
			// What the change itself costs is not part of a request.
			w.keepAlive(b, &result{}, ps[i], 16, long)
			w.keepAlive(b, rs[i], ps[i], 16, long)
		}
	}
	report(b, "size of the policy, 16 connections", ps, rs)
}

// turns lets each proxy have its turn, again and again.
func turns(b *testing.B, ps []*proxy, turn func(*result, *proxy)) []*result {
	b.Helper()
	rs := make([]*result, len(ps))
	for i := range ps {
		rs[i] = &result{}
	}
	for b.Loop() {
		for i, p := range ps {
			turn(rs[i], p)
		}
	}
	return rs
}
