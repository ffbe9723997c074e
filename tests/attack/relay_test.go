package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
)

// The relay is the agent's program in a sandbox: this test binary under
// relayVariable. It does, inside, what the test asks for over a Unix socket in the
// working directory, so that an attack is the same code whatever the way in is.
const relayVariable = "POSTERN_ATTACK_RELAY"

const relaySocket = "relay.sock"

// order is what the relay is asked for: one of its fields.
type order struct {
	// Net and Addr are dialled, and joined with the connection.
	Net, Addr string `json:",omitempty"`
	// Sh is a script that is run.
	Sh string `json:",omitempty"`
	// Call is a system call and its arguments.
	Call []uintptr `json:",omitempty"`
}

// outcome is what came of an order.
type outcome struct {
	Error  string `json:",omitempty"`
	Output string `json:",omitempty"`
	Status int    `json:",omitempty"`
}

// networkVariable names one of networks, which the relay's program does then.
const networkVariable = "POSTERN_ATTACK_NETWORK"

// network is the command that does one of networks in the sandbox.
func network(what string) string { return networkVariable + "=" + what + " ./relay" }

// networks are ways to change the network. No program for it has to be there.
var networks = map[string]func() error{
	"loopback": func() error { return onLoopback(netlink.LinkSetUp) },
	"another-route": func() error {
		_, to, _ := net.ParseCIDR("203.0.113.0/24")
		return onLoopback(func(lo netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: to})
		})
	},
	"no-route": func() error {
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return onLoopback(func(lo netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL})
		})
	},
	"no-loopback": func() error { return onLoopback(netlink.LinkSetDown) },
	"another-interface": func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth1"})
	},
	"another-address": func() error {
		return onLoopback(func(lo netlink.Link) error {
			a, err := netlink.ParseAddr("203.0.113.9/32")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(lo, a)
		})
	},
}

func onLoopback(f func(netlink.Link) error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return f(lo)
}

func serveRelay() error {
	l, err := net.Listen("unix", relaySocket)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go obey(conn)
	}
}

func obey(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	line, err := in.ReadBytes('\n')
	var o order
	if err != nil || json.Unmarshal(line, &o) != nil {
		return
	}
	var out outcome
	var to net.Conn
	switch {
	case o.Sh != "":
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", o.Sh)
		b, err := cmd.CombinedOutput()
		out.Output, out.Status = string(b), cmd.ProcessState.ExitCode()
		if _, ok := err.(*exec.ExitError); err != nil && !ok { //nolint:errorlint // exactly this type
			out.Error = err.Error()
		}
	case len(o.Call) > 0:
		args := append(o.Call, 0, 0, 0)
		if _, _, errno := unix.Syscall(args[0], args[1], args[2], args[3]); errno != 0 {
			out.Error = errno.Error()
		}
	default:
		if to, err = net.DialTimeout(o.Net, o.Addr, patience); err != nil {
			out.Error = err.Error()
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return
	}
	if _, err := conn.Write(append(b, '\n')); err != nil || to == nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(to, in)
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	})
	_, err = io.Copy(conn, to)
	// The test must be able to tell a reset from an end.
	if errors.Is(err, syscall.ECONNRESET) {
		_, _ = conn.Write([]byte(resetMark))
	}
	conn.Close()
	to.Close()
	wg.Wait()
}

// resetMark is what the relay adds to a connection that was reset.
const resetMark = "\x00reset\x00"

// sandboxed is a sandbox with a relay in it.
type sandboxed struct {
	dir    string
	done   chan struct{}
	cancel context.CancelFunc
}

// startSandbox starts the agent's sandbox. Close it.
func startSandbox(a *arena, agent string) (*sandboxed, error) {
	dir := filepath.Join(a.homes, "home", agent)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Link(a.self, filepath.Join(dir, "relay")); err != nil {
		return nil, err
	}
	in := &view.Input{
		Agent: agent, Private: []string{a.fleet.Home.Root},
		Environ: []string{"HOME=" + filepath.Join(a.homes, "home"), "PATH=" + os.Getenv("PATH")}, Env: []string{relayVariable + "=1"},
		Sockets: []string{a.fleet.Home.AgentDir("n1", agent)}, CA: a.fleet.CA.PEM, Inside: a.inside,
		Workspace: view.Workspace{Mode: view.Write},
	}
	var err error
	if in.Workdir, err = view.Look(dir, in.Environ, in.Private); err != nil {
		return nil, err
	}
	seen, err := view.Make(in)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &sandboxed{dir: dir, done: make(chan struct{}), cancel: cancel}
	spec := &sandbox.Spec{
		View: seen, Command: []string{"./relay"}, Gateways: a.agentNamed(agent).gateways(), Ports: []int{443, 8443}, Bubblewrap: a.bwrap,
		Stdin: null, Stdout: null, Stderr: null,
	}
	failed := make(chan error, 1)
	go func() {
		defer close(s.done)
		defer null.Close()
		_, err := sandbox.Run(ctx, spec)
		failed <- err
	}()
	// Nothing signals that a socket is there.
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		select {
		case err := <-failed:
			return nil, fmt.Errorf("sandbox of %s: %w", agent, err)
		case <-time.After(10 * time.Millisecond):
		}
		if c, err := net.Dial("unix", filepath.Join(dir, relaySocket)); err == nil {
			c.Close()
			return s, nil
		}
	}
	s.close()
	return nil, fmt.Errorf("sandbox of %s: no relay", agent)
}

func (s *sandboxed) close() {
	s.cancel()
	<-s.done
}

// do has the relay obey, and returns what came of it; the connection is
// joined with what was dialled.
func (s *sandboxed) do(o order) (net.Conn, outcome, error) {
	conn, err := net.Dial("unix", filepath.Join(s.dir, relaySocket))
	if err != nil {
		return nil, outcome{}, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	b, err := json.Marshal(o)
	if err != nil {
		return nil, outcome{}, err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return nil, outcome{}, err
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadBytes('\n')
	if err != nil {
		conn.Close()
		return nil, outcome{}, err
	}
	var out outcome
	err = json.Unmarshal(line, &out)
	return &buffered{Conn: conn, r: in}, out, err
}

// buffered reads first what a reader has taken of a connection.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// CloseWrite ends what is sent, and not what is received.
func (b *buffered) CloseWrite() error { return b.Conn.(*net.UnixConn).CloseWrite() } //nolint:forcetypeassert // see do
