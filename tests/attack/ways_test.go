package attack

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// worldDoor is the address in the world by which the agents' ports are reached,
// as a load balancer would. Who may connect to which is the cloud's to say.
const worldDoor = "192.0.2.80"

// firstPort is the first of the ports of agents that have one.
const firstPort = 21000

// rulesOfAgent is an agent, with what a seat asks of it.
type rulesOfAgent plan.Agent

// agent is the seat's own in the plan.
func (a *arena) agentNamed(name string) rulesOfAgent {
	i := slices.IndexFunc(a.plan.Agents, func(a plan.Agent) bool { return a.Name == name })
	return rulesOfAgent(a.plan.Agents[i])
}

func (s *seat) agent() rulesOfAgent { return s.agentNamed(s.name) }

// gatewayTo is the port of the gateway to a host, or the usual one.
func (a rulesOfAgent) gatewayTo(host string) uint16 {
	for _, r := range a.Rules {
		if r.Host == host && r.Gateway != 0 {
			return r.Gateway
		}
	}
	return 8080
}

// gateways are the ports of all gateways.
func (a rulesOfAgent) gateways() []int {
	ports := []int{8080}
	for _, r := range a.Rules {
		if p := int(r.Gateway); p != 0 && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	return ports
}

// balanced connects to the agent's port, and says nothing yet.
func (s *seat) balanced() net.Conn {
	s.Helper()
	c, err := net.Dial("unix", filepath.Join(s.fleet.Home.Root, worldDial))
	require.NoError(s, err)
	_, err = fmt.Fprintf(c, "%s:%d\n", worldDoor, s.agent().Port)
	require.NoError(s, err)
	return s.keep(c)
}

// proxyHeader is what a load balancer sends before anything of its client:
// version 2 of the PROXY protocol, TCP over IPv4, with whatever follows.
func proxyHeader(more ...byte) []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")
	b = binary.BigEndian.AppendUint16(b, uint16(12+len(more)))
	b = append(b, 10, 0, 3, 4, 10, 0, 9, 9)
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, firstPort)
	return append(b, more...)
}

// balancers is the port that an agent has on AWS.
var balancers = []Case{
	{ID: "X7", What: "the agent's port: no PROXY header, version 1, broken, forged", Ways: []Way{Balancer}, Run: func(s *seat) {
		authority := s.host(api) + ":443"
		connect := request("CONNECT", authority, authority)
		each(s, []string{
			// What an agent could have an HTTP client send, and what is none.
			connect,
			"PROXY TCP4 10.0.3.4 10.0.9.9 40000 21000\r\n" + connect,
			"PROXY UNKNOWN\r\n" + connect,
			string(proxyHeader()[:20]),
			string(proxyHeader()[:12]) + "\x31\x11\x00\x0c" + string(proxyHeader()[16:]) + connect,
			string(proxyHeader()[:12]) + "\x21\x11\x00\x04\x0a\x00\x00\x01" + connect,
			string(proxyHeader()[:12]) + "\x21\xff\x00\x00" + connect,
			"\x16\x03\x01\x02\x00" + connect,
		}, func(raw string) {
			c := s.balanced()
			_, err := io.WriteString(c, raw)
			require.NoError(s, err)
			a := receive(c, "CONNECT")
			require.False(s, a.hung(), "%q hangs", raw)
			require.Zero(s, a.Status, "%q: %s", raw, a)
		})
		// Whoever it is said to come from, it is the port's agent.
		for _, header := range [][]byte{
			proxyHeader(),
			append(proxyHeader()[:12], "\x20\x00\x00\x00"...), // the balancer's own
			proxyHeader(append([]byte{0x02, 0, 13}, bystander+".test"[:4]...)...),
			proxyHeader(append([]byte{0xea, 0, 23, 1}, "vpce-0123456789abcdef0"...)...),
			append(append(proxyHeader()[:16], 127, 0, 0, 1, 169, 254, 169, 254), proxyHeader()[24:]...),
		} {
			c := s.balanced()
			_, err := c.Write(header)
			require.NoError(s, err)
			other := api + bystander + ".test:443"
			a := exchange(c, "CONNECT", request("CONNECT", other, other, "X-Postern-Agent: "+bystander))
			require.Equal(s, 403, a.Status, "%q: %s", header, a)
			require.Contains(s, a.Body, `"`+s.name+`"`)
			s.deny(plan.ReasonHost)
		}
		// A second header is part of the request.
		c := s.balanced()
		_, err := c.Write(append(proxyHeader(), proxyHeader()...))
		require.NoError(s, err)
		a := exchange(c, "CONNECT", connect)
		require.True(s, a.refused() && !a.hung(), "%s", a)
		s.deny(plan.ReasonMalformed)
		s.works()
	}},
}
