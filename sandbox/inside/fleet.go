package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// fleet reaches the agent's proxy on one of the nodes.
type fleet struct {
	nodes []*node
	// next counts the requested connections.
	next atomic.Uint64
}

// reach makes f the fleet of the nodes whose folders are given. Each folder holds a
// proxy.sock while its node lives.
func (f *fleet) reach(folders []string) {
	for _, folder := range folders {
		f.nodes = append(f.nodes, &node{socket: filepath.Join(folder, "proxy.sock"), lease: folder + wire.Lease, links: map[*link]bool{}})
	}
}

// dial connects to the next node that answers. Nodes take turns. A node that is down costs only the
// attempt, and a node that hangs costs the first caller probeTime. If no node answers in time, all
// of them may just be slow: then dial takes any node that accepts a connection.
func (f *fleet) dial() (*link, error) {
	first := f.next.Add(1) - 1
	var errs []error
	for _, must := range []bool{true, false} {
		for i := range uint64(len(f.nodes)) {
			n := f.nodes[(first+i)%uint64(len(f.nodes))]
			if must && len(f.nodes) > 1 && !n.answers() {
				errs = append(errs, fmt.Errorf("%s does not answer", n.socket))
				continue
			}
			l, err := n.dial()
			if err == nil {
				n.watch(f)
				return l, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, fmt.Errorf("reach a proxy node: %w", errors.Join(errs...))
}

const (
	// probeTime is the time that a living node may take to answer a probe.
	probeTime = 300 * time.Millisecond
	// probeFresh is the time for which the result of a probe is believed.
	probeFresh = 250 * time.Millisecond
	// watchEvery is the interval at which nodes with connections are probed.
	watchEvery = time.Second
	// hungAfter is the number of unanswered probes in a row after which a node's connections are
	// cut off, if another node answers.
	hungAfter = 3
)

// node is one node of the fleet. The kernel takes connections for a process that hangs, so only an
// answer shows that the process is alive. An Envoy whose supervisor hangs still answers, but
// refuses every request; the node's lease shows that.
type node struct {
	socket, lease string
	// probing is held by whoever probes.
	probing sync.Mutex

	mu sync.Mutex
	// probed is the time of the last probe. silent is the number of probes in a row that the node
	// has not answered.
	probed time.Time
	silent int
	// links are the connections to the node. It is watched while it has some.
	links   map[*link]bool
	watched bool
}

// link is a connection to a node.
type link struct {
	*net.UnixConn
	node *node
}

// end closes the connection.
func (l *link) end() {
	l.node.mu.Lock()
	delete(l.node.links, l)
	l.node.mu.Unlock()
	l.UnixConn.Close()
}

func (n *node) connect() (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: n.socket})
}

func (n *node) dial() (*link, error) {
	conn, err := n.connect()
	if err != nil {
		return nil, err
	}
	l := &link{UnixConn: conn, node: n}
	n.mu.Lock()
	n.links[l] = true
	n.mu.Unlock()
	return l, nil
}

// answers reports whether the node answers. If the node answered before, the caller waits for a
// probe. If the node did not, the probe runs in the background, and the caller does not wait.
func (n *node) answers() bool {
	if ended(n.lease) {
		return false
	}
	n.mu.Lock()
	fresh, silent := time.Since(n.probed) < probeFresh, n.silent
	n.mu.Unlock()
	switch {
	case fresh:
	case silent > 0:
		if n.probing.TryLock() {
			go func() {
				defer n.probing.Unlock()
				n.probe()
			}()
		}
	default:
		n.probing.Lock()
		defer n.probing.Unlock()
		n.mu.Lock()
		fresh, silent = time.Since(n.probed) < probeFresh, n.silent
		n.mu.Unlock()
		if !fresh {
			silent = n.probe()
		}
	}
	return silent == 0
}

// probe asks the node for an answer, and returns the number of unanswered probes in a row. It hangs
// up without sending a byte, and a living node hangs up too. Nobody logs that as a request.
func (n *node) probe() int {
	err := func() error {
		conn, err := n.connect()
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := errors.Join(conn.SetDeadline(time.Now().Add(probeTime)), conn.CloseWrite()); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.probed = time.Now()
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		n.silent = 0
	} else {
		n.silent++
	}
	return n.silent
}

// ended reports whether the lease in the file has ended. The file begins with the end, in
// nanoseconds of CLOCK_MONOTONIC. A lease that cannot be read has not ended.
func ended(path string) bool {
	lease, err := os.ReadFile(path)
	if err != nil || len(lease) < 8 {
		return false
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return false
	}
	return binary.NativeEndian.Uint64(lease) <= uint64(now.Nano())
}

// watch probes the node while it has connections. If the node hangs and another one answers, watch
// cuts the connections off.
func (n *node) watch(f *fleet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watched || len(f.nodes) < 2 {
		return
	}
	n.watched = true
	go func() {
		for {
			time.Sleep(watchEvery)
			n.mu.Lock()
			if len(n.links) == 0 {
				n.watched = false
				n.mu.Unlock()
				return
			}
			n.mu.Unlock()
			n.probing.Lock()
			silent := n.probe()
			n.probing.Unlock()
			other := slices.ContainsFunc(f.nodes, func(o *node) bool { return o != n && o.answers() })
			if (silent >= hungAfter || ended(n.lease)) && other {
				n.cut()
			}
		}
	}()
}

// cut ends all connections to the node.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		l.UnixConn.Close()
	}
}

// pipe joins the agent's connection and the proxy's until both directions are done. It passes on
// the end of one direction while the other continues.
func pipe(agent *net.TCPConn, l *link) {
	proxy := l.UnixConn // of this type the kernel moves the bytes
	defer l.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(proxy, agent)
		if err != nil {
			// The agent has broken the connection, so its request ends too.
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
	agent.Close()
}

// reset closes conn so that the peer notices at once.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// downAnswer tells an HTTP client that no node of the fleet is up.
func downAnswer() []byte {
	const body = `{"error":"proxy fleet is down","hint":"an operator can look with: postern status",` +
		`"reason":"fleet_unavailable"}` + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"+
		"connection: close\r\n\r\n%s", len(body), body)
}

// answerDown sends the client downAnswer.
func answerDown(agent *net.TCPConn) {
	_ = agent.SetDeadline(time.Now().Add(time.Second))
	_, _ = agent.Write(downAnswer())
	_ = agent.CloseWrite()
	// Closing with the request unread would reset the connection, and the
	// client might lose the answer.
	_, _ = io.Copy(io.Discard, io.LimitReader(agent, 1<<20))
	agent.Close()
}
