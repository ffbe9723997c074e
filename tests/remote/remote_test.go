package remote

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/tests/fleet"
)

// TestStackOnAWS is a life of the stack: it comes up, is published to, its
// secret rotates, and of each kind of program one dies.
func TestStackOnAWS(t *testing.T) {
	t.Parallel()
	s, control, proxy := newStack(t)

	// Two replicas, that nobody but the store knows of.
	task := control.Container()
	ports := []uint16{fleet.FreePort(t), fleet.FreePort(t)}
	replicas := map[string]*fleet.Program{}
	for i, name := range []string{"c1", "c2"} {
		replicas[name] = s.start(s.path(name), task, map[string]string{fmt.Sprintf("0.0.0.0:%d", document.XDSPort): address(ports[i])}, "--replica", name, "--ca-key", string(control.CAKey))
	}
	s.await("both replicas report", func() bool { return len(s.reports()) == 2 })
	for name := range replicas { // nothing is published, and ECS lets them live
		s.healthy(name, task)
	}

	// Two nodes on one port: the kernel spreads the connections, as a load balancer does.
	nodes := map[string]func() *fleet.Program{}
	readyPorts := map[string]uint16{"n1": fleet.FreePort(t), "n2": fleet.FreePort(t)}
	proxy.Control = "control.test"
	running := map[string]*fleet.Program{}
	for _, name := range []string{"n1", "n2"} {
		nodes[name] = func() *fleet.Program {
			return s.start(s.path(name), proxy.Container(), map[string]string{
				document.ControlAddress("control.test"): address(ports[0]) + "," + address(ports[1]),
				"fargate":                               name, "/usr/local/bin/envoy": fleet.Envoy(t), fmt.Sprintf("0.0.0.0:%d", document.ReadyPort): address(readyPorts[name]),
			})
		}
		running[name] = nodes[name]()
	}
	together := func() int {
		sum := 0
		for _, n := range s.reports() {
			sum += n
		}
		return sum
	}
	s.await("both nodes have joined", func() bool { return together() == 2 })
	for _, port := range readyPorts {
		require.False(t, ready(port), "nothing was published: a load balancer must not send anybody there")
	}

	require.Contains(t, s.postern("push", "--yes"), " live on 2 nodes after ")
	for _, port := range readyPorts {
		s.await("a published node is ready", func() bool { return ready(port) })
	}
	agent := s.agent()
	status, err := get(agent, "/always")
	require.NoError(t, err, s.said())
	require.Equal(t, 200, status)
	key := func() string {
		seen := s.up.Seen()
		require.NotEmpty(t, seen)
		return seen[len(seen)-1].Header.Get("X-Api-Key")
	}
	require.Equal(t, "canary-one", key())
	status, err = get(agent, "/second")
	require.NoError(t, err)
	require.Equal(t, 403, status)

	// From here on the key of the agents' authority is away, and nobody notices.
	s.kmsAway.Store(true)
	s.writeStack("second")
	require.Contains(t, s.postern("push", "--yes"), " live on 2 nodes after ")
	for range 10 { // whichever node it comes to
		status, err = get(agent, "/second")
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}

	// A publication that needs another certificate fails, and nothing else fails with it.
	s.writeStack("third", "other.example")
	_, err = s.try(s.program("postern", "postern", ""), "push", "--yes", "--file", s.file)
	require.ErrorContains(t, err, "cannot be used now: AWS KMS in eu-west-1")
	status, err = get(agent, "/second")
	require.NoError(t, err)
	require.Equal(t, 200, status, "it was taken back")
	shown := s.postern("status", "--verbose")
	require.Regexp(t, `(?m)^\S+ +true +[0-9a-f]{16} `, shown, "nodes")
	require.Regexp(t, `(?m)^\S+ +listeners +[0-9a-f]{16} +[0-9a-f]{16} `, shown, "what they have")
	require.Regexp(t, `(?m)^key +awssecretsmanager +\S+ .* ok$`, shown, "credentials")
	// The command waits for what the replicas report; access ends before.
	s.postern("kill", "--agent", "coder")
	_, err = get(s.agent(), "/always")
	require.ErrorContains(t, err, "Forbidden")
	require.Contains(t, s.postern("status"), "killed: coder")
	s.postern("unkill", "--agent", "coder")
	status, err = get(s.agent(), "/always")
	require.NoError(t, err)
	require.Equal(t, 200, status)

	// The secret rotates, and nobody is told. Who has to find out dies meanwhile.
	_, err = s.secrets.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: aws.String("prod/key"), SecretString: aws.String("canary-two")})
	require.NoError(t, err)

	// A replica that has nodes dies under traffic: its nodes move, no request notices.
	dies := "c1"
	if s.reports()["c1"] == 0 {
		dies = "c2"
	}
	lives := map[string]string{"c1": "c2", "c2": "c1"}[dies]
	stop, failed := make(chan struct{}), make(chan string, 1)
	var asked atomic.Int64
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			client := s.agent()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, err := get(client, "/always"); err != nil || status != 200 {
					select {
					case failed <- fmt.Sprint(status, err):
					default:
					}
				}
				asked.Add(1)
			}
		})
	}
	replicas[dies].Kill()
	s.await("the nodes have moved", func() bool { return s.reports()[lives] == 2 })
	close(stop)
	asking.Wait()
	select {
	case why := <-failed:
		require.FailNow(t, "a request failed", why)
	default:
	}
	require.Positive(t, asked.Load())

	// A node dies, and is back as the same one.
	require.Len(t, s.status().Replicas, 2, "the dead replica is shown")
	running["n1"].Kill()
	s.await("the node is missed", func() bool { return s.reports()[lives] == 1 })
	running["n1"] = nodes["n1"]()
	s.await("the node is back", func() bool { return s.reports()[lives] == 2 && ready(readyPorts["n1"]) })
	status, err = get(agent, "/always")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Regexp(t, `(?m)^`+lives+` +[0-9]+ +[0-9a-f]+ +2/2 `, s.postern("status"))

	s.await("the new value is in use", func() bool {
		status, err := get(agent, "/always")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		return key() == "canary-two"
	})

	// What has happened to the policy is on the replicas' output, which is all
	// that outlives a task.
	for name := range replicas {
		require.Regexp(t, `"node":"control/`+name+`".*"verdict":"change".*"kind":"published"`, s.said())
	}
	require.Regexp(t, `"node":"control/[a-z0-9]+".*"kind":"secret-rotated"`, s.said())

	// What must be nowhere.
	for _, canary := range []string{"canary-one", "canary-two", string(proxy.Token), string(control.FleetCAKey)} {
		require.NotContains(t, s.said(), canary)
	}
}
