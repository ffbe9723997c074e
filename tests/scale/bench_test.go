package scale_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// policy has n destinations that are found by DNS.
func policy(n int) *plan.Plan {
	a := plan.Agent{Name: "a"}
	for i := range n {
		a.Rules = append(a.Rules, rule(fmt.Sprintf("h%05d", i)))
	}
	return &plan.Plan{Stack: "bench", Agents: []plan.Agent{a}}
}

func rule(name string) plan.Rule {
	return plan.Rule{ID: "a/" + name, Host: name + ".example.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/v1/**"}}
}

func and(p *plan.Plan, r plan.Rule) *plan.Plan {
	q := *p
	q.Agents = slices.Clone(p.Agents)
	q.Agents[0].Rules = append(slices.Clone(p.Agents[0].Rules), r)
	return &q
}

func nodes(from, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = "s" + strconv.Itoa(from+i)
	}
	return ids
}

func addNodes(b *testing.B, f *fleet.Fleet, ids []string) {
	b.Helper()
	for _, id := range ids {
		require.NoError(b, f.API.AddNode(b.Context(), id))
	}
}

// warmUp is how many turns of a publication are not measured.
const warmUp = 10

// BenchmarkPublish adds one destination to a policy, on two Envoys and 100
// simulated nodes, and waits for all acknowledgements.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1000, 10000} {
		b.Run("destinations="+strconv.Itoa(size), func(b *testing.B) {
			f := fleet.New(b, 2)
			p := policy(size)
			for part := 1000; part < size; part += 1000 {
				f.MustPublish(policy(part)) // a node that shares its cores may not take all in time
			}
			f.MustPublish(p)
			ids := nodes(0, 100)
			addNodes(b, f, ids)
			c := startClients(b, f.Home.XDSSocket())
			before := c.do(b, order{Connect: ids})
			var took, synced []float64
			var cpu time.Duration
			var bytes int64
			pid := f.EnvoyPID("n1")
			// The simulated nodes have just taken 2.4 GB in: what collects that
			// shares the processors with the first turns.
			for i := range warmUp {
				f.MustPublish(and(p, rule("warm"+strconv.Itoa(i))))
				f.MustPublish(p)
			}
			for i := 0; b.Loop(); i++ {
				q := and(p, rule("new"+strconv.Itoa(i)))
				before, used, start := c.do(b, order{}), mainThread(b, pid), time.Now()
				v, err := f.Publish(q)
				require.NoError(b, err)
				took = append(took, time.Since(start).Seconds()*1000)
				synced = append(synced, v.Millis)
				require.Equal(b, 102, v.Nodes)
				cpu += mainThread(b, pid) - used
				bytes += c.do(b, order{}).Bytes - before.Bytes
				f.MustPublish(p)
			}
			slices.Sort(took)
			slices.Sort(synced)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(took, 0.5), "ms-p50")
			b.ReportMetric(quantile(took, 0.99), "ms-p99")
			b.ReportMetric(quantile(synced, 0.5), "ms-sync-p50")
			b.ReportMetric(quantile(synced, 0.99), "ms-sync-p99")
			b.ReportMetric(float64(bytes)/float64(len(took))/100, "B/node")
			b.ReportMetric(float64(before.Bytes)/100, "B/node-first")
			b.ReportMetric(cpu.Seconds()*1000/float64(len(took)), "ms-envoy-cpu")
		})
	}
}

// BenchmarkConnect lets 1,000 nodes connect at once to a policy of 1,000 destinations.
func BenchmarkConnect(b *testing.B) {
	f := fleet.New(b, 0)
	f.MustPublish(policy(1000))
	c := startClients(b, f.Home.XDSSocket())
	var took []float64
	for i := 0; b.Loop(); i++ {
		if i >= 3 {
			continue // that is enough, and more would be other nodes yet
		}
		ids := nodes(i*1000, 1000)
		addNodes(b, f, ids)
		start := time.Now()
		c.do(b, order{Connect: ids})
		require.Eventually(b, func() bool { return converged(b, f) == (i+1)*1000 }, time.Minute, time.Millisecond)
		took = append(took, time.Since(start).Seconds())
		if i == 0 {
			b.ReportMetric(status(b, "VmHWM")/1024, "MB-peak")
			runtime.GC()
			b.ReportMetric(status(b, "VmRSS")/1024, "MB")
		}
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(took, 0.5), "s")
}

// BenchmarkRotate changes a secret that 100 nodes have.
func BenchmarkRotate(b *testing.B) {
	f := fleet.New(b, 1)
	p := policy(1000)
	p.Credentials = []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + f.Secret("key", "first")}}
	p.Agents[0].Rules[0].Credential = "key"
	f.MustPublish(p)
	ids := nodes(0, 100)
	addNodes(b, f, ids)
	c := startClients(b, f.Home.XDSSocket())
	c.do(b, order{Connect: ids, Secrets: []string{envoy.SecretName("key")}})
	var took []float64
	for i := 0; b.Loop(); i++ {
		before := c.do(b, order{}).Responses
		start := time.Now()
		f.Secret("key", "value"+strconv.Itoa(i))
		// Each look is a round trip to the other process.
		for c.do(b, order{}).Responses < before+100 {
			runtime.Gosched()
		}
		for acknowledged(b, f, start) < len(ids) {
			runtime.Gosched()
		}
		took = append(took, time.Since(start).Seconds()*1000)
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(took, 0.5), "ms-p50")
	b.ReportMetric(quantile(took, 0.99), "ms-p99")
}

// acknowledged is how many of the simulated nodes have acknowledged anything since.
func acknowledged(b *testing.B, f *fleet.Fleet, since time.Time) int {
	b.Helper()
	s, err := f.API.Status(b.Context())
	require.NoError(b, err)
	n := 0
	for _, node := range s.Nodes {
		if node.ID != "n1" && node.LastAck.After(since) {
			n++
		}
	}
	return n
}

// converged is how many nodes have all of the live version.
func converged(b *testing.B, f *fleet.Fleet) int {
	b.Helper()
	s, err := f.API.Status(b.Context())
	require.NoError(b, err)
	n := 0
	for _, node := range s.Nodes {
		if node.Version == s.Version {
			n++
		}
	}
	return n
}

// quantile is the nearest rank: the p99 of 100 is the second greatest.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// mainThread is the CPU that the process's first thread has used: in Envoy the
// one that takes configuration.
func mainThread(b *testing.B, pid int) time.Duration {
	b.Helper()
	return thread(b, pid, pid)
}

func thread(b *testing.B, pid, task int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(task), "schedstat"))
	require.NoError(b, err)
	ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
	require.NoError(b, err)
	return time.Duration(ns)
}

// status is a line of /proc/self/status, in KiB.
func status(b *testing.B, name string) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			require.NoError(b, err)
			return n
		}
	}
	require.Fail(b, "no "+name)
	return 0
}
