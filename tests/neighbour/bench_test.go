package neighbour

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

func TestMain(m *testing.M) {
	if order := os.Getenv(orderVariable); order != "" {
		if err := obey(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// BenchmarkNeighbour times an agent's requests alone and beside each attack of another
// agent, in turns, and prints ratios of the 99th percentiles: what was wanted is 3. In a
// third turn the attack is on another node of the same machine: what the victim then
// waits for is the machine, not the node.
//
// Victim and attacker are processes with an upstream of their own. In this one there are
// the control plane and the nodes' supervisors, whose threads the victim would wait for.
func BenchmarkNeighbour(b *testing.B) {
	f := fleet.New(b, 2)
	rules := func(agent string) plan.Agent {
		rule := func(id, host string) plan.Rule {
			return plan.Rule{
				ID: agent + "/" + id, Host: host, Port: 443, Methods: []string{http.MethodGet}, Paths: []string{"/v1/**"},
				Upstream: &plan.Upstream{Address: "unix:" + upstreamSocket(f, agent), CA: string(f.UpstreamCA.PEM)},
			}
		}
		refused := rule("no", "api.test")
		refused.Deny, refused.Upstream, refused.Methods = true, nil, []string{plan.AnyMethod}
		refused.Paths = []string{"/v1/admin/**", "/v1/*/secret", "/v1/users/*/tokens/**"}
		tunnel := plan.Rule{ID: agent + "/tunnel", Host: "*.tunnel.test", Port: 443, Mode: plan.ModeTunnel}
		return plan.Agent{Name: agent, Rules: []plan.Rule{rule("api", "api.test"), refused, rule("wild", "*.wild.test"), tunnel}}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{rules("victim"), rules("hostile")}})
	writeUpstreamKey(b, f)
	victim := begin(b, f, order{Agent: "victim", Node: "n1"})
	defer victim.stop()
	victim.turn(b)
	table := []string{
		"| attack | connections | alone p50, p99 ms | attacked p50, p99 ms | ratio of the p99 | p99 with the attack elsewhere | Envoy's processors |",
		"|---|---|---|---|---|---|---|",
	}
	for _, name := range attackNames {
		for _, connections := range []int{40, 200} {
			b.Run(fmt.Sprintf("%s/%d", name, connections), func(b *testing.B) {
				var alone50, alone99, beside50, beside99, elsewhere99, ratios, used []float64
				beside := func(node string) []time.Duration {
					hostile := begin(b, f, order{Agent: "hostile", Node: node, Attack: name, Connections: connections})
					defer hostile.stop()
					return victim.turn(b)
				}
				for b.Loop() {
					alone := victim.turn(b)
					leave := shareNode(b, f, "n2")
					elsewhere := beside("n2")
					leave()
					before, start := processorTime(b, f.EnvoyPID("n1")), time.Now()
					attacked := beside("n1")
					used = append(used, float64(processorTime(b, f.EnvoyPID("n1"))-before)/float64(time.Since(start)))
					alone50, alone99 = append(alone50, ms(alone, 50)), append(alone99, ms(alone, 99))
					beside50, beside99 = append(beside50, ms(attacked, 50)), append(beside99, ms(attacked, 99))
					elsewhere99 = append(elsewhere99, ms(elsewhere, 99))
					ratios = append(ratios, ms(attacked, 99)/ms(alone, 99))
				}
				slices.Sort(ratios)
				table = append(table, fmt.Sprintf("| %s | %d | %.2f, %.2f | %.2f, %.2f | %.1f (%.1f-%.1f) | %.2f | %.2f |", name, connections,
					median(alone50), median(alone99), median(beside50), median(beside99),
					median(ratios), ratios[len(ratios)/6], ratios[len(ratios)-1-len(ratios)/6], median(elsewhere99), median(used)))
			})
		}
	}
	fmt.Println("\n" + strings.Join(table, "\n"))
	fmt.Printf("%d of %d requests are left out: the machine's host had taken a processor away.\n", victim.left, victim.asked)
}

// shareNode has the victim use another node, too, a little: an agent that is alone there
// would have all of it.
func shareNode(b *testing.B, f *fleet.Fleet, node string) (leave func()) {
	b.Helper()
	client := f.Client(node, "victim") // one: as many connections as turns would be too many
	status, err := fleet.Get(b.Context(), client, "https://api.test/v1/x")
	require.NoError(b, err)
	require.Equal(b, 200, status)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(200 * time.Millisecond); ctx.Err() == nil; {
			select {
			case <-tick.C:
				_, _ = fleet.Get(ctx, client, "https://api.test/v1/x")
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		client.CloseIdleConnections()
	}
}

// processorTime returns how much of the processors a process has used.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(b, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func ms(sorted []time.Duration, percent int) float64 {
	return float64(sorted[min(len(sorted)-1, len(sorted)*percent/100)].Microseconds()) / 1000
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

func upstreamSocket(f *fleet.Fleet, agent string) string {
	return filepath.Join(f.Home.Root, agent+"-upstream.sock")
}

func upstreamKey(f *fleet.Fleet) string { return filepath.Join(f.Home.Root, "upstream.pem") }

// writeUpstreamKey writes what the agents' processes serve their upstreams with.
func writeUpstreamKey(b *testing.B, f *fleet.Fleet) {
	b.Helper()
	issued := f.UpstreamCA.Issue(b, "api.test", "x.wild.test")
	key, err := x509.MarshalPKCS8PrivateKey(issued.PrivateKey)
	require.NoError(b, err)
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	require.NoError(b, os.WriteFile(upstreamKey(f), both, 0o600))
}

// process is an agent with its upstream.
type process struct {
	stop func()
	in   io.Writer
	out  *json.Decoder
	// asked and left count requests, and those that are left out because a processor was taken away.
	asked, left int
}

// begin starts an agent in a process of its own, and returns when it has begun. A hostile
// one yields to others, as a sandbox with a share of the processors does: what is
// measured is the node.
func begin(b *testing.B, f *fleet.Fleet, o order) *process {
	b.Helper()
	ca := filepath.Join(f.Home.Root, "ca.pem")
	require.NoError(b, os.WriteFile(ca, f.CA.PEM, 0o600))
	o.Socket, o.CA = filepath.Join(f.Home.NodeDir(o.Node), envoy.AgentSocket(o.Agent)), ca
	o.Upstream, o.UpstreamKey = upstreamSocket(f, o.Agent), upstreamKey(f)
	text, err := json.Marshal(o)
	require.NoError(b, err)
	self, err := os.Executable()
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	if o.Attack != "" {
		own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		require.NoError(b, err)
		// The system call's answer is 20 less the nice value.
		require.NoError(b, syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, min(19, 20-own+10)))
	}
	p := &process{in: in, out: json.NewDecoder(out), stop: func() {
		cancel()
		_ = cmd.Wait()
	}}
	require.NoError(b, p.out.Decode(new(bool)), "the %s agent begins", o.Agent)
	return p
}

// turn has the victim make its requests, and returns how long each took.
func (p *process) turn(b *testing.B) (took []time.Duration) {
	b.Helper()
	stolen := watchProcessors(b)
	_, err := io.WriteString(p.in, "\n")
	require.NoError(b, err)
	var requests []span
	require.NoError(b, p.out.Decode(&requests), "the victim is answered")
	gaps := stolen()
	for _, r := range requests {
		if !slices.ContainsFunc(gaps, r.overlaps) {
			took = append(took, r.End-r.Start)
		}
	}
	p.asked, p.left = p.asked+len(requests), p.left+len(requests)-len(took)
	require.Greater(b, len(took), turn/2, "the machine's host takes the processors away too often")
	slices.Sort(took)
	return took
}

// roots are the certificate authorities in a file.
func roots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool, nil
}
