package faults

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/tests/fleet"
)

// agentVariable makes the test binary the agent.
const agentVariable = "POSTERN_TEST_AGENT"

// runAgent asks for api.test until the file "stop" is there, and writes down what it gets.
// It keeps its connections, as clients do, unless there is the file "afresh".
func runAgent() int {
	out, err := os.OpenFile("answers", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var wg sync.WaitGroup
	for i := range workers {
		client := &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{
			Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"}),
			TLSClientConfig: &tls.Config{RootCAs: roots},
		}}
		wg.Go(func() {
			for {
				if _, err := os.Stat("stop"); err == nil {
					return
				}
				if _, err := os.Stat("afresh"); err == nil {
					client.CloseIdleConnections()
				}
				said := ""
				// No body that could be sent again: a client that tries again tests nothing.
				resp, err := client.Post("https://api.test/", "text/plain", io.MultiReader())
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					said = fmt.Sprint(resp.StatusCode)
				}
				if err != nil {
					said = fmt.Sprintf("%q", err)
				}
				fmt.Fprintln(out, i, said)
				<-time.After(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return 0
}

// startAgent starts the agent in a sandbox whose gate knows all nodes of the stack.
func startAgent(s *stack) *sandboxed {
	s.t.Helper()
	up := fleet.NewUpstream(s.t, s.home, s.ca, "api.test")
	s.publish(&plan.Plan{Stack: "faults", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"POST"}, Paths: []string{"/**"}, Upstream: up.Pin()},
	}}}})
	inside, err := programs.Build("postern-sandbox", "postern-sandbox", "")
	require.NoError(s.t, err)
	bwrap, err := exec.LookPath("bwrap")
	require.NoError(s.t, err)
	home, err := os.MkdirTemp("", "agent")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, os.RemoveAll(home)) })
	a := &sandboxed{stack: s, dir: filepath.Join(home, "work"), done: make(chan error, 1)}
	require.NoError(s.t, os.Mkdir(a.dir, 0o700))
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(a.dir, "agent"), self, 0o700))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	in := &view.Input{
		Agent: "a", Private: []string{s.home.Root}, Environ: []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}, Env: []string{agentVariable + "=1"},
		CA: s.ca.PEM, Inside: inside, Workspace: view.Workspace{Mode: view.Write},
	}
	for name := range s.programs {
		if name != "control" {
			in.Sockets = append(in.Sockets, s.home.AgentDir(name, "a"))
		}
	}
	in.Workdir, err = view.Look(a.dir, in.Environ, in.Private)
	require.NoError(s.t, err)
	seen, err := view.Make(in)
	require.NoError(s.t, err)
	spec := &sandbox.Spec{View: seen, Command: []string{"./agent"}, Ports: []int{443}, Bubblewrap: bwrap, Stdin: null, Stdout: null, Stderr: null}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer null.Close()
		_, err := sandbox.Run(ctx, spec)
		a.done <- err
	}()
	s.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return a
}
