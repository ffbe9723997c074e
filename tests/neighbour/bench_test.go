package neighbour

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		if err := attack(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// turn is how many requests of the victim are timed at a time, and pause what is
// between two: it works, and does not compete.
const (
	turn  = 400
	pause = time.Millisecond
)

// BenchmarkNeighbour times an agent's requests alone and beside each attack of another
// agent, in turns, and prints ratios of the 99th percentiles: what was wanted is 3.
func BenchmarkNeighbour(b *testing.B) {
	f := fleet.New(b, 1)
	up := f.NewUpstream("api.test", "x.wild.test")
	rules := func(agent string) []plan.Rule {
		rule := func(id, host string) plan.Rule {
			return plan.Rule{
				ID: agent + "/" + id, Host: host, Port: 443, Methods: []string{http.MethodGet}, Paths: []string{"/v1/**"}, Upstream: up.Pin(),
			}
		}
		refused := rule("no", "api.test")
		refused.Deny, refused.Upstream, refused.Methods = true, nil, []string{plan.AnyMethod}
		refused.Paths = []string{"/v1/admin/**", "/v1/*/secret", "/v1/users/*/tokens/**"}
		tunnel := plan.Rule{ID: agent + "/tunnel", Host: "*.tunnel.test", Port: 443, Mode: plan.ModeTunnel}
		return []plan.Rule{rule("api", "api.test"), refused, rule("wild", "*.wild.test"), tunnel}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "victim", Rules: rules("victim")}, {Name: "hostile", Rules: rules("hostile")}}})
	client := f.Client("n1", "victim")
	times := func(n int) []time.Duration {
		took := make([]time.Duration, 0, n)
		for range n {
			start := time.Now()
			resp, err := client.Get("https://api.test/v1/x")
			require.NoError(b, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(b, err)
			resp.Body.Close()
			require.Equal(b, 200, resp.StatusCode)
			took = append(took, time.Since(start))
			time.Sleep(pause) //nolint:forbidigo // what is measured is its pace
			up.Seen()
		}
		slices.Sort(took)
		return took
	}
	times(turn)
	fmt.Println("\n| attack | connections | idle p50 ms | p99 | attacked p50 ms | p99 | p99 attacked / idle |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, name := range attackNames {
		for _, connections := range []int{40, 200} {
			var idle, attacked, ratios []float64
			var idle50, attacked50 []float64
			for range b.N {
				alone := times(turn)
				stop := begin(b, f, order{Attack: name, Connections: connections})
				beside := times(turn)
				stop()
				idle, attacked = append(idle, ms(alone, 99)), append(attacked, ms(beside, 99))
				idle50, attacked50 = append(idle50, ms(alone, 50)), append(attacked50, ms(beside, 50))
				ratios = append(ratios, ms(beside, 99)/ms(alone, 99))
			}
			slices.Sort(ratios)
			fmt.Printf("| %s | %d | %.2f | %.2f | %.2f | %.2f | %.1f (%.1f-%.1f) |\n", name, connections,
				median(idle50), median(idle), median(attacked50), median(attacked), median(ratios), ratios[len(ratios)/6], ratios[len(ratios)-1-len(ratios)/6])
		}
	}
}

func ms(sorted []time.Duration, percent int) float64 {
	return float64(sorted[min(len(sorted)-1, len(sorted)*percent/100)].Microseconds()) / 1000
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

// begin starts an attack in a process of its own, and returns when it has had its
// first answers. The process yields to others, as a sandbox with a share of the
// processors does: what is measured is the node.
func begin(b *testing.B, f *fleet.Fleet, o order) (stop func()) {
	b.Helper()
	ca := filepath.Join(f.Home.Root, "ca.pem")
	require.NoError(b, os.WriteFile(ca, f.CA.PEM, 0o600))
	o.Socket, o.CA = filepath.Join(f.Home.NodeDir("n1"), envoy.AgentSocket("hostile")), ca
	text, err := json.Marshal(o)
	require.NoError(b, err)
	self, err := os.Executable()
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	require.NoError(b, err)
	// The system call's answer is 20 less the nice value.
	require.NoError(b, syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, min(19, 20-own+10)))
	_, err = out.Read(make([]byte, 1))
	require.NoError(b, err, "the attack begins")
	return func() {
		cancel()
		_ = cmd.Wait()
	}
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
