package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/checkout"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// UpPatience bounds the time in which a stack comes up.
const UpPatience = 5 * time.Minute

// Unchanged returns an error if more than what is live, and was up before, would come up with the
// stopped stack of this machine.
func Unchanged(file *stacks.File, home home.Folder, live *plan.Plan) error {
	stack, err := file.Load()
	if err != nil {
		return err
	}
	path := visible.Text(file.Real)
	if stack.Target != stacks.TargetLocal || len(plan.Diff(live, stack.Plan)) > 0 {
		return fmt.Errorf("stack %s is stopped, and %s has changes that are not published: see `%s`, and bring the "+
			"stack up with `%s`", file.Name(), path, file.Command("diff"), file.Command("up"))
	}
	nodes, err := os.ReadDir(home.NodesDir()) // they stay while a stack is stopped
	if err != nil || len(nodes) != stack.Nodes {
		return errors.Join(err, fmt.Errorf("stack %s is stopped, and %s has %d proxies, was %d: bring the stack up "+
			"with `%s`", file.Name(), path, stack.Nodes, len(nodes), file.Command("up")))
	}
	return nil
}

// BringUp runs `postern up` for the file. What that says goes to standard error: standard output is
// the agent's.
func BringUp(ctx context.Context, file *stacks.File, yes bool) error {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	program, err := checkout.Stack("local").Find(ctx, folders, os.Stderr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, UpPatience)
	defer cancel()
	args := []string{"up", "--file", file.Real}
	if yes {
		args = append(args, "--yes")
	}
	up := exec.CommandContext(ctx, program, args...)
	up.Stdin, up.Stdout, up.Stderr = os.Stdin, os.Stderr, os.Stderr
	up.Cancel = func() error { return up.Process.Signal(os.Interrupt) }
	up.WaitDelay = 30 * time.Second // it undoes half-done work
	err = up.Run()
	if err == nil {
		return nil
	}
	status := exit.Failed
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.ExitCode() == exit.Unseen {
		status = exit.Unseen
	}
	return exit.With(status, fmt.Errorf("bring the stack up: %w: see above, or run `%s`", err, file.Command("up")))
}

// Show runs a request as the agent that no policy of [Answers] allows, and says what is next. lacks
// says which credentials have no value, and what to do. Show fails if the request is not refused.
func Show(ctx context.Context, w io.Writer, file *stacks.File, a *Answers, lacks []string) error {
	dir, err := os.MkdirTemp("", "postern-try-")
	if err != nil {
		return fmt.Errorf("make a folder to try it in: %w", err)
	}
	defer os.RemoveAll(dir)
	self, err := hostpath.Beside("postern")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nIn the sandbox:\n$ curl https://example.com/\n")
	try := exec.CommandContext(ctx, self, "run", "--file", file.Real, "--agent", a.Agent,
		"--workdir", dir, "--", "curl", "--silent", "--show-error", "https://example.com/")
	try.Dir, try.Stdout, try.Stderr = dir, w, w
	failed := (*exec.ExitError)(nil)
	if !errors.As(try.Run(), &failed) || failed.ExitCode() >= exit.Sandbox {
		return fmt.Errorf("the request should have been refused by the policy, and was not: see `%s`",
			file.Command("status"))
	}
	// No agent has worked there.
	registry, err := hostpath.StateFolder()
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), hostpath.In(registry).Forget(dir)); err != nil {
		return err
	}
	a.next(w, file, lacks)
	return nil
}

// next says what is next.
func (a *Answers) next(w io.Writer, file *stacks.File, lacks []string) {
	program, works := a.Program, "It works"
	if program == Other {
		program = "bash"
	}
	if len(lacks) > 0 {
		works = "The sandbox works"
	}
	fmt.Fprintf(w, "\n%s: only what %s allows gets out. ", works, advice.Path(file.Real))
	if len(lacks) > 0 {
		fmt.Fprintf(w, "But %s has no key, and cannot work yet:\n", program)
		for _, lack := range lacks {
			fmt.Fprintf(w, "  %s\n", lack)
		}
	}
	fmt.Fprintf(w, "Next, in the folder of your project:\n  %s run -- %s\n", advice.Postern(), program)
}
