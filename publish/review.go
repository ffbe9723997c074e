package publish

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// UnseenError means that nothing was done, because a person must first see what the stack file
// says.
type UnseenError struct {
	// Why is a sentence without its final stop.
	Why string
	// Remedy is the command to run.
	Remedy string
}

// ExitStatus is [exit.Unseen].
func (*UnseenError) ExitStatus() int { return exit.Unseen }

func (e *UnseenError) Error() string {
	if e.Remedy == "" {
		return "nothing was done: " + e.Why
	}
	return "nothing was done: " + e.Why + ": " + e.Remedy
}

// Proposal returns the reason why a stack file is only a proposal, or nil. It is one if an agent
// may write, or may have written, the file, or a folder or link on the way to it.
func Proposal(f *stacks.File) (*hostpath.WritableError, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	named, err := filepath.Abs(f.Path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", f.Path, err)
	}
	for _, path := range []string{f.Real, named} {
		var writable *hostpath.WritableError
		if err := folders.Check(path); errors.As(err, &writable) {
			return writable, nil
		} else if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Announce names a stack file that no flag names, if it is not in the current folder, or an agent
// may have put it there: it may not be the one that was meant.
func Announce(w io.Writer, f *stacks.File) {
	found := f.Found
	if agents, err := Proposal(f); agents != nil && found == "" {
		found = "an agent may write it"
	} else if err != nil && found == "" {
		found = "an agent may write it, or not: " + visible.Text(err.Error())
	}
	if found != "" {
		visible.Printf(w, "stack file: %s (%s)\n", visible.Text(f.Real), found)
	}
}

// RefuseProposal returns an [*UnseenError] if the file is only a proposal. It is for differences
// that cannot be shown whole, for which an answer would be worth nothing.
func RefuseProposal(f *stacks.File) error {
	agents, err := Proposal(f)
	if agents == nil {
		return err
	}
	own, err := stacks.OwnFolder()
	if err != nil {
		return err
	}
	return &UnseenError{
		Why:    agents.Error() + ", and a difference does not show everything that it says about a cloud",
		Remedy: "keep it where no agent works: install -D -m 600 " + hostpath.Quote(f.Real) + " " + hostpath.Quote(filepath.Join(own, filepath.Base(f.Real))),
	}
}

// RefuseUnmeant returns an [*UnseenError] if it is not sure that a person means the file: it is
// only a proposal, or its folder is not the one from which the stack was brought up. It is for what
// is done once for a stack, and asks nothing. Claim the folder that it returns, and no other: see
// [home.Folder.Claim].
func RefuseUnmeant(f *stacks.File) (home.Folder, error) {
	if err := RefuseProposal(f); err != nil {
		return home.Folder{}, err
	}
	folder, err := f.Home()
	if err != nil && !errors.Is(err, home.ErrUnclaimed) {
		return folder, err
	}
	replaced, err := folder.Replaced(f.Owner())
	if errors.Is(err, fs.ErrNotExist) {
		return folder, nil // a folder that says nothing belongs to no other file
	}
	if err != nil {
		return folder, &UnseenError{Why: err.Error(), Remedy: "look at it, and bring it up: " + f.Command("up")}
	}
	if !replaced {
		return folder, nil
	}
	return folder, &UnseenError{Why: replacedText(f), Remedy: "look at it, and bring it up: " + f.Command("up")}
}

func replacedText(f *stacks.File) string {
	return fmt.Sprintf("the folder of %s is not the one from which the stack was brought up", f.Path)
}

// Review asks whether a difference may be published.
type Review struct {
	// File is the file that is published. It is nil for a publication that an operator has already
	// signed.
	File *stacks.File
	Home home.Folder
	// Changes and More are the whole difference. More has lines about what is not in a plan.
	Changes []plan.Change
	More    []string
	// Careful asks about changes of high risk, whoever wrote the file.
	Careful bool
	// Yes means that somebody has agreed beforehand.
	Yes bool
	// Learned means that an agent's command asked for the changes: only an answer on a terminal counts.
	Learned bool
	// Command is the command to run on a terminal.
	Command string

	In       *os.File
	Out, Err io.Writer

	shown bool
}

// Print prints the difference, the riskiest change first.
func (r *Review) Print(w io.Writer) {
	r.shown = true
	advice.Settle(w)
	if len(r.Changes) > 0 || len(r.More) == 0 {
		PrintChanges(w, r.Changes)
	}
	for _, line := range r.More {
		visible.Println(w, visible.Text(line))
	}
}

// PrintChanges prints a line for each change. Text that an agent may have written cannot control a
// terminal or hide there.
func PrintChanges(w io.Writer, changes []plan.Change) {
	advice.Settle(w)
	if len(changes) == 0 {
		visible.Println(w, "nothing changes for any agent")
	}
	for _, c := range changes {
		visible.Println(w, visible.Text(c.Line()))
	}
}

// Ask returns nil if the difference may be published. An empty difference always may. If a person
// must see the difference and Print has not shown it yet, Ask shows it. A file that is only a
// proposal, and changes that were learned, need an answer on a terminal. So do, unless Yes is set, a file whose folder was
// replaced, and, if Careful is set, changes of high risk. Without that answer the error is an
// [*UnseenError].
func (r *Review) Ask(ctx context.Context) error {
	if len(r.Changes)+len(r.More) == 0 {
		return nil
	}
	var agents *hostpath.WritableError
	replaced := false
	if r.File != nil {
		var err error
		if agents, err = Proposal(r.File); err != nil {
			return err
		}
		if replaced, err = r.Home.Replaced(r.File.Owner()); err != nil && !errors.Is(err, home.ErrUnclaimed) {
			return err
		}
	}
	high := 0
	for _, c := range r.Changes {
		if c.Risk == plan.RiskHigh {
			high++
		}
	}
	var why string
	switch {
	case agents != nil:
		why = agents.Error() + ", so it is only a proposal"
	case r.Learned:
		why = "the agent's command asked for this, and may have asked for more than it needs"
	case replaced:
		why = replacedText(r.File)
	case r.Careful && high == 1:
		why = "a change has a high risk"
	case r.Careful && high > 1:
		why = fmt.Sprintf("%d changes have a high risk", high)
	default:
		return nil
	}
	onlyThere := agents != nil || r.Learned
	if r.Yes && !onlyThere {
		return nil
	}
	why = visible.Text(why) // an agent may have named a folder
	if !r.shown {
		r.Print(r.Out)
	}
	on, ok := r.terminal()
	switch {
	case ok:
	case onlyThere && r.Yes:
		return &UnseenError{Why: why + ", for which --yes does not count", Remedy: "look at the difference, and run this on a terminal: " + r.Command}
	case onlyThere:
		return &UnseenError{Why: why, Remedy: "look at the difference, and run this on a terminal: " + r.Command}
	default:
		return &UnseenError{Why: why, Remedy: "look at the difference, and run this: " + r.Command + " --yes"}
	}
	return confirm(ctx, r.In, on, fmt.Sprintf("%s.\n%s. Publish %s?", why, r.count(), r.named()))
}

// Confirm asks a person on a terminal. The last line of the question names what is decided. Confirm
// returns nil if the answer is yes and the number that it shows. If the answer is anything else, or
// nobody is there to answer, it returns an [*UnseenError] that names command as what to run on a
// terminal.
func Confirm(ctx context.Context, in *os.File, on io.Writer, question, command string) error {
	if !isTerminal(in) || !isTerminal(on) {
		return &UnseenError{Why: "a person must decide this", Remedy: "run this on a terminal: " + command}
	}
	return confirm(ctx, in, on, question)
}

func confirm(ctx context.Context, in *os.File, on io.Writer, question string) error {
	// Discards what was typed before the question.
	if err := unix.IoctlSetInt(int(in.Fd()), unix.TCFLSH, unix.TCIFLUSH); err != nil {
		return fmt.Errorf("ask on the terminal: %w", err)
	}
	// An agent that still runs may write to the same terminal, and ask another question there. It does
	// not know the number, so that a yes to its question is not one to ours. It can draw over ours.
	number, err := rand.Int(rand.Reader, big.NewInt(9000))
	if err != nil {
		return fmt.Errorf("ask on the terminal: %w", err)
	}
	wanted := fmt.Sprintf("yes %d", number.Int64()+1000)
	advice.Settle(on)
	_, _ = io.WriteString(on, visible.Lines(question)+" Type "+wanted+": ") // a question has several lines
	answer, err := readAnswer(ctx, in)
	if err != nil {
		return err
	}
	if answer != wanted {
		return &UnseenError{Why: "the answer was not yes and the number"}
	}
	return nil
}

// count prints the number of changes: one of high risk may have scrolled away.
func (r *Review) count() string {
	var parts []string
	for _, risk := range []plan.Risk{plan.RiskHigh, plan.RiskMedium, plan.RiskLow} {
		n := len(slices.DeleteFunc(slices.Clone(r.Changes), func(c plan.Change) bool { return c.Risk != risk }))
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d of %s risk", n, risk))
		}
	}
	if len(r.More) > 0 {
		parts = append(parts, fmt.Sprintf("%d besides", len(r.More)))
	}
	return fmt.Sprintf("%d changes: %s", len(r.Changes)+len(r.More), strings.Join(parts, ", "))
}

// named names the riskiest changes, so that the question's own line says what is decided.
func (r *Review) named() string {
	var names []string
	for _, c := range r.Changes {
		names = append(names, c.String())
	}
	names = append(names, r.More...)
	more := ""
	if n := len(names) - 3; n > 0 {
		more = fmt.Sprintf("; and %d more", n)
		names = names[:3]
	}
	for i, name := range names {
		if name = visible.Text(name); len(name) > 300 { // a host's name has 253
			name = strings.ToValidUTF8(name[:300], "") + "..."
		}
		names[i] = name
	}
	return strings.Join(names, "; ") + more
}

// terminal returns the terminal for the question, if somebody is there who has seen the difference.
// If Out is not a terminal, terminal shows the difference again.
func (r *Review) terminal() (io.Writer, bool) {
	if r.In == nil || !isTerminal(r.In) || !isTerminal(r.Err) {
		return nil, false
	}
	if !isTerminal(r.Out) {
		r.Print(r.Err)
	}
	return r.Err, true
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// readAnswer reads a line, or less if ctx or the input ends first.
func readAnswer(ctx context.Context, in *os.File) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		read <- answer{line, err}
	}()
	select {
	case a := <-read:
		if errors.Is(a.err, io.EOF) {
			a.err = nil
		}
		return strings.TrimSpace(a.line), a.err
	case <-ctx.Done():
		return "", fmt.Errorf("nothing was done: %w", ctx.Err())
	}
}

// OtherChangesError means that the stack file has changes that are not live, which a command that
// edits it would publish as well.
type OtherChangesError struct {
	File  string
	Count int
	// Push is the command that publishes them.
	Push string
}

// ExitStatus is [exit.OtherChanges].
func (*OtherChangesError) ExitStatus() int { return exit.OtherChanges }

func (e *OtherChangesError) Error() string {
	return fmt.Sprintf("nothing was changed: %s has %d other changes that are not live: publish them first with `%s`, "+
		"or add --with-other-changes", e.File, e.Count, e.Push)
}
