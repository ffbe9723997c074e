// Package workspaces is the command "postern workspace": a person looks at what agents wrote in
// overlay workspaces, and applies it or discards it.
package workspaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/begun"
	"github.com/postern/postern/sandbox/workspace/protect"
	"github.com/postern/postern/sandbox/workspace/since"
	"github.com/postern/postern/visible"
)

// Stack finds the state folder of the stack that a command's flags name. Flags, each after a space,
// name the same stack in a command to paste.
type Stack func(cmd *cobra.Command) (folder home.Folder, flags string, err error)

// RefusedError means that a part of the changes was applied.
type RefusedError struct{ error }

// ExitStatus is [exit.Partial].
func (RefusedError) ExitStatus() int { return exit.Partial }

// New returns the command.
func New(stack Stack) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspace",
		Short: "Look at what agents wrote in overlay workspaces, apply it or discard it",
		Long: `A command that runs with an overlay workspace ("postern run --overlay") writes to a layer over its
folder. The folder does not change. The layer stays until you apply it or discard it. Each run has an
ID, which "postern run" prints at its end.`,
	}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "List the runs whose changes were neither applied nor discarded, the oldest first",
		Example: "  postern workspace list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return stack.list(cmd, asJSON) },
	}
	var changesAsJSON bool
	diff := &cobra.Command{
		Use: "diff RUN [PATH]...", Short: "Show what the agent changed, as git diff does",
		Long: `Shows what the agent changed, in the format of git diff. Paths are relative to the folder. Lines that
begin with "!" are Postern's: they name files that a program of the host runs, new programs, links that
lead out of the folder, and changes that cannot be applied. What the agent wrote cannot act on your
terminal: control characters are escaped.`,
		Example: "  postern workspace diff k3v7q2xa\n  postern workspace diff k3v7q2xa src/main.go",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := stack.run(cmd, args[0], false)
			if err != nil {
				return err
			}
			if run.Running() {
				visible.Println(cmd.ErrOrStderr(), "note: the agent still runs, and these are its changes so far")
			}
			if changesAsJSON {
				return printChanges(cmd.Context(), cmd.OutOrStdout(), run, workspace.Selected(args[1:]))
			}
			return run.Diff(cmd.Context(), cmd.OutOrStdout(), workspace.Selected(args[1:]))
		},
	}
	apply := &cobra.Command{
		Use: "apply RUN [PATH]...", Short: "Make the agent's changes in the folder",
		Long: `Makes the agent's changes in the folder: all, or those at and below the paths, which are relative to
the folder. A change is refused if the host's file changed after the run began, or if git would act on
it. An index of git is never applied: run "git reset" after the agent's commits were applied. Each file
has its old content or its new one, also if this command is killed. Run it again then: what is done is
not done twice. When all other changes are applied, the layer is removed.

From then on the folder counts as an agent's: see "postern workdir".

The exit status is 4 if a change was refused.`,
		Example: "  postern workspace apply k3v7q2xa\n  postern workspace apply k3v7q2xa src doc/index.md",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return stack.apply(cmd, args[0], args[1:]) },
	}
	discard := &cobra.Command{
		Use: "discard RUN", Short: "Remove what the agent changed", Example: "  postern workspace discard k3v7q2xa",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := stack.run(cmd, args[0], true)
			if err != nil {
				return err
			}
			defer run.Close()
			if err := run.Discard(cmd.Context()); err != nil {
				return err
			}
			visible.Printf(cmd.OutOrStdout(), "discarded %s: %s is as it was\n", run.ID, visible.Text(run.Workdir))
			return nil
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each run")
	diff.Flags().BoolVar(&changesAsJSON, "json", false, "print a JSON object for each change, without the content")
	cmd.AddCommand(list, diff, apply, discard, stack.scan(), newVolume(stack))
	return cmd
}

func (stack Stack) run(cmd *cobra.Command, id string, alone bool) (*workspace.Run, error) {
	NameUnsaid(cmd.ErrOrStderr())
	home, _, err := stack(cmd)
	if err != nil {
		return nil, err
	}
	return open(home, id, alone)
}

// open opens the run, whose packs of git's are checked.
func open(home home.Folder, id string, alone bool) (*workspace.Run, error) {
	opened, err := workspace.Open(home.WorkspacesDir(), id, alone)
	if err != nil {
		return nil, err
	}
	opened.CheckPack = func(ctx context.Context, pack, index *os.File) error {
		return run.CheckPack(ctx, hostpath.In(filepath.Dir(home.Root)), pack, index)
	}
	opened.Named = run.Named(opened.Workdir)
	return opened, nil
}

func (stack Stack) list(cmd *cobra.Command, asJSON bool) error {
	NameUnsaid(cmd.ErrOrStderr())
	home, _, err := stack(cmd)
	if err != nil {
		return err
	}
	runs, err := workspace.List(home.WorkspacesDir())
	for _, r := range runs {
		if asJSON {
			if err := printJSON(cmd.OutOrStdout(), r); err != nil {
				return err
			}
			continue
		}
		state := ""
		if r.Running() {
			state = "  (it runs)"
		}
		visible.Printf(cmd.OutOrStdout(), "%s  %s  %s  %s  %s%s\n", r.ID, time.Unix(0, r.Started).Format(time.DateTime),
			r.Agent,
			visible.Text(r.Workdir), visible.Text(strings.Join(r.Command, " ")), state)
	}
	if err == nil && len(runs) == 0 && !asJSON {
		visible.Println(cmd.ErrOrStderr(), "no run has changes that were neither applied nor discarded")
	}
	return err
}

// printJSON prints the value on a line, in ASCII: an agent's names have characters that act on a
// terminal.
func printJSON(out io.Writer, value any) error { return visible.Encode(out, value, "") }

// printChanges prints a JSON object for each change. A path that is not UTF-8 is "bytes", in
// base64.
func printChanges(ctx context.Context, out io.Writer, run *workspace.Run, selected func(workspace.Change) bool) error {
	return run.Checked(ctx, selected, func(c workspace.Change) error {
		line := struct {
			workspace.Change
			Bytes []byte `json:"bytes,omitempty"`
		}{Change: c}
		if !utf8.ValidString(c.Path) {
			line.Bytes = []byte(c.Path)
		}
		return printJSON(out, line)
	})
}

func (stack Stack) apply(cmd *cobra.Command, id string, paths []string) error {
	NameUnsaid(cmd.ErrOrStderr())
	home, flags, err := stack(cmd)
	if err != nil {
		return err
	}
	run, err := open(home, id, true)
	if err != nil {
		return err
	}
	defer run.Close()
	// From now on there is in the folder what an agent wrote.
	base, err := hostpath.StateFolder()
	if err != nil {
		return err
	}
	if err := hostpath.In(base).Record(run.Workdir); err != nil {
		return err
	}
	before, err := findTools(run.Workdir)
	if err != nil {
		return err
	}
	result, err := run.Apply(cmd.Context(), workspace.Selected(paths), func(c workspace.Change) {
		visible.Printf(cmd.ErrOrStderr(), "not applied: %s: %s\n", visible.Quote(c.Path), c.Refused)
	})
	after, looked := findTools(run.Workdir)
	_, said := io.WriteString(cmd.ErrOrStderr(), strings.Join(changed(after.Since(before)), ""))
	err = errors.Join(err, looked, said)
	if result.Done > 0 {
		visible.Printf(cmd.OutOrStdout(), "applied %s to %s\n", plural(result.Done, "change", "changes"),
			visible.Text(run.Workdir))
	}
	if err != nil {
		return fmt.Errorf("%w: run this again to apply the rest", err)
	}
	if result.Refused > 0 {
		return RefusedError{fmt.Errorf("%s not applied: look with `postern%s workspace diff %s`, and remove the rest "+
			"with discard in place of diff",
			plural(result.Refused, "change was", "changes were"), flags, id)}
	}
	left, err := count(run)
	if err != nil {
		return err
	}
	switch {
	case left > 0 && result.Done == 0 && result.Never == 0:
		return fmt.Errorf("no change of %s is at the paths: look with `postern%s workspace diff %s`", id, flags, id)
	case left > 0:
		visible.Printf(cmd.OutOrStdout(), "%s left: postern%s workspace diff %s\n", plural(left, "change is",
			"changes are"), flags, id)
		return nil
	case result.Done == 0 && result.Never == 0:
		visible.Printf(cmd.OutOrStdout(), "%s has everything already\n", visible.Text(run.Workdir))
	}
	return run.Discard(cmd.Context())
}

// Begin says what the command runs in, and what it does not see. The returned function says what it
// wrote: see [Offer] and [SayTools].
func Begin(
	ctx context.Context, out io.Writer, stackFlags string, p *run.Prepared, quiet bool,
) (end func()) {
	if p.Isolation != "" && !quiet {
		visible.Println(out, "postern: the command runs under", p.Isolation)
	}
	if p.Git != "" && !quiet {
		visible.Println(out, "postern:", visible.Text(p.Git))
	}
	for _, on := range p.OnPath[:min(len(p.OnPath), maxShown)] {
		visible.Printf(out, "postern: %s leads to what the command writes: it runs when you type its name, or a "+
			"program looks there\n", visible.Text(on))
	}
	if p.Spec.VM != nil && !p.Spec.VM.KVM && !quiet {
		visible.Println(out, "postern: the virtual machine has no KVM, so it starts and works slowly; "+
			"what this machine has: postern doctor")
	}
	if p.Secrets != nil {
		SayHidden(out, p.Secrets, p.Leaked, cleanCommand(stackFlags, p.Spec.View.Agent, p.Spec.View.Workdir.Path))
	}
	switch {
	case p.Layer != nil:
		if !quiet {
			sayUnsaid(out, p.Unsaid, p.Layer.Workdir) //nolint:contextcheck // bounded by toolsPatience
		}
		return func() { Offer(context.WithoutCancel(ctx), out, stackFlags, p.Layer) }
	case p.Writes:
		hears := out
		if quiet {
			hears = nil
		}
		before, after := SayTools(hears, p.Unsaid, p.Spec.View.Workdir.Path)
		begin := p.Spec.Begin
		p.Spec.Begin = func() error {
			if err := before(); err != nil {
				return err
			}
			return begin()
		}
		return after
	case p.Spec.View.Workdir.Path != "" && !quiet:
		sayUnsaid(out, p.Unsaid, p.Spec.View.Workdir.Path) //nolint:contextcheck // bounded by toolsPatience
	}
	return func() {}
}

// count returns the number of the changes that can be applied, or are refused: see
// [workspace.Change.Never].
func count(run *workspace.Run) (n int, err error) {
	err = run.Changes(func(c workspace.Change) error {
		if !c.Never() {
			n++
		}
		return nil
	})
	return n, err
}

// Offer says at the end of a run what can be done with what the agent wrote. A layer without
// changes is removed. stackFlags name the stack.
func Offer(ctx context.Context, out io.Writer, stackFlags string, run *workspace.Run) {
	left, err := count(run)
	if err == nil && left == 0 {
		if err = run.Discard(ctx); err == nil {
			return
		}
	}
	if err != nil {
		visible.Printf(out, "postern: %s\n", visible.Text(err.Error()))
	}
	visible.Printf(out,
		"postern: %s is as it was, and %s apart: postern%s workspace diff %s "+
			"(then apply or discard in place of diff)\n",
		visible.Text(run.Workdir), plural(left, "change is kept", "changes are kept"), stackFlags, run.ID)
}

// toolsPatience bounds the look at the files that programs of the host run, before a command starts
// and after its end.
const toolsPatience = 10 * time.Second

// SayTools looks at the files in the folder that programs of the host run, meanwhile: before
// returns when that is done, or [toolsPatience] is over, and it is noted in the folder notes. after
// names those that are other ones by then: an agent may have written them. If after is not called,
// or nobody can read what it says, the note stays, and the next command here says it: see
// [sayUnsaid]. If other commands go on in the folder when this one starts, what was there before
// the first of them counts: see [begun.Running]. If out is nil, nobody wants to hear any of that,
// and after removes the note.
//
//nolint:contextcheck,nolintlint // the second look is after the command, whose context may have ended by then
func SayTools(out io.Writer, notes, folder string) (before func() error, after func()) {
	// Before the look: a command that has ended by now changes nothing any more.
	first, err := running(notes, folder)
	look := sync.OnceValues(func() (since.Tools, error) {
		if first != nil || err != nil {
			return first, err
		}
		own, err := findTools(folder)
		if first, again := running(notes, folder); first != nil || again != nil {
			return first, again // it began during the look
		}
		return own, err
	})
	go func() { _, _ = look() }()
	var note *begun.Note
	before = func() (err error) {
		were, _ := look() // after says the error
		if out != nil {
			sayUnsaid(out, notes, folder)
		}
		note, err = begun.Begin(notes, folder, were)
		return err
	}
	return before, func() {
		if out == nil {
			if note != nil {
				told(io.Discard, note, nil)
			}
			return
		}
		were, err := look()
		now, again := findTools(folder)
		lines := []string{}
		if err = errors.Join(err, again); err != nil {
			lines = append(lines, visible.Sprintf("postern: %s\n", err))
		} else {
			lines = changed(now.Since(were))
		}
		if _, unsaid := io.WriteString(out, strings.Join(lines, "")); note != nil {
			told(out, note, errors.Join(err, unsaid))
		}
	}
}

// running returns what was in the folder before the first of the commands that go on there, and nil
// if none does.
func running(notes, folder string) (since.Tools, error) {
	were := since.Tools{}
	found, err := begun.Running(notes, folder, &were)
	if !found {
		return nil, err
	}
	return were, nil
}

func findTools(folder string) (since.Tools, error) {
	ctx, cancel := context.WithTimeout(context.Background(), toolsPatience)
	defer cancel()
	return since.HostTools(ctx, folder, run.Named(folder)...)
}

// changed returns lines to print about what [since.Tools.Since] returned.
func changed(since []string) (lines []string) {
	for _, line := range since {
		lines = append(lines, visible.Sprintf("postern: look before you use it: %s\n", line))
	}
	return lines
}

// told removes a note, if err does not say that nobody was told.
func told(out io.Writer, note *begun.Note, err error) {
	if err != nil {
		note.Close()
	} else if err := note.Said(); err != nil {
		visible.Error(out, "postern:", err)
	}
}

// sayUnsaid says what earlier commands that could write the folder did not say at their end, as
// they were killed, or the machine was. It looks once: what is other than when the first of them
// began is what any of them wrote, or the person.
func sayUnsaid(out io.Writer, notes, folder string) {
	count := 0
	var failed error // why nobody was told
	err := begun.Unsaid(notes, func(note *begun.Note) {
		if !note.Of(folder) {
			note.Close()
			return
		}
		if count++; count == 1 {
			tidy(out, notes, folder)
			failed = sayOne(out, folder, note)
		}
		told(out, note, failed)
	})
	if err != nil {
		visible.Error(out, "postern:", err)
	}
	if later := count - 1; later > 0 && failed == nil {
		visible.Printf(out, "postern: %s killed there, too: what was written then is in these lines\n",
			plural(later, "later command was", "later commands were"))
	}
}

// sayOne says what is other than the note has it. The error says why nobody was told.
func sayOne(out io.Writer, folder string, note *begun.Note) error {
	lines := []string{visible.Sprintf("postern: %s was killed, and this is what it would have said:\n", ended(note))}
	var were since.Tools // what cannot be read was not there, and all is named
	if err := note.Were(&were); err != nil {
		visible.Error(out, "postern:", err)
	}
	now, err := findTools(folder)
	if err != nil {
		visible.Error(out, "postern:", err)
		return err
	}
	if since := now.Since(were); len(since) > 0 {
		lines = append(lines, changed(since)...)
	} else {
		lines = append(lines, "postern: nothing that a program here runs by itself has changed since it began\n")
	}
	_, err = io.WriteString(out, strings.Join(lines, ""))
	return err
}

// tidy removes what a killed command has left in the folder in the place of files that it was not
// to make: see [protect.Protect].
func tidy(out io.Writer, notes, folder string) {
	var failed error
	err := hostpath.In(filepath.Dir(notes)).Unused(folder, func() {
		var p *protect.Protection
		if p, failed = protect.Protect(folder, protect.WorkdirOf(folder)); failed == nil {
			p.Remove()
			p.Release()
		}
	})
	if err := errors.Join(err, failed); err != nil {
		visible.Error(out, "postern:", err)
	}
}

func ended(note *begun.Note) string {
	return fmt.Sprintf("the command that began in %s on %s", visible.Quote(note.Folder),
		note.At.Local().Format(time.DateTime))
}

// NameUnsaid names the folders in which commands were killed: nobody was told what they wrote.
func NameUnsaid(out io.Writer) {
	base, err := hostpath.StateFolder()
	if err != nil {
		visible.Error(out, "warning:", err)
		return
	}
	nameUnsaid(out, run.Unsaid(base))
}

func nameUnsaid(out io.Writer, notes string) {
	named := map[string]bool{}
	err := begun.Unsaid(notes, func(note *begun.Note) {
		defer note.Close()
		if !named[note.Folder] && note.Of(note.Folder) {
			named[note.Folder] = true
			visible.Printf(out, "warning: %s was killed: what it wrote that programs here run, says %s\n",
				ended(note), advice.Command("workspace", "scan", note.Folder))
		}
	})
	if err != nil {
		visible.Error(out, "warning:", err)
	}
}

// maxShown bounds the files that are named.
const maxShown = 5

// plural returns the number with the word for it.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
