package scale_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

// shared has n destinations and the agents, each of which may go to per of them.
func shared(n, agents, per int) *plan.Plan {
	p := &plan.Plan{Stack: "bench"}
	for a := range agents {
		name := fmt.Sprintf("a%03d", a)
		agent := plan.Agent{Name: name}
		for k := range per {
			r := rule(fmt.Sprintf("h%05d", (a*per+k)%n))
			r.ID = name + strings.TrimPrefix(r.ID, "a")
			agent.Rules = append(agent.Rules, r)
		}
		p.Agents = append(p.Agents, agent)
	}
	return p
}

// BenchmarkAgents gives one of 200 agents one destination more, where there are 5,000
// destinations, and says what an Envoy takes.
func BenchmarkAgents(b *testing.B) {
	for _, c := range [][2]int{{200, 1}, {200, 25}, {1, 5000}} {
		agents, per := c[0], c[1]
		b.Run(fmt.Sprintf("agents=%d/each=%d", agents, per), func(b *testing.B) {
			f := fleet.New(b, 1)
			empty := resident(b, f.EnvoyPID("n1"))
			start := time.Now()
			p := shared(5000, agents, per)
			f.MustPublish(p)
			first := time.Since(start)
			var took []float64
			for i := 0; b.Loop(); i++ {
				q := *p
				q.Agents = slices.Clone(p.Agents)
				one := &q.Agents[len(q.Agents)/2]
				r := rule("new" + strconv.Itoa(i))
				r.ID = one.Name + strings.TrimPrefix(r.ID, "a")
				one.Rules = append(slices.Clone(one.Rules), r)
				start := time.Now()
				_, err := f.Publish(&q)
				require.NoError(b, err)
				took = append(took, time.Since(start).Seconds()*1000)
				p = &q
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(took, 0.5), "ms-p50")
			b.ReportMetric(first.Seconds(), "s-first")
			b.ReportMetric(float64(resident(b, f.EnvoyPID("n1"))-empty)/(1<<20), "MB-envoy")
		})
	}
}

// BenchmarkEdit is what `postern allow` does before it publishes: a destination more for
// one of 200 agents, in a stack file of 5,000 destinations.
func BenchmarkEdit(b *testing.B) {
	for _, per := range []int{25, 250} {
		b.Run("each="+strconv.Itoa(per), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("version: 1\ntarget: local\ndestinations:\n")
			for i := range 5000 {
				fmt.Fprintf(&text, "  d%d: {host: h%d.example.com, methods: [GET, POST], paths: [\"/v1/**\"]}\n", i, i)
			}
			text.WriteString("agents:\n")
			for a := range 200 {
				names := make([]string, per)
				for k := range names {
					names[k] = fmt.Sprintf("d%d", (a*per+k)%5000)
				}
				fmt.Fprintf(&text, "  a%d: {allow: [%s]}\n", a, strings.Join(names, ", "))
			}
			path := filepath.Join(b.TempDir(), "local.yaml")
			require.NoError(b, os.WriteFile(path, []byte(text.String()), 0o600))
			defer debug.SetGCPercent(debug.SetGCPercent(800)) // as the command does
			for b.Loop() {
				file, err := stacks.Open(path)
				require.NoError(b, err)
				edit, err := file.Allow(stacks.AllowRequest{Agent: "a7", Hosts: []stacks.HostPort{{Host: "new.example.com", Port: 443}}})
				require.NoError(b, err)
				require.Len(b, edit.Changes(), 1)
			}
		})
	}
}

// resident is the memory of a process, in bytes.
func resident(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(b, err)
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(kb)[0])
			require.NoError(b, err)
			return n << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
