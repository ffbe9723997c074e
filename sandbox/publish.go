package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// Published is a port of the host that leads to a port of the sandbox's loopback.
type Published struct {
	Listener net.Listener
	Port     int
}

// ErrPublish means that no port can be published that is written so.
var ErrPublish = errors.New("write a port, or an address and a port, such as 3000 or 192.0.2.1:3000")

// Publish listens on a port of the host, written [ADDRESS:]PORT, which will lead to the same port
// of the sandbox. Without an address it listens on both addresses of loopback. [Run] closes what is
// listened on. The caller closes it if there is an error, or no run.
func (s *Spec) Publish(written string) error {
	if s.VM != nil {
		return errors.New("--publish: no port leads into a virtual machine: use another runtime")
	}
	hosts, number := []string{"127.0.0.1", "::1"}, written
	if strings.Contains(written, ":") {
		host, port, err := net.SplitHostPort(written)
		if err != nil || net.ParseIP(host) == nil {
			return fmt.Errorf("--publish %q: %w", written, ErrPublish)
		}
		hosts, number = []string{host}, port
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("--publish %q: %w", written, ErrPublish)
	}
	// Whoever reaches these is the agent, with its credentials.
	held := slices.Concat(capturedPorts(s), s.Gateways, []int{wire.ProxyPort, dnsPort})
	if s.Tools {
		held = append(held, wire.ToolsPort)
	}
	if slices.Contains(held, int(port)) {
		return fmt.Errorf("publish port %d: in the sandbox that port is Postern's own, by which the agent gets out: "+
			"let the command listen on another port", port)
	}
	for _, host := range hosts {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, number))
		switch {
		case err == nil:
			s.Published = append(s.Published, Published{Listener: &listener{Listener: l}, Port: int(port)})
		case host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)): // no IPv6 here
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("publish port %d: %w: `ss -ltnp 'sport = :%d'` names the program that has it",
				port, err, port)
		default:
			return fmt.Errorf("publish port %d: %w", port, err)
		}
	}
	return nil
}

// listener also closes the connections that it has accepted, so that whoever closes it cuts them.
type listener struct {
	net.Listener
	mu     sync.Mutex
	closed bool
	open   map[*accepted]struct{}
}

// accepted is a connection of a listener.
type accepted struct {
	*net.TCPConn
	l *listener
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &accepted{conn.(*net.TCPConn), l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.TCPConn.Close()
		return nil, net.ErrClosed
	}
	if l.open == nil {
		l.open = map[*accepted]struct{}{}
	}
	l.open[c] = struct{}{}
	return c, nil
}

func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.open {
		c.TCPConn.Close()
	}
	return l.Listener.Close()
}

func (c *accepted) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.TCPConn.Close()
}

// dnsPort is the sandbox's own resolver's.
const dnsPort = 53

// mostPublished bounds the connections of all published ports at a time: others wait.
const mostPublished = 128

// control is the host's end of the control connection, once the first process has its setup.
type control struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// say sends a signal, with a descriptor if file is not nil.
func (c *control) say(s wire.Signal, file *os.File) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, err = c.conn.WriteMsgUnix(append(text, '\n'), rights, nil)
	return err
}

// publish lets connections to the listeners reach the sandbox, until the listeners are closed. The
// sandbox gets one end of a pair of sockets, never a socket of the host's network.
func (c *control) publish(all []Published) {
	slots := make(chan struct{}, mostPublished)
	for _, p := range all {
		go func() {
			for {
				slots <- struct{}{}
				caller, err := p.Listener.Accept()
				if err != nil { // closed
					<-slots
					return
				}
				go func() {
					defer func() { <-slots }()
					defer caller.Close()
					if ours, err := c.pass(p.Port); err == nil {
						join(caller, ours)
						ours.Close()
					}
				}()
			}
		}()
	}
}

// pass gives the sandbox a connection for a port of its loopback, and returns the other end.
func (c *control) pass(port int) (net.Conn, error) {
	ours, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := c.say(wire.Signal{Port: port}, theirs); err != nil {
		ours.Close()
		return nil, fmt.Errorf("pass connection to sandbox: %w", err)
	}
	return ours, nil
}

// join copies both directions until both have ended. It passes on the end of one direction while
// the other continues.
func join(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyAll(a, b)
	}()
	copyAll(b, a)
	<-done
}

func copyAll(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
