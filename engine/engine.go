// Package engine drives the Pulumi engine for one stack through the Automation API. The program and
// our provider run in this process. So it needs neither a language host nor a plugin, only the
// pulumi CLI.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/auto"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optdestroy"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optpreview"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optrefresh"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optup"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/provider"
	"github.com/postern/postern/sandbox/workspace"
)

// Project is the name of the Pulumi project.
const Project = "postern"

// Options say which stack to drive, and how.
type Options struct {
	Stack string
	Home  home.Folder
	// CLI is the path of the pulumi CLI; see [FindCLI].
	CLI string
	// Environ is the part of the caller's environment that the CLI and its children get; see
	// package hostpath.
	Environ []string
	// Backend is the URL of the backend that has the stack's state (see [Backend]), or "" for the
	// folder of Home.
	Backend string
	// Own means that the CLI uses the caller's own Pulumi folder and variables, with the login and
	// the plugins there, as `pulumi up` would: for a stack in a cloud.
	Own bool
	// Program declares the stack's resources. Refresh and Destroy do not need it.
	Program pulumi.RunFunc
	// Over, if not nil, is the publication that a person was shown: Up publishes over no other one.
	Over *bundle.Bundle
	// Progress gets a line for each change, as it happens. It may be nil.
	Progress *Printer
	// Verbose, if not nil, gets the engine's own output.
	Verbose io.Writer
}

// Engine is the engine of one stack. This process holds it: no other process can drive the stack
// until Close.
type Engine struct {
	opts    Options
	dir     string // of the engine's state, if the state is on this machine
	scratch bool   // dir is temporary: nothing was ever brought up
	fresh   bool   // see Fresh
	stack   auto.Stack
	release func()
}

// ErrNoState says that no state of the stack is where its state should be.
var ErrNoState = errors.New("the stack has no state")

// Fresh reports whether the state had no resource of the stack when the stack was opened.
func (e *Engine) Fresh() bool { return e.fresh }

// Exists reports whether the engine has state for the stack on this machine: the stack was brought
// up, and not destroyed since.
func Exists(home home.Folder, stack string) bool {
	_, err := os.Stat(stateFile(home.PulumiDir(), stack))
	return err == nil
}

func stateFile(dir, stack string) string {
	return filepath.Join(dir, ".pulumi", "stacks", Project, stack+".json")
}

// Open takes hold of the stack. Without a program, a stack without state is [ErrNoState]. With
// scratch, such a stack gets state in a temporary folder, so that a preview leaves nothing behind.
func Open(ctx context.Context, opts Options, scratch bool) (_ *Engine, err error) {
	e := &Engine{opts: opts, dir: opts.Home.PulumiDir(), release: func() {}}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	cli, err := newCLI(ctx, opts.CLI, opts.Environ, opts.Own)
	if err != nil {
		return nil, err
	}
	exists := opts.Backend == "" && Exists(opts.Home, opts.Stack)
	if opts.Backend != "" {
		if exists, err = holds(ctx, cli, opts); err != nil {
			return nil, err
		}
	}
	if !exists && opts.Program == nil {
		return nil, ErrNoState
	}
	preview := scratch && !exists
	if preview {
		e.opts.Backend = ""
	}
	// With a backend nothing stays on this machine, where the stack may have no state folder.
	if e.scratch = preview || opts.Backend != ""; e.scratch {
		if e.dir, err = os.MkdirTemp("", "postern-preview-"); err != nil {
			return nil, fmt.Errorf("preview stack %s: %w", opts.Stack, err)
		}
	}
	for _, dir := range []string{e.dir, filepath.Join(e.dir, "home"), filepath.Join(e.dir, "work")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the engine's folder: %w", err)
		}
	}
	if e.release, err = daemon.Lock(filepath.Join(e.dir, "lock")); err != nil {
		e.release = func() {}
		if held := (*daemon.HeldError)(nil); errors.As(err, &held) {
			return nil, fmt.Errorf("stack %s is being changed by process %d: wait for it, or stop it with `kill %d`, then run this again", opts.Stack, held.PID, held.PID)
		}
		return nil, err
	}
	if err := takeOver(ctx, e.dir, opts.Stack); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(e.dir, "home", "logs"), filepath.Join(e.dir, ".pulumi", "history", Project, opts.Stack)} {
		if err := trim(dir); err != nil {
			return nil, err
		}
	}
	ws, err := newWorkspace(ctx, cli, e.opts, e.dir)
	if err != nil {
		return nil, err
	}
	if exists {
		e.stack, err = auto.SelectStack(ctx, opts.Stack, known{ws})
	} else {
		e.stack, err = auto.NewStack(ctx, opts.Stack, ws)
	}
	if err != nil {
		return nil, fmt.Errorf("open stack %s: %w", opts.Stack, err)
	}
	state, err := e.saved(ctx)
	if err != nil {
		return nil, err
	}
	// An `up` that was refused leaves a stack, and a provider.
	e.fresh = !slices.ContainsFunc(state.Resources, func(r savedResource) bool {
		return !strings.HasPrefix(string(r.URN.Type()), "pulumi:")
	})
	if e.fresh && opts.Own && opts.Program == nil {
		return nil, ErrNoState
	}
	return e, nil
}

// known is a workspace whose stack is known to exist. Asking the CLI would cost half a second, and
// every command names the stack anyway.
type known struct{ auto.Workspace }

func (known) SelectStack(context.Context, string) error { return nil }

// Close releases the stack.
func (e *Engine) Close() {
	e.release()
	if e.scratch {
		os.RemoveAll(e.dir)
	}
}

// Preview returns what Up would do, including repair of drift, and changes nothing.
func (e *Engine) Preview(ctx context.Context) (*Summary, error) {
	return e.follow(ctx, "preview", true, func(ch chan events.EngineEvent) error {
		_, err := e.stack.Preview(ctx, optpreview.Refresh(), optpreview.EventStreams(ch),
			optpreview.ProgressStreams(e.verbose()...), optpreview.ErrorProgressStreams(e.verbose()...))
		return err
	})
}

// Up brings the machine to what the program declares. It inspects the machine first, so that it
// repairs drift. In a cloud it refuses to forget resources that an interrupted run may have left
// there.
func (e *Engine) Up(ctx context.Context) (*Summary, error) {
	if err := e.clearPending(ctx); err != nil {
		return nil, err
	}
	return e.follow(ctx, "up", false, func(ch chan events.EngineEvent) error {
		_, err := e.stack.Up(ctx, optup.Refresh(), optup.EventStreams(ch), optup.SuppressOutputs(),
			optup.ProgressStreams(e.verbose()...), optup.ErrorProgressStreams(e.verbose()...))
		return err
	})
}

// Refresh brings the state to what the machine is, and returns the difference.
func (e *Engine) Refresh(ctx context.Context) (*Summary, error) {
	return e.follow(ctx, "refresh", false, func(ch chan events.EngineEvent) error {
		_, err := e.stack.Refresh(ctx, optrefresh.ClearPendingCreates(), optrefresh.EventStreams(ch),
			optrefresh.ProgressStreams(e.verbose()...), optrefresh.ErrorProgressStreams(e.verbose()...))
		return err
	})
}

// Destroy deletes every resource. If one of them is protected, Destroy deletes nothing: the engine
// would delete all others first, among them the fence.
func (e *Engine) Destroy(ctx context.Context) (*Summary, error) {
	state, err := e.saved(ctx)
	if err != nil {
		return nil, err
	}
	if names := state.protected(); len(names) > 0 {
		return nil, fmt.Errorf("destroy stack %s: nothing was deleted, because %d resources are protected: %s; "+
			"write `protect: false` in the stack file, run `postern up %s`, then this again",
			e.opts.Stack, len(names), strings.Join(names, ", "), e.opts.Stack)
	}
	if err := e.clearPending(ctx); err != nil {
		return nil, err
	}
	return e.follow(ctx, "destroy", false, func(ch chan events.EngineEvent) error {
		_, err := e.stack.Destroy(ctx, optdestroy.EventStreams(ch),
			optdestroy.ProgressStreams(e.verbose()...), optdestroy.ErrorProgressStreams(e.verbose()...))
		return err
	})
}

// clearPending forgets creations that a killed `up` never finished. On this machine nothing is lost
// by that, because every create replaces what it finds.
func (e *Engine) clearPending(ctx context.Context) error {
	state, err := e.saved(ctx)
	if err != nil || len(state.Pending) == 0 {
		return err
	}
	if foreign := elsewhere(state.Pending); len(foreign) > 0 {
		return fmt.Errorf("an interrupted run was creating %s in the cloud, and the engine does not know whether they exist: look for them by the tag postern:stack=%s, "+
			"remove or import what is there, then run `PULUMI_BACKEND_URL='%s' pulumi refresh -s %s --clear-pending-creates`",
			strings.Join(foreign, ", "), e.opts.Stack, e.backend(), e.opts.Stack)
	}
	err = e.serving(func() error {
		_, err := e.stack.Refresh(ctx, optrefresh.ClearPendingCreates(),
			optrefresh.ProgressStreams(e.verbose()...), optrefresh.ErrorProgressStreams(e.verbose()...))
		return err
	})
	if err != nil {
		return fmt.Errorf("clear what an interrupted run left: %w", err)
	}
	return nil
}

func (e *Engine) verbose() []io.Writer {
	if e.opts.Verbose == nil {
		return nil
	}
	return []io.Writer{e.opts.Verbose}
}

// follow runs op and collects its events.
func (e *Engine) follow(ctx context.Context, name string, preview bool, op func(chan events.EngineEvent) error) (*Summary, error) {
	began := time.Now()
	ch := make(chan events.EngineEvent)
	c := &collector{printer: e.opts.Progress, summary: Summary{Stack: e.opts.Stack, Operation: name, preview: preview}}
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for ev := range ch {
			c.event(ev)
		}
	}()
	err := e.serving(func() error { return op(ch) })
	// The engine's side closes the channel, unless it never started.
	if c.began.Load() || err == nil {
		<-collected
	}
	c.summary.Seconds = time.Since(began).Seconds()
	c.summary.OK = err == nil
	switch {
	case err == nil:
		return &c.summary, nil
	case ctx.Err() != nil:
		return &c.summary, fmt.Errorf("%s stack %s: interrupted; half-done work is undone; run it again to continue", name, e.opts.Stack)
	case len(c.summary.Failures) > 0: // they say it better than the engine's exit status
		return &c.summary, &FailedError{Summary: &c.summary}
	default:
		return &c.summary, fmt.Errorf("%s stack %s: %w", name, e.opts.Stack, err)
	}
}

// serving runs one operation of the engine with our provider on a loopback port. Each operation has
// a provider of its own, because the engine cancels the provider at the end, for good.
func (e *Engine) serving(op func() error) error {
	impl, err := provider.New(e.opts.Over)
	if err != nil {
		return err
	}
	server, err := p.RawServer(provider.Name, provider.Version, impl)(nil)
	if err != nil {
		return fmt.Errorf("serve provider: %w", err)
	}
	stop := make(chan bool)
	defer close(stop)
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Cancel: stop,
		Init: func(s *grpc.Server) error {
			pulumirpc.RegisterResourceProviderServer(s, server)
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("serve provider: %w", err)
	}
	if err := e.stack.Workspace().SetEnvVars(map[string]string{
		"PULUMI_DEBUG_PROVIDERS": provider.Name + ":" + strconv.Itoa(handle.Port),
	}); err != nil {
		return fmt.Errorf("serve provider: %w", err)
	}
	return op()
}

// kept is the number of files that the engine may leave in a folder of records.
const kept = 100

// trim removes the oldest files of a folder in which the engine records every operation and removes
// none.
func trim(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("trim %s: %w", dir, err)
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(b).Compare(age(a)) })
	for _, e := range entries[min(kept, len(entries)):] {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("trim %s: %w", dir, err)
		}
	}
	return nil
}

// endGrace is the time that a process has to end when asked, before it is killed.
const endGrace = 5 * time.Second

// EndAll ends every process of the stack in home, even if the stack's files or the engine's state
// are lost. It returns a description of what it has ended. If it returns no error, nothing of the
// stack runs.
func EndAll(ctx context.Context, home home.Folder) (ended []string, err error) {
	// By their arguments: this also finds a daemon whose folder, and so its lock, was removed. A
	// node's supervisor comes before its Envoy, which it would start again.
	for _, match := range []func(daemon.Process) bool{
		func(p daemon.Process) bool {
			return strings.HasPrefix(filepath.Base(p.Args[0]), "posternd") && p.Has("--home", home.Root)
		},
		func(p daemon.Process) bool {
			return p.Has("--config-path", "bootstrap.json") && strings.HasPrefix(p.Dir, home.NodesDir()+string(filepath.Separator))
		},
	} {
		for tries := 0; ; tries++ {
			left, err := daemon.Find(match)
			if err != nil {
				return ended, err
			}
			if len(left) == 0 {
				break
			}
			if tries == maxEndTries {
				return ended, fmt.Errorf("process %d (%s) starts again whenever it is ended: find out what starts it", left[0].PID, strings.Join(left[0].Args, " "))
			}
			for _, p := range left {
				grace, cancel := context.WithTimeout(ctx, endGrace)
				err := p.End(grace, syscall.SIGTERM)
				cancel()
				if err != nil {
					return ended, err
				}
				ended = append(ended, fmt.Sprintf("process %d (%s)", p.PID, filepath.Base(p.Args[0])+" "+strings.Join(p.Args[1:min(2, len(p.Args))], " ")))
			}
		}
	}
	// And by their locks: this finds processes that were started otherwise.
	pidfiles, err := filepath.Glob(filepath.Join(home.NodesDir(), "*"))
	if err != nil {
		return ended, fmt.Errorf("look for nodes: %w", err)
	}
	for _, dir := range append(pidfiles, home.ControlDir()) {
		grace, cancel := context.WithTimeout(ctx, endGrace)
		err := daemon.Stop(grace, filepath.Join(dir, "pid"))
		cancel()
		if err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// maxEndTries is the number of times that EndAll looks again for processes that it has ended.
const maxEndTries = 3

// RemoveHome ends the processes that still run below home and removes home. It removes the audit
// log only if audit is set, and the operator's key only if operator is set, and never the record of who
// was killed. It is the last step of a destroy. If the engine's state is lost, it is the only step.
func RemoveHome(ctx context.Context, home home.Folder, audit, operator bool) error {
	if _, err := EndAll(ctx, home); err != nil {
		return err
	}
	entries, err := os.ReadDir(home.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", home.Root, err)
	}
	stays := func(path string, removed bool) bool {
		_, err := os.Stat(path)
		return err == nil && !removed
	}
	var kept []string
	if stays(home.AuditDir(), audit) {
		kept = append(kept, home.AuditDir())
	}
	if stays(home.KilledFile(), false) {
		kept = append(kept, home.KilledFile())
	}
	if stays(home.OperatorKey(), operator) {
		kept = append(kept, home.OperatorDir())
	}
	for _, entry := range entries {
		path := filepath.Join(home.Root, entry.Name())
		if slices.Contains(kept, path) || len(kept) > 0 && path == home.RecordFile() {
			continue
		}
		remove := os.RemoveAll
		if path == home.WorkspacesDir() || path == home.KeptDir() {
			// Agents have written there.
			remove = func(path string) error { return workspace.RemoveAll(ctx, path) }
		}
		if err := remove(path); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	if len(kept) > 0 {
		return nil
	}
	if err := os.Remove(home.Root); err != nil {
		return fmt.Errorf("remove %s: %w", home.Root, err)
	}
	return nil
}
