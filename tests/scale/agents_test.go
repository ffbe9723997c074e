package scale_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/edit"
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

// inParts publishes a plan, some agents at a time: a node that shares its cores may not
// take all in time.
func inParts(f *fleet.Fleet, p *plan.Plan) {
	for n := 20; n < len(p.Agents); n += 20 {
		part := *p
		part.Agents = p.Agents[:n]
		f.MustPublish(&part)
	}
	f.MustPublish(p)
}

// BenchmarkAgents gives one of 200 agents one destination more, where there are 5,000
// destinations, and says what an Envoy takes.
func BenchmarkAgents(b *testing.B) {
	for _, c := range [][2]int{{200, 1}, {200, 25}, {200, 120}, {1, 5000}} {
		agents, per := c[0], c[1]
		b.Run(fmt.Sprintf("agents=%d/each=%d", agents, per), func(b *testing.B) {
			f := fleet.New(b, 1)
			pid := f.EnvoyPID("n1")
			empty := resident(b, pid)
			start, control, proxy := time.Now(), own(b), used(b, pid)
			p := shared(5000, agents, per)
			inParts(f, p)
			first := time.Since(start)
			control, proxy = own(b)-control, used(b, pid)-proxy
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
			b.ReportMetric(control.Seconds(), "s-cpu-first-control")
			b.ReportMetric(proxy.Seconds(), "s-cpu-first-envoy")
			b.ReportMetric(float64(resident(b, pid)-empty)/(1<<20), "MB-envoy")
		})
	}
}

// BenchmarkOneHost changes the rules of one of 200 agents for a host that each of them has rules
// of its own for: what agents have in common there is nothing but the scope.
func BenchmarkOneHost(b *testing.B) {
	f := fleet.New(b, 1)
	p := &plan.Plan{Stack: "bench"}
	for a := range 200 {
		r := rule("one")
		r.ID, r.Paths = fmt.Sprintf("a%03d/one", a), []string{fmt.Sprintf("/v%d/**", a)}
		p.Agents = append(p.Agents, plan.Agent{Name: plan.AgentOf(r.ID), Rules: []plan.Rule{r}})
	}
	inParts(f, p)
	var took []float64
	for i := 0; b.Loop(); i++ {
		q := *p
		q.Agents = slices.Clone(p.Agents)
		one := &q.Agents[len(q.Agents)/2]
		one.Rules = slices.Clone(one.Rules)
		one.Rules[0].Paths = append(slices.Clone(one.Rules[0].Paths), "/x"+strconv.Itoa(i))
		start := time.Now()
		f.MustPublish(&q)
		took = append(took, time.Since(start).Seconds()*1000)
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(took, 0.5), "ms-p50")
}

// stackFile writes a stack file of n destinations and the agents, each of which may go to per of them.
func stackFile(b testing.TB, n, agents, per int) string {
	b.Helper()
	var text strings.Builder
	text.WriteString("version: 1\ntarget: local\ndestinations:\n")
	for i := range n {
		fmt.Fprintf(&text, "  d%d: {host: h%d.example.com, methods: [GET, POST], paths: [\"/v1/**\"]}\n", i, i)
	}
	text.WriteString("agents:\n")
	for a := range agents {
		names := make([]string, per)
		for k := range names {
			names[k] = fmt.Sprintf("d%d", (a*per+k)%n)
		}
		fmt.Fprintf(&text, "  a%03d: {allow: [%s]}\n", a, strings.Join(names, ", "))
	}
	path := filepath.Join(b.TempDir(), "local.yaml")
	require.NoError(b, os.WriteFile(path, []byte(text.String()), 0o600))
	return path
}

// fleetFolder is a folder for state folders.
func fleetFolder(b testing.TB) string {
	b.Helper()
	folder, err := os.MkdirTemp("", "scale") // a socket's path is short
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(folder)) })
	return folder
}

// BenchmarkEdit is what `postern allow` does before it publishes: a destination more for
// one of 200 agents, in a stack file of 5,000 destinations.
func BenchmarkEdit(b *testing.B) {
	for _, per := range []int{25, 250} {
		b.Run("each="+strconv.Itoa(per), func(b *testing.B) {
			path := stackFile(b, 5000, 200, per)
			defer debug.SetGCPercent(debug.SetGCPercent(800)) // as the command does
			for b.Loop() {
				file, err := stacks.Open(path)
				require.NoError(b, err)
				edited, err := edit.Allow(file, edit.AllowRequest{Agent: "a007", Hosts: []stacks.HostPort{{Host: "new.example.com", Port: 443}}})
				require.NoError(b, err)
				require.Len(b, edited.Changes(), 1)
			}
		})
	}
}

// BenchmarkAllow runs `postern allow` for one of the agents: the program itself, from its
// start to its end, with a control plane and an Envoy. The control plane's CPU is that of this
// process, which does nothing else meanwhile.
func BenchmarkAllow(b *testing.B) {
	var programs fleet.Programs
	defer programs.Remove()
	postern, err := programs.Build("postern", "postern", "")
	require.NoError(b, err)
	for _, c := range [][3]int{{10, 1, 10}, {5000, 200, 25}, {5000, 200, 120}} {
		n, agents, per := c[0], c[1], c[2]
		b.Run(fmt.Sprintf("destinations=%d/agents=%d/each=%d", n, agents, per), func(b *testing.B) {
			b.Setenv("POSTERN_HOME", fleetFolder(b))
			path := stackFile(b, n, agents, per)
			file, err := stacks.Open(path)
			require.NoError(b, err)
			home, err := home.Claim(file.Owner())
			require.NoError(b, err)
			stack, err := file.Load()
			require.NoError(b, err)
			f := fleet.NewIn(b, home, 1)
			inParts(f, stack.Plan)
			var took []float64
			var cpu, control, proxy time.Duration
			pid := f.EnvoyPID("n1")
			for i := 0; b.Loop(); i++ {
				mine, envoys := own(b), used(b, pid)
				cmd := exec.CommandContext(b.Context(), postern, "allow", fmt.Sprintf("new%d.example.com", i), "--agent", "a000", "--file", path, "--yes")
				start := time.Now()
				out, err := cmd.CombinedOutput()
				took = append(took, time.Since(start).Seconds()*1000)
				require.NoError(b, err, "%s", out)
				require.Contains(b, string(out), " live on 1/1 nodes")
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				control, proxy = control+own(b)-mine, proxy+used(b, pid)-envoys
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(took, 0.5), "ms-p50")
			b.ReportMetric(took[len(took)-1], "ms-max")
			b.ReportMetric(cpu.Seconds()*1000/float64(len(took)), "ms-cpu")
			b.ReportMetric(control.Seconds()*1000/float64(len(took)), "ms-cpu-control")
			b.ReportMetric(proxy.Seconds()*1000/float64(len(took)), "ms-cpu-envoy")
		})
	}
}

// used is the CPU that a process has used, all of its threads.
func used(b *testing.B, pid int) time.Duration {
	b.Helper()
	var sum time.Duration
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	require.NoError(b, err)
	for _, task := range tasks {
		n, err := strconv.Atoi(filepath.Base(task))
		require.NoError(b, err)
		sum += thread(b, pid, n)
	}
	return sum
}

// own is the CPU that this process has used.
func own(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// resident is the memory of a process, in bytes.
func resident(b testing.TB, pid int) int {
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
