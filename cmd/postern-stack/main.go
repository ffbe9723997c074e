// Command postern-stack is Postern's Pulumi program. The repository's main.go starts it.
//
// Under the Pulumi engine (`pulumi up -s local`) it declares the stack's
// resources. Started by `postern up` or `go run . up` it drives the engine itself.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/checkout"
	"github.com/postern/postern/components/local"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/engine"
	"github.com/postern/postern/engine/pack"
	"github.com/postern/postern/engine/still"
	"github.com/postern/postern/envoy/binary"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/provider"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/usage"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

func main() {
	still.Restore()
	hostpath.KeepDescriptors()
	hostpath.CleanEnvironment()
	if filepath.Base(os.Args[0]) == pack.Program { // the engine wants the guardrails
		if err := servePack(context.Background()); err != nil {
			visible.Error(os.Stderr, "postern:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv("PULUMI_MONITOR") != "" { // the engine runs us
		declareForEngine()
		return
	}
	// Whoever reads what is printed may go (`destroy | head`): half a change is worse than a line
	// that is lost. A signal that is taken is an error of the write alone.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := usage.Signals(func(sig usage.SignalError) {
		visible.Printf(os.Stderr, "postern: %v: it ends what it has begun; once more ends it at once\n", sig)
	})
	err := usage.Ended(ctx, command().ExecuteContext(ctx))
	stop()
	if err != nil {
		visible.Error(os.Stderr, "postern:", err)
		os.Exit(exit.Status(err))
	}
}

// declareForEngine is the program as the engine runs it.
func declareForEngine() {
	// Before the engine is told of the first resource: the program of another target begins again.
	file, stack, err := loadForEngine(os.Getenv("PULUMI_STACK"))
	pulumi.Run(func(ctx *pulumi.Context) error {
		if err != nil {
			return errors.New(visible.Lines(err.Error())) // the engine prints it as it is
		}
		home, err := claim(ctx, file, stack)
		if err != nil {
			return err
		}
		if err := judge(stack, home, !ctx.DryRun()); err != nil {
			return err
		}
		for _, problem := range stack.Warnings {
			if err := ctx.Log.Warn(visible.Lines(problem.Error()), nil); err != nil {
				return err
			}
		}
		// The engine does not tell its program whether it has a state of the stack.
		return targets[stack.Target](ctx, stack, home, false)
	})
}

func loadForEngine(name string) (*stacks.File, *stacks.Stack, error) {
	file, err := stacks.Find(name)
	if err != nil {
		return nil, nil, err
	}
	stack, err := file.Load()
	if err != nil {
		return nil, nil, err
	}
	return file, stack, become(context.Background(), stack)
}

// targets are the programs of the targets that are linked in: what each declares for a stack. With
// fresh, the engine has no state of the stack.
var targets = map[string]func(ctx *pulumi.Context, stack *stacks.Stack, home home.Folder, fresh bool) error{stacks.TargetLocal: declareLocal}

// become replaces this process by the program for the stack's target, unless this is that program:
// `bin/postern-stack` is for this machine. So a user without a stack in a cloud does not compile
// its SDK. In a source tree the other program is built, and elsewhere it is next to this one.
func become(ctx context.Context, stack *stacks.Stack) error {
	if targets[stack.Target] != nil {
		return nil
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	return checkout.Stack(stack.Target).Start(ctx, folders, os.Args, os.Stderr)
}

// claim returns the stack's state folder, which `pulumi up` makes. The engine gives its program no
// terminal, so claim refuses what a person must see first.
func claim(ctx *pulumi.Context, file *stacks.File, stack *stacks.Stack) (home.Folder, error) {
	if ctx.DryRun() {
		return file.Home()
	}
	folder, err := file.Home()
	if err != nil && !errors.Is(err, home.ErrUnclaimed) {
		return folder, err
	}
	r, _, err := review(ctx.Context(), file, folder, stack)
	if err != nil {
		return folder, err
	}
	if err := r.Ask(ctx.Context()); err != nil {
		return folder, err
	}
	return folder, claimed(folder, file, stack.Guardrails)
}

// review returns the question whether the stack file may be brought up, and the publication at that
// time. The publication is nil if it cannot be read.
func review(ctx context.Context, file *stacks.File, home home.Folder, stack *stacks.Stack) (*publish.Review, *bundle.Bundle, error) {
	r := &publish.Review{File: file, Home: home, Command: file.Command("up"), Out: io.Discard, Err: io.Discard}
	if stack.AWS != nil {
		// Not all of it is in a plan, so not all of it can be shown.
		return r, nil, publish.RefuseProposal(file)
	}
	o := publish.Operator(home, nil)
	agents, err := publish.Proposal(file)
	if err != nil {
		return nil, nil, err
	}
	if agents != nil { // no plan has these
		r.More = append(r.More, guardrailsOf(stack.Guardrails, lastGuardrails(home))...)
	}
	live, err := publish.ReadLive(ctx, o)
	if err != nil { // up may be what repairs it
		live = &publish.Live{Plan: &plan.Plan{}}
		r.More = append(r.More, fmt.Sprintf("~ everything, because the live version cannot be read: %v", err))
	}
	r.Changes = plan.Diff(live.Plan, stack.Plan)
	s, err := api.Dial(home.ControlSocket()).Status(ctx)
	switch {
	case err == nil && len(s.Nodes) != stack.Nodes:
		r.More = append(r.More, fmt.Sprintf("~ %d proxies, was %d", stack.Nodes, len(s.Nodes)))
	case err != nil:
		if agents != nil { // nothing says how many there were
			r.More = append(r.More, fmt.Sprintf("~ %d proxies", stack.Nodes))
		}
	}
	return r, o.Over, nil
}

// review has somebody see what an agent may have written, and changes of high risk, before they
// are brought up.
func (d *driver) review(ctx context.Context, stack *stacks.Stack) error {
	r, over, err := review(ctx, d.file, d.home, stack)
	if err != nil {
		return err
	}
	d.over = over
	r.Careful, r.Yes, r.In, r.Out, r.Err = true, d.Yes, os.Stdin, d.out, os.Stderr
	if d.JSON {
		r.Out = os.Stderr
	}
	return r.Ask(ctx)
}

// declareLocal is the program of a stack on this machine.
func declareLocal(ctx *pulumi.Context, stack *stacks.Stack, home home.Folder, _ bool) error {
	found, err := findPrograms(ctx.Context(), stack, home)
	if err != nil {
		return err
	}
	posternd, err := digested(found.posternd)
	if err != nil {
		return err
	}
	proxy, err := digested(found.envoy, found.module)
	if err != nil {
		return err
	}
	if !ctx.DryRun() {
		if err := home.KeepPrograms(found.posternd, found.module, found.envoy); err != nil {
			return err
		}
	}
	separate, _, err := provider.Separate(home, stack.Plan)
	if err != nil {
		return err
	}
	env, err := local.NewEnvironment(ctx, stack.Name, &local.EnvironmentArgs{
		Home: home, Plan: stack.Plan, Nodes: stack.Nodes, Posternd: posternd, Envoy: proxy, Module: found.module, Separate: separate,
	})
	if err != nil {
		return err
	}
	ctx.Export("version", env.Version)
	ctx.Export("socket", env.Socket)
	return nil
}

// programs are the programs of a stack on this machine: real paths, where no agent and no other
// user may write.
type programs struct{ posternd, module, envoy string }

// needsCloud reports whether the control plane of a stack on this machine needs the driver of a
// cloud: for a secret, or for the store of what is published.
func needsCloud(stack *stacks.Stack, home home.Folder) bool {
	return !bundle.Linked(home.BundleURL()) || slices.ContainsFunc(stack.Plan.Credentials, func(c plan.Credential) bool {
		ref, err := plan.ParseReference(c.Secret)
		return err == nil && plan.InCloud(ref.Source)
	})
}

// findPrograms returns the stack's posternd, what each node's Envoy loads (next to posternd), and
// Envoy. A posternd with drivers of clouds is built here if there is none yet.
func findPrograms(ctx context.Context, stack *stacks.Stack, home home.Folder) (p programs, err error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return p, err
	}
	path, err := hostpath.Beside("posternd")
	own := filepath.Dir(path)
	if named := os.Getenv("POSTERND"); err == nil && named != "" {
		path, err = filepath.Abs(named)
	}
	if err != nil {
		return p, fmt.Errorf("find posternd: %w", err)
	}
	if needsCloud(stack, home) {
		path += "-cloud"
	}
	if p.posternd, err = folders.Program(path, hostpath.User); errors.Is(err, fs.ErrNotExist) &&
		needsCloud(stack, home) && os.Getenv("POSTERND") == "" {
		p.posternd, err = checkout.Daemon.Find(ctx, folders, os.Stderr)
	}
	if err != nil {
		return p, fmt.Errorf("find posternd: %w; it belongs next to postern: run `make build` or `make install` again", err)
	}
	if p.module, err = folders.Owned(filepath.Join(filepath.Dir(p.posternd), "libguard.so"), hostpath.User); err != nil {
		return p, fmt.Errorf("find libguard.so, which Envoy loads, next to posternd: %w; run `make build` or `make install` again", err)
	}
	p.envoy, err = binary.Find(folders, own)
	return p, err
}

// digested returns the program with the digest of its file and of the files that it loads.
func digested(path string, loads ...string) (local.Binary, error) {
	h := sha256.New()
	for _, file := range append([]string{path}, loads...) {
		f, err := os.Open(file)
		if err != nil {
			return local.Binary{}, fmt.Errorf("read binary: %w", err)
		}
		_, err = io.Copy(h, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return local.Binary{}, fmt.Errorf("read binary: %w", err)
		}
	}
	return local.Binary{Path: path, Digest: hex.EncodeToString(h.Sum(nil))}, nil
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:         "stack",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "postern"},
		Short:       "Bring up what a stack file describes, with the Pulumi engine",
		Long: `Brings up what a stack file describes, with the Pulumi engine. "postern up" starts this program, and so
does "go run . up" in the source tree.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	drive.Flags(root)
	root.AddCommand(drive.Commands(func(cmd *cobra.Command, r *drive.Request) error {
		d := &driver{Request: r, name: r.Stack, out: cmd.OutOrStdout()}
		return map[string]func(*driver, context.Context) error{
			"up": (*driver).up, "preview": (*driver).preview, "refresh": (*driver).refresh,
			"prove": (*driver).prove, "check": (*driver).check, "test": (*driver).testPolicies, "down": (*driver).destroy,
		}[cmd.Name()](d, cmd.Context())
	})...)
	usage.Errors(root)
	return root
}

// driver is one run of a command.
type driver struct {
	*drive.Request
	name    string // of the stack, once its file is found
	out     io.Writer
	file    *stacks.File
	home    home.Folder
	lost    *stacks.NotFoundError // there is no file; nil if there is
	scratch bool                  // a preview: nothing may be left behind
	over    *bundle.Bundle        // what was published when the difference was shown
	cloud   bool                  // the stack is not on this machine
	backend string                // of a stack in a cloud; "" is the state folder
	fresh   bool                  // there was no state of the stack
}

func (d *driver) preview(ctx context.Context) error {
	if d.Offline {
		return d.previewOffline(ctx)
	}
	return d.drive(ctx, true, (*engine.Engine).Preview)
}

func (d *driver) up(ctx context.Context) error {
	return d.drive(ctx, false, (*engine.Engine).Up)
}

func (d *driver) refresh(ctx context.Context) error {
	if err := d.find(); err != nil {
		return err
	}
	stack, err := d.elsewhere(ctx)
	if err != nil {
		return err
	}
	var drifted *engine.Summary
	err = d.run(ctx, nil, func(e *engine.Engine, ctx context.Context) (*engine.Summary, error) {
		sum, err := e.Refresh(ctx)
		drifted = sum
		return sum, err
	})
	if err == nil && d.NoChanges && len(drifted.Resources) > 0 {
		return fmt.Errorf("stack %s: %d resources have drifted", d.name, len(drifted.Resources))
	}
	if !errors.Is(err, engine.ErrNoState) {
		return err
	}
	if err := d.refuseOrphans(ctx, stack); err != nil {
		return err
	}
	return d.report(ctx, &engine.Summary{Stack: d.name, Operation: "refresh", OK: true})
}

// drive loads the stack file, all of it or nothing, before the engine starts.
func (d *driver) drive(ctx context.Context, scratch bool, op func(*engine.Engine, context.Context) (*engine.Summary, error)) error {
	d.scratch = scratch
	stack, err := d.load(ctx)
	if err != nil {
		return err
	}
	if stack.Target != stacks.TargetLocal {
		if err := d.inCloud(ctx, stack); err != nil {
			return err
		}
		if d.backend == "" && !scratch {
			visible.Printf(os.Stderr, "warning: only this machine will have the state of the stack, in %s: "+
				"write aws: {state: s3://BUCKET} into the stack file, or use `pulumi login`\n", d.home.PulumiDir())
		}
	} else {
		if err := d.checkMachine(ctx, stack); err != nil {
			return err
		}
		_, why, err := provider.Separate(d.home, stack.Plan)
		if err != nil {
			return err
		}
		if why != "" {
			visible.Println(os.Stderr, "warning: the control plane and the nodes run as root, not as users of their own:", why)
		}
	}
	if !scratch {
		if err := d.review(ctx, stack); err != nil {
			return err
		}
		if err := claimed(d.home, d.file, stack.Guardrails); err != nil { // as it was when it was reviewed
			return err
		}
	}
	if err := judge(stack, d.home, !scratch); err != nil {
		return err
	}
	return d.run(ctx, func(ctx *pulumi.Context) error { return targets[stack.Target](ctx, stack, d.home, d.fresh) }, op)
}

// load reads the stack file, all of it or nothing. For another target it does not return: see
// [become].
func (d *driver) load(ctx context.Context) (*stacks.Stack, error) {
	// If a state folder no longer names its stack file, the next up writes the name.
	if err := d.find(); err != nil && (d.scratch || !errors.Is(err, home.ErrUnclaimed)) {
		return nil, err
	}
	stack, err := d.file.Load()
	if err == nil {
		err = become(ctx, stack)
	}
	if err != nil {
		return nil, err
	}
	for _, problem := range stack.Warnings {
		visible.Error(os.Stderr, "warning:", problem)
	}
	return stack, nil
}

// checkMachine reports what is missing on this machine, before the engine would.
func (d *driver) checkMachine(ctx context.Context, stack *stacks.Stack) error {
	if err := d.home.CheckSockets(); err != nil {
		return err
	}
	found, err := findPrograms(ctx, stack, d.home)
	if err != nil {
		return err
	}
	return binary.CheckVersion(ctx, found.envoy)
}

// find finds the stack file and its state folder. A stack may still be up when its file is gone.
func (d *driver) find() error {
	file, err := stacks.Choose(d.File, d.Stack)
	if errors.As(err, &d.lost) {
		file, err = stacks.Open(filepath.Join("stacks", d.lost.Name+".yaml"))
	}
	if errors.Is(err, stacks.ErrName) {
		return exit.BadUsage(err)
	}
	if err != nil {
		return err
	}
	if d.File == "" {
		publish.Announce(os.Stderr, file)
	}
	d.file, d.name = file, file.Name()
	d.home, err = file.Home()
	return err
}

// run does one operation of the engine and reports it. Without a program, a stack without state is
// [engine.ErrNoState].
func (d *driver) run(ctx context.Context, program pulumi.RunFunc, op func(*engine.Engine, context.Context) (*engine.Summary, error)) error {
	if program == nil && d.backend == "" && !engine.Exists(d.home, d.name) {
		return engine.ErrNoState // for which no CLI is needed
	}
	return d.engine(ctx, program, func(e *engine.Engine) error {
		sum, err := op(e, ctx)
		if sum != nil && (err == nil || d.JSON) {
			err = errors.Join(err, d.report(ctx, sum))
		}
		return err
	})
}

// engine opens the engine for use.
func (d *driver) engine(ctx context.Context, program pulumi.RunFunc, use func(*engine.Engine) error) error {
	own, err := hostpath.Beside("pulumi")
	if err != nil {
		return err
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	cli, err := engine.FindCLI(folders, filepath.Dir(own))
	if err != nil {
		return err
	}
	opts := engine.Options{
		Stack: d.name, Home: d.home, CLI: cli, Environ: os.Environ(), Program: program, Over: d.over,
		Backend: d.backend, Own: d.cloud,
	}
	if !d.JSON {
		opts.Progress = engine.NewPrinter(d.out, colored(d.out))
	}
	if d.Verbose {
		opts.Verbose = os.Stderr
	}
	e, err := engine.Open(ctx, opts, d.scratch)
	if err != nil {
		return err
	}
	defer e.Close()
	d.fresh = e.Fresh()
	return use(e)
}

// report prints the summary and, if the stack is up, what is live.
func (d *driver) report(ctx context.Context, sum *engine.Summary) error {
	if d.JSON {
		return visible.Encode(d.out, sum, "  ")
	}
	visible.Println(d.out, sum.Line())
	if sum.Operation != "up" {
		return nil
	}
	if d.cloud {
		return d.next(sum)
	}
	status, err := api.Dial(d.home.ControlSocket()).Status(ctx)
	if err != nil {
		return err
	}
	visible.Printf(d.out, "  version %s is live on %d of %d nodes\n", status.Version, status.Live(), len(status.Nodes))
	if len(status.Killed) > 0 {
		visible.Printf(d.out, "  killed: %s; `%s` lets them work again\n", strings.Join(status.Killed, ", "),
			d.file.Command("unkill", "--agent", status.Killed[0]))
	}
	for _, n := range status.RefusedNodes {
		visible.Printf(d.out, "  warning: node %q is refused: %s\n", n.ID, n.Reason)
	}
	for _, c := range status.Credentials {
		if !c.OK {
			visible.Printf(d.out, "  warning: credential %s: %s\n", c.Name, c.Problem)
		}
	}
	if n := status.Live(); n == 0 || n < len(status.Nodes) {
		return fmt.Errorf("stack %s is not whole: %d of %d nodes serve the live version: see `%s`, then run this again",
			d.name, n, len(status.Nodes), d.file.Command("status"))
	}
	return nil
}

// colored reports whether out is a terminal whose user wants colour.
func colored(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
