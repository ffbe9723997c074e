package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// Tools are what an agent's command may have done outside its sandbox. Git runs in a sandbox of its
// own that sees what the agent's sees and reaches what the agent's reaches, so an agent that takes
// it over has gained nothing. The operator's own tools run on this machine.
type Tools struct {
	// Git are the repositories to which git may talk.
	Git []string
	// Own are the programs of this machine that the agent may have run: see [Tools.Outside].
	Own []tool.Tool
	// Listener takes the connections from the command's sandbox.
	Listener net.Listener

	spec *sandbox.Spec
	// begin is called before each command of git's starts: files are protected here, too.
	begin func() error
	// folder has the socket. held is locked until Close: it says that the folder is in use.
	folder string
	held   *os.File
	// running counts the tools in progress. Nothing starts once closed is done.
	mu      sync.Mutex
	running sync.WaitGroup
	closed  context.Context
	stop    context.CancelFunc
}

// listenForTools prepares the agent's tools, if the plan has some and this run can have them.
func (p *Prepared) listenForTools(r *Request, in *view.Input, agent *plan.Agent) error {
	switch {
	case len(agent.Git)+len(agent.Tools) == 0:
		return nil
	case in.Workspace.Mode != view.Write:
		p.NoTools = fmt.Sprintf("they need workspace write, and this run has %s", in.Workspace.Mode)
		return nil
	case r.Runtime != plan.RuntimeBubblewrap:
		p.NoTools = fmt.Sprintf("they need runtime bubblewrap, and this run has %s", r.Runtime)
		return nil
	}
	t := newTools(p.Spec)
	t.Git, t.Own, t.begin = agent.Git, agent.Tools, p.lost
	if err := t.listen(r.Home.ToolsDir()); err != nil {
		return fmt.Errorf("listen for the agent's tools: %w", err)
	}
	in.Tools, p.Spec.Tools, p.Tools, p.Spec.End = t.folder, true, t, t.Close
	return nil
}

func newTools(spec *sandbox.Spec) *Tools {
	t := &Tools{spec: spec}
	t.closed, t.stop = context.WithCancel(context.Background())
	return t
}

// listen listens in a new folder below parent. Nobody else gets through parent, so the folder and
// the socket may be open to the sandbox, which may be another user.
func (t *Tools) listen(parent string) (err error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	all, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer all.Close()
	// Until our folder is locked, nobody else's sweep may take it for one that is left.
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(all.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return err
	}
	sweep(parent)
	folder, err := os.MkdirTemp(parent, "run-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	// The path itself may be longer than a socket's may be.
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), wire.ToolsSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short})
	if err != nil {
		return err
	}
	// By then the descriptor may be another file's.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(filepath.Join(folder, wire.ToolsSocket), 0o666); err != nil { //nolint:gosec // see above
		l.Close()
		return err
	}
	t.Listener, t.folder, t.held = l, folder, dir
	return nil
}

// sweep removes the folders of runs that were killed: nobody holds them. The caller holds parent.
// What cannot be removed does no harm.
func sweep(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		folder := filepath.Join(parent, e.Name())
		dir, err := os.Open(folder)
		if err != nil {
			continue
		}
		if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(folder)
		}
		dir.Close()
	}
}

// Close ends the tools that run, and waits until nothing of them is left. No tool starts after it.
// t may be nil.
func (t *Tools) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.stop()
	t.mu.Unlock()
	t.Listener.Close()
	t.running.Wait()
	_ = os.RemoveAll(t.folder) // see sweep
	t.held.Close()
}

// ErrTooMuch means that a tool has said more than it may.
var ErrTooMuch = errors.New("it says too much")

// ErrClosed means that the agent has no tools any more.
var ErrClosed = errors.New("the agent's tools have ended")

// enter begins a tool, which the end of the run cancels. The caller calls done when nothing of it
// is left.
func (t *Tools) enter(ctx context.Context) (_ context.Context, cancel context.CancelCauseFunc, done func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Err() != nil {
		return nil, nil, nil, ErrClosed
	}
	t.running.Add(1)
	ctx, cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(t.closed, func() { cancel(ErrClosed) })
	return ctx, cancel, func() {
		stop()
		cancel(nil)
		t.running.Done()
	}, nil
}

// Run runs a command in a sandbox of its own, with the agent's folder as its current one. It
// returns at most most bytes of what the command says, and its exit status. Other ends are errors.
func (t *Tools) Run(ctx context.Context, most int, command ...string) (said []byte, status int, err error) {
	ctx, cancel, done, err := t.enter(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		defer read.Close()
		said, _ = io.ReadAll(io.LimitReader(read, int64(most)+1)) // what was read counts
		if len(said) > most {
			said = said[:most]
			cancel(ErrTooMuch)
		}
	}()
	spec := *t.spec
	spec.Command, spec.Stdin, spec.Stdout, spec.Stderr = command, nil, write, write
	// These are for the agent's own command alone, and so is what its Begin notes.
	spec.Files, spec.Published, spec.Tools, spec.End, spec.Begin = nil, nil, false, nil, t.begin
	result, err := sandbox.Run(ctx, &spec)
	write.Close()
	<-all
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return said, result.Status, err
}
