package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"
)

// fleet reaches the agent's proxy on one of the nodes.
type fleet struct {
	// nodes are folders that each hold a proxy.sock while the node lives.
	nodes []string
	// next counts the connections asked for.
	next atomic.Uint64
}

// dial connects to the next node that answers. Nodes take turns; one that is
// down costs nothing but the attempt.
func (f *fleet) dial() (*net.UnixConn, error) {
	first := f.next.Add(1) - 1
	var errs []error
	for i := range uint64(len(f.nodes)) {
		node := f.nodes[(first+i)%uint64(len(f.nodes))]
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: filepath.Join(node, "proxy.sock")})
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("reach a proxy node: %w", errors.Join(errs...))
}

// pipe joins the agent's connection and the proxy's until both directions are
// done. One direction's end is passed on while the other goes on.
func pipe(agent *net.TCPConn, proxy *net.UnixConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(proxy, agent)
		if err != nil {
			// The agent is gone without a goodbye: so is its request.
			proxy.Close()
			return
		}
		_ = proxy.CloseWrite()
	}()
	_, err := io.Copy(agent, proxy)
	if err != nil {
		reset(agent)
	} else {
		_ = agent.CloseWrite()
	}
	<-done
	proxy.Close()
	agent.Close()
}

// reset closes conn so that the peer notices at once.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// answerDown tells an HTTP client that no node of the fleet is up.
func answerDown(agent *net.TCPConn) {
	body, err := json.Marshal(map[string]string{
		"error":  "proxy fleet is down",
		"reason": "fleet_unavailable",
		"hint":   "an operator can look with: postern status",
	})
	if err != nil {
		reset(agent)
		return
	}
	body = append(body, '\n')
	_ = agent.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(agent, "HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s", len(body), body)
	_ = agent.CloseWrite()
	// Closing with the request unread would reset the connection, and the
	// client might lose the answer.
	_, _ = io.Copy(io.Discard, io.LimitReader(agent, 1<<20))
	agent.Close()
}
