// Package sandbox runs an agent's command so that the agent's own proxy socket is the only way out:
// under bubblewrap, in a container, or in a virtual machine.
//
// [Run] is the host's side: it starts bwrap with a view that package view has made, bounds what the
// sandbox uses, and connects its streams and signals. Package inside is the other side, which runs
// in the sandbox before the command does. Package wire is the protocol between the two.
//
// Run works for an ordinary user and for root. If root calls it, the sandbox is a user of its own
// on the host. Where a machine or a file system cannot do that, the command is root without
// capabilities, the owner of root's files. So nothing that is mounted may be writable but the
// agent's own folders: the working directory and a home that it keeps.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/counters"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/vm"
	"github.com/postern/postern/sandbox/wire"
)

// Spec is one command to run in a sandbox.
type Spec struct {
	// View describes what the command sees, and its limits.
	View *view.View
	// Command and its arguments.
	Command []string
	// Files are what the command finds in its home, unless there are such files.
	Files []wire.File
	// Gateways are the loopback ports that reach the proxy over plain HTTP.
	Gateways []int
	// Tools means that wire.ToolsPort leads to the tools, whose socket the View shows.
	Tools bool
	// Ports are captured whatever address they are at, in addition to 80 and 443.
	Ports []int
	// Published are ports of the host that lead into the sandbox. Run closes their listeners.
	Published []Published `json:"-"`
	// Bubblewrap is the absolute path of bwrap, which runs outside the sandbox with
	// the caller's rights: the caller has found it where no agent writes.
	Bubblewrap string
	// Container, if set, makes the sandbox a container instead.
	Container *container.Options
	// VM, if set, starts the command in a virtual machine, in a sandbox of bubblewrap.
	VM *vm.Options
	// Begin, if set, is called when the sandbox is there, and before the command starts. If it
	// returns an error, no command starts.
	Begin func() error `json:"-"`
	// End, if set, is called when nothing of the sandbox is left.
	End func() `json:"-"`
	// Log, if set, is told what the sandbox is made of: names, never values.
	Log *slog.Logger `json:"-"`
	// The caller's streams; nil is /dev/null. The command gets none of them, but
	// terminals and pipes of its own that are connected to them.
	Stdin, Stdout, Stderr *os.File `json:"-"`
}

func (s *Spec) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// RefusedError says why the command, not the sandbox, could not be started.
type RefusedError struct {
	Message string
	// Status is the exit status that a shell would have: 126 or 127.
	Status int
}

func (e *RefusedError) Error() string { return e.Message }

// Result says how a command ended.
type Result struct {
	// Status is its exit status, 128+n if signal n ended it.
	Status int
	// Connections is the number of connections to the proxy that the command asked for.
	Connections uint64
}

// isolation is the technology of one sandbox.
type isolation interface {
	// start starts the sandbox's first process, which gets the command's streams, and returns the
	// connection to it.
	start(ctx context.Context, s *Spec, st *streams) (*net.UnixConn, error)
	// started is called once the command runs.
	started() error
	// wait waits until nothing of the sandbox is left. It returns what our own programs in it
	// complained of. At the end of ctx nothing in the sandbox can make it wait longer.
	wait(ctx context.Context) (complaint string, err error)
	// explain makes an error of what is known if the sandbox ended before its first process said
	// anything.
	explain(complaint string, err error) error
	// end ends what is left, whatever happened.
	end() error
}

// isolation returns what the Spec asks for.
func (s *Spec) isolation() (isolation, error) {
	switch {
	case s.Container != nil && s.Bubblewrap == "" && s.VM == nil:
		return &inContainer{options: s.Container}, nil
	case s.Container == nil && filepath.IsAbs(s.Bubblewrap):
		return new(inBubblewrap), nil
	case s.Container == nil:
		return nil, fmt.Errorf("run sandbox: %q is not the absolute path of bwrap", s.Bubblewrap)
	}
	return nil, errors.New("run sandbox: it has two runtimes")
}

// around returns what is started outside of the virtual machine, and the machine, if there is one.
func (s *Spec) around() (*Spec, *wire.Machine, error) {
	if s.VM == nil {
		return s, nil, nil
	}
	v, machine, err := vm.Render(s.View, s.VM)
	if err != nil {
		return nil, nil, err
	}
	around := *s
	around.View = v
	return &around, machine, nil
}

// endGrace is the time that a command has to end by itself once its terminal is gone, which nobody
// sees any more, or once it was asked for the second time. Then it is ended.
const endGrace = 5 * time.Second

var (
	errHungUp = fmt.Errorf("the terminal is gone, and the command did not end within %s of SIGHUP (nohup keeps it)",
		endGrace)
	errAsked = fmt.Errorf("the command was asked twice, and did not end within %s", endGrace)
)

// asked is when somebody asked a command to end, by the signal.
type asked map[os.Signal]time.Time

// again reports whether the signal, which has come now, asks the command to end for the second
// time. Two SIGINT do if they come within twice endGrace: each may interrupt what the command does.
func (a asked) again(sig os.Signal) bool {
	before, twice := a[sig]
	a[sig] = time.Now()
	return twice && (sig == unix.SIGTERM || sig == unix.SIGINT && time.Since(before) < 2*endGrace)
}

// Run runs the command of s and returns how it ended. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and
// SIGUSR2 that this process receives in the meantime are passed to the command. When Run returns,
// for whatever reason, nothing of the sandbox is left.
func Run(ctx context.Context, s *Spec) (result Result, err error) {
	defer func() {
		for _, p := range s.Published {
			p.Listener.Close()
		}
		if s.End != nil {
			s.End()
		}
	}()
	box, err := s.isolation()
	if err != nil {
		return Result{}, err
	}
	around, machine, err := s.around()
	if err != nil {
		return Result{}, err
	}
	foreign := s.Container != nil && s.Container.Foreign
	agentFilter, err := filter(callerOf(s))
	if err != nil {
		return Result{}, err
	}
	gateFilter, err := filter(callerGate)
	if err != nil {
		return Result{}, err
	}
	// What whoever called us left open would be the agent's: a folder's
	// descriptor is a way to the host's whole file system.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("keep descriptors from the sandbox: %w", err)
	}
	for _, o := range s.View.Omitted {
		s.log().Debug("not in the sandbox", "what", o.What, "why", o.Why)
	}
	streams, err := connectStreams(s)
	if err != nil {
		return Result{}, err
	}
	defer streams.close()

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	onTerminal := hasTerminal()
	if !signal.Ignored(unix.SIGHUP) { // as nohup(1) has it
		signal.Notify(signals, unix.SIGHUP)
	}
	defer signal.Stop(signals)

	defer func() { err = errors.Join(err, box.end()) }()
	ctx, end := counters.Guard(ctx)
	defer end(nil)
	host, err := around.start(ctx, box, streams, signals, end)
	if err != nil {
		return Result{}, err
	}
	defer host.Close()
	streams.started()
	defer context.AfterFunc(ctx, func() { host.Close() })() // the first process ends with the connection

	encoder := json.NewEncoder(host)
	dir := s.View.Workdir
	setup := wire.Setup{
		Argv: wire.Raw(s.Command), Env: wire.Raw(s.View.Env), Dir: wire.Bytes(dir.Path), Device: dir.Device, Inode: dir.Inode, Mounts: dir.Mounts,
		UID: s.View.UID, GID: s.View.GID, Nodes: s.View.Nodes, Gateways: s.Gateways, Ports: capturedPorts(s),
		Tools:   s.Tools,
		Streams: streams.same(), Terminal: streams.terminal,
		Filter: wire.Bytes(agentFilter), GateFilter: wire.Bytes(gateFilter), Processes: s.View.Limits.Processes,
		Files: s.Files, Foreign: foreign, Machine: machine,
	}
	setup.Protected = wire.Raw(s.View.Protected)
	for _, f := range s.View.GitFolders {
		setup.Git = append(setup.Git, wire.Folder{Path: wire.Bytes(f.Path), Device: f.Device, Inode: f.Inode})
	}
	for _, m := range s.View.Mounts {
		if m.Kind == view.Layer {
			setup.Overlay, setup.ReadOnly = true, !m.Writable
		}
		setup.NoExec = setup.NoExec || m.NoExec
	}
	ownTerminal := foreign || machine != nil
	if ownTerminal {
		if err := streams.apart(&setup); err != nil {
			return Result{}, err
		}
	}
	var beginErr error
	if s.Begin != nil {
		beginErr = s.Begin()
	}
	setupErr := beginErr
	if beginErr == nil {
		setupErr = encoder.Encode(setup)
	} else {
		host.Close()
	}
	commands := &control{conn: host}
	commands.publish(s.Published)
	done := make(chan struct{})
	go func() {
		asked := asked{}
		for {
			select {
			case sig := <-signals:
				said := wire.Signal{Number: int(sig.(syscall.Signal))}
				if sig == unix.SIGWINCH {
					said.Rows, said.Columns = streams.resize()
					if said.Rows == 0 || !ownTerminal { // the kernel tells the command
						continue
					}
				}
				// If the inside is gone, so is whom the signal was for.
				_ = commands.say(said, nil)
				if sig == unix.SIGHUP && onTerminal {
					time.AfterFunc(endGrace, func() {
						if !hasTerminal() {
							end(errHungUp) // too late is of no effect
						}
					})
				}
				if asked.again(sig) {
					time.AfterFunc(endGrace, func() { end(errAsked) })
				}
			case <-done:
				return
			}
		}
	}()
	said, eventErr := readEvents(host, box.started)
	if eventErr != nil {
		host.Close()
	}
	complaint, waitErr := box.wait(ctx)
	close(done)
	streamErr := streams.finish()

	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("run %s: %w", s.Command[0], context.Cause(ctx))
	case beginErr != nil:
		return Result{}, fmt.Errorf("set up sandbox: %w", beginErr)
	case said.Exited != nil:
		return Result{Status: *said.Exited, Connections: said.Connections}, streamErr
	case said.Refused != "":
		return Result{}, &RefusedError{Message: said.Refused, Status: said.Status}
	case said.Broken != "":
		return Result{}, fmt.Errorf("set up sandbox of agent %s: %s", s.View.Agent, said.Broken)
	case said.Started:
		return Result{}, errors.Join(eventErr,
			fmt.Errorf("run %s: the sandbox was killed%s", s.Command[0], colon(complaint)))
	}
	return Result{}, box.explain(complaint, errors.Join(waitErr, setupErr, eventErr))
}

// hasTerminal reports whether this process's session has a terminal that is still open.
func hasTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err == nil {
		tty.Close()
	}
	return err == nil
}

// start starts the box. A signal until it has started is for nobody but us, and ends ctx.
func (s *Spec) start(
	ctx context.Context, box isolation, st *streams, signals <-chan os.Signal, end context.CancelCauseFunc,
) (*net.UnixConn, error) {
	started, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case sig := <-signals:
				if sig == unix.SIGWINCH {
					continue
				}
				end(fmt.Errorf("start sandbox: %s", sig))
			case <-started:
			}
			return
		}
	}()
	host, err := box.start(ctx, s, st)
	close(started)
	<-done
	if ctx.Err() != nil {
		if err == nil {
			host.Close()
			_, _ = box.wait(ctx) // the cause says more
		}
		return nil, context.Cause(ctx)
	}
	return host, err
}

// readEvents collects what the inside reports until it ends, and calls started when the command
// runs.
func readEvents(host net.Conn, started func() error) (wire.Event, error) {
	decoder := json.NewDecoder(host)
	var all wire.Event
	for {
		var e wire.Event
		if err := decoder.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
				return all, nil
			}
			return all, fmt.Errorf("read from sandbox: %w", err)
		}
		if e.Started {
			all.Started = true
			if err := started(); err != nil {
				return all, err
			}
			continue
		}
		e.Started = all.Started
		if all = e; e.Exited != nil {
			return all, nil // whoever has the connection, too, is stopped, perhaps
		}
	}
}

func colon(message string) string {
	if message = strings.TrimSpace(message); message == "" {
		return ""
	}
	return ": " + message
}

// capturedPorts are the ports that are captured for every address.
func capturedPorts(s *Spec) []int {
	ports := append([]int{80, 443}, s.Ports...)
	slices.Sort(ports)
	return slices.Compact(ports)
}
