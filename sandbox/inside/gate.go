package inside

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// gate owns every TCP port of the sandbox that leads to the proxy.
type gate struct {
	fleet    *fleet
	names    *names
	gateways []int
	captured []int
	// tools is set if wire.ToolsPort is served.
	tools    bool
	refusals *refusals
	// patience is the time that a captured client has to show what it speaks.
	patience time.Duration
}

// role says how a connection is treated.
type role int

const (
	// roleNone: nothing is served here, close at once.
	roleNone role = iota
	// roleProxy: the bytes go to the proxy as they are.
	roleProxy
	// roleCapture: the client does not know of the proxy.
	roleCapture
	// roleTools: the bytes go to the tools outside as they are.
	roleTools
)

// role decides by the address and port to which the client has connected.
func (g *gate) role(ip net.IP, port int) role {
	if ip.IsLoopback() {
		if port == wire.ProxyPort || slices.Contains(g.gateways, port) {
			return roleProxy
		}
		if g.tools && port == wire.ToolsPort {
			return roleTools
		}
		return roleNone
	}
	if slices.Contains(g.captured, port) {
		return roleCapture
	}
	return roleNone
}

// listen opens all ports and serves them in the background.
func (g *gate) listen() error {
	loopback := append([]int{wire.ProxyPort}, g.gateways...)
	if g.tools {
		loopback = append(loopback, wire.ToolsPort)
	}
	for _, port := range unique(append(slices.Clone(g.captured), loopback...)) {
		if port < 1 || port > 65535 || port == dnsPort {
			return fmt.Errorf("listen on port %d: not a port that can be served", port)
		}
		hosts := []string{""} // every address, IPv4 and IPv6
		if !slices.Contains(g.captured, port) {
			hosts = []string{"127.0.0.1", "::1"}
		}
		for _, host := range hosts {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if host == "::1" && noIPv6(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("listen in sandbox: %w", err)
			}
			go g.accept(l.(*net.TCPListener))
		}
	}
	return nil
}

// accept serves l for as long as the sandbox lives.
func (g *gate) accept(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Most likely no descriptors are left. An agent can cause that, and only the agent
			// suffers: existing connections continue.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go g.serve(conn)
	}
}

func (g *gate) serve(conn *net.TCPConn) {
	to := conn.LocalAddr().(*net.TCPAddr)
	switch g.role(to.IP, to.Port) {
	case roleProxy:
		proxy, err := g.fleet.dial()
		if err != nil {
			answerDown(conn)
			return
		}
		pipe(conn, proxy)
	case roleTools:
		socket := filepath.Join(wire.ToolsDir, wire.ToolsSocket)
		tools, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: socket})
		if err != nil { // they have ended, e.g. because the agent was killed
			reset(conn)
			return
		}
		pipe(conn, &link{UnixConn: tools, node: new(node)})
	case roleCapture:
		g.capture(conn, to)
	case roleNone:
		reset(conn)
	}
}

func unique(ports []int) []int {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// noIPv6 reports whether err says that this kernel has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}
