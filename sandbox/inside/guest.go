package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/root"
	"github.com/postern/postern/sandbox/inside/terminal"
	"github.com/postern/postern/sandbox/wire"
)

// channelDevice is the machine's end of its channel.
const channelDevice = "/dev/vport0p1"

// hangUp is the time that the last output of a terminal may take after the last process has ended:
// the kernel passes it on in the background.
const hangUp = time.Second

// beGuest makes this program the first process of a virtual machine. If the program ends, the
// machine's kernel stops, and QEMU with it.
func beGuest() int {
	beImmune()
	unix.Umask(0)
	err := errors.Join(
		unix.Mount("dev", "/dev", "devtmpfs", 0, ""), unix.Mount("proc", "/proc", "proc", 0, ""), loadModules())
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", err)
		return 1
	}
	if line, err := os.ReadFile("/proc/cmdline"); err == nil && strings.Contains(string(line), wire.Trial) {
		fmt.Println(wire.Ready)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // which is the end: QEMU is told not to boot again
		return 1
	}
	session, control, err := openChannel()
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: open the machine's channel: %v\n", err)
		return 1
	}
	if err := serveGuest(session, control); err != nil {
		_ = json.NewEncoder(control).Encode(wire.Event{Broken: err.Error()})
	}
	select {} // the host ends the machine, once it has read everything
}

// openChannel opens the machine's end of the channel, and the first stream. The kernel makes the
// device, and connects it, some time after the module was loaded.
func openChannel() (*yamux.Session, *yamux.Stream, error) {
	var device *os.File
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if device == nil {
			device, err = os.OpenFile(channelDevice, os.O_RDWR, 0)
		}
		if err == nil {
			ends := []unix.PollFd{{Fd: int32(device.Fd()), Events: unix.POLLOUT}}
			if _, err = unix.Poll(ends, 0); err == nil && ends[0].Revents&unix.POLLHUP == 0 {
				break
			}
		}
		if time.Since(begin) > time.Minute {
			return nil, nil, errors.Join(err, errors.New("nobody is at its other end"))
		}
	}
	session, err := channel(device, true)
	if err != nil {
		return nil, nil, err
	}
	control, err := session.AcceptStream()
	return session, control, err
}

// loadModules loads the modules of the kernel.
func loadModules() error {
	modules, err := os.ReadDir(wire.Modules)
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, m := range modules {
		f, err := os.Open(filepath.Join(wire.Modules, m.Name()))
		if err != nil {
			return fmt.Errorf("load modules: %w", err)
		}
		flags := 0
		if !strings.HasSuffix(m.Name(), ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", m.Name(), err)
		}
	}
	return nil
}

// serveGuest makes what the command sees, and serves the sandbox in the machine until the command
// ends: in namespaces of its own, as in a container.
func serveGuest(session *yamux.Session, control *yamux.Stream) error {
	decoder := json.NewDecoder(control)
	var setup wire.Setup
	if err := decoder.Decode(&setup); err != nil {
		return fmt.Errorf("read setup: %w", err)
	}
	if err := root.Make(setup.Guest, setup.UID, setup.GID); err != nil {
		return err
	}
	if err := serveNode(session, filepath.Join(setup.Nodes[0], "proxy.sock")); err != nil {
		return err
	}
	if err := root.Enter(setup.Guest); err != nil {
		return err
	}
	unix.Umask(0o022)
	// The kernel of a small machine gives less than the command's own limits.
	for _, limit := range []int{unix.RLIMIT_NPROC, unix.RLIMIT_SIGPENDING} {
		if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
			return fmt.Errorf("raise limits: %w", err)
		}
	}
	streams := guestStreams{session: session}
	if err := streams.connect(&setup); err != nil {
		return fmt.Errorf("connect streams: %w", err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make control connection: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "control")
	null := streams.null.Fd()
	pid, err := nest(0, setup.UID, setup.GID, null, null, 2,
		streams.inner[0].Fd(), streams.inner[1].Fd(), streams.inner[2].Fd(), uintptr(fds[1]))
	unix.Close(fds[1])
	streams.started()
	if err != nil {
		return fmt.Errorf("make user and network namespace in the machine: %w", err)
	}
	go func() { _, _ = reap(pid, 0) }()
	inside := json.NewEncoder(ours)
	setup.Guest = nil
	if err := inside.Encode(setup); err != nil {
		return fmt.Errorf("send setup: %w", err)
	}
	go streams.relaySignals(decoder, inside)
	return streams.report(ours, json.NewEncoder(control))
}

// serveNode listens where the sandbox looks for a node of the fleet: the one outside chooses which
// it is.
func serveNode(session *yamux.Session, path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: root.At + path})
	if err != nil {
		return fmt.Errorf("listen for the proxy's clients: %w", err)
	}
	l.SetUnlinkOnClose(false)
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				time.Sleep(10 * time.Millisecond) // no descriptors are left
				continue
			}
			go func() {
				stream, err := session.OpenStream()
				if err != nil {
					conn.Close()
					return
				}
				bridge(stream, conn)
			}()
		}
	}()
	return nil
}

// guestStreams are the command's streams in the machine.
type guestStreams struct {
	session *yamux.Session
	null    *os.File
	// inner are the command's ends, and ours are this process's.
	inner   [3]*os.File
	ours    []*os.File
	master  *os.File
	outputs sync.WaitGroup
}

func (g *guestStreams) connect(setup *wire.Setup) (err error) {
	if g.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	for i, same := range setup.Streams {
		switch {
		case same < 0:
			g.inner[i] = g.null
			continue
		case same != i:
			g.inner[i] = g.inner[same]
			continue
		}
		stream, err := g.session.AcceptStream()
		if err != nil {
			return err
		}
		if i == setup.Terminal {
			err = g.terminal(i, stream, setup)
		} else {
			err = g.pipe(i, stream, setup.UID, setup.GID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *guestStreams) terminal(i int, stream *yamux.Stream, setup *wire.Setup) error {
	master, slave, err := terminal.Open(setup)
	if err != nil {
		return err
	}
	if err := slave.Chown(setup.UID, setup.GID); err != nil {
		return err
	}
	g.master, g.inner[i] = master, slave
	go func() { _, _ = io.Copy(master, stream) }()
	g.output(master, stream)
	return nil
}

func (g *guestStreams) pipe(i int, stream *yamux.Stream, uid, gid int) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	inner := write
	if i == 0 {
		inner = read
	}
	if err := inner.Chown(uid, gid); err != nil {
		return err
	}
	g.inner[i] = inner
	if i == 0 {
		go func() {
			_, _ = io.Copy(write, stream)
			write.Close()
			_, _ = io.Copy(io.Discard, stream)
		}()
		return nil
	}
	g.output(read, stream)
	go func() {
		_, _ = io.Copy(io.Discard, stream)
		read.Close() // nobody reads outside: the command gets SIGPIPE
	}()
	return nil
}

// output passes on what the command writes.
func (g *guestStreams) output(from *os.File, stream *yamux.Stream) {
	g.ours = append(g.ours, from)
	g.outputs.Go(func() {
		_, err := io.Copy(stream, from)
		if errors.Is(err, os.ErrDeadlineExceeded) { // the command has ended, and somebody has the other end
			terminal.Drain(stream, from)
		}
		_ = stream.Close()
	})
}

// started closes what only the command keeps open.
func (g *guestStreams) started() {
	for _, f := range g.inner {
		if f != g.null {
			f.Close() // more than once for a stream that is the same as another
		}
	}
}

// relaySignals passes on what the host asks for.
func (g *guestStreams) relaySignals(decoder *json.Decoder, inside *json.Encoder) {
	for {
		var s wire.Signal
		if decoder.Decode(&s) != nil {
			return // the host is gone, and ends the machine
		}
		if s.Rows > 0 && g.master != nil {
			_ = pty.Setsize(g.master, &pty.Winsize{Rows: s.Rows, Cols: s.Columns})
			continue
		}
		_ = inside.Encode(s)
	}
}

// report passes on what the sandbox in the machine reports. Before the last, the command's output
// is on its way.
func (g *guestStreams) report(inside io.Reader, events *json.Encoder) error {
	decoder := json.NewDecoder(inside)
	for {
		var e wire.Event
		if err := decoder.Decode(&e); err != nil {
			return fmt.Errorf("run the command: its sandbox in the machine was killed: %w", err)
		}
		if !e.Started {
			for _, f := range g.ours {
				deadline := time.Now()
				if f == g.master {
					deadline = deadline.Add(hangUp)
				}
				_ = f.SetReadDeadline(deadline)
			}
			g.outputs.Wait()
		}
		if err := events.Encode(e); err != nil {
			return fmt.Errorf("report to host: %w", err)
		}
		if !e.Started {
			return nil
		}
	}
}
