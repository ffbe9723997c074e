package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/cut"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newKillCmd() *cobra.Command {
	return killCmd(&cobra.Command{
		Use:   "kill --agent A | --stack | --all",
		Short: "Stop agents at once, and cut their open connections",
		Long: `Stops agents at once, on every node: their open connections are cut, and every request is denied. A
kill lasts until "postern unkill", through restarts and later publications. It needs no valid stack
file, and never ends by itself: if one node does not confirm it, the other nodes keep it.

The kill is recorded in the bundle store, and the control plane is told in any case. A full store, a
control plane that hangs or is gone, and another operator's lock cost at most a few seconds each. If a
node on this machine does not confirm, the agents' sockets are taken away and their connections are
shut down from outside.

--stack without a name stops every agent of the default stack; with a name, every agent of that
stack. Together with --agent it only names the stack of the agent. If no stack file of a running
stack is found and no stack is named, every stack of this user is meant: an agent may have put a file
in the way. A kill that finds no stack fails.`,
		Example: `  postern kill --agent coder
  postern kill --agent coder --stack dev
  postern kill --stack         # every agent of the stack
  postern kill --stack dev     # every agent of the stack dev
  postern kill --all           # every agent of every stack of this user on this machine`,
	}, (*bundle.Operator).Kill, cut.Agents, "everyone", "killed")
}

func newUnkillCmd() *cobra.Command {
	return killCmd(&cobra.Command{
		Use:   "unkill --agent A | --stack | --all",
		Short: "Let killed agents work again",
		Example: `  postern unkill --agent coder
  postern unkill --stack       # what --stack killed; agents killed by name stay so`,
	}, (*bundle.Operator).Unkill, cut.Mend, "everyone who was not killed by name", "no longer killed")
}

// byHand does what is left to do on this machine about agents, or with none about all, after
// a command whose outcome was out and err. It reports whether that is all that was asked.
type byHand func(
	ctx context.Context, w io.Writer, home home.Folder, agents []string, out *bundle.Outcome, err error,
) (enough bool, failed error)

func killCmd(
	cmd *cobra.Command, do func(*bundle.Operator, context.Context, bundle.Killed) (*bundle.Outcome, error),
	hand byHand, everybody, what string,
) *cobra.Command {
	var agents []string
	var all bool
	cmd.Args = cobra.MaximumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// The flag may have no value here, so a name after it is an argument.
		stack := cmd.Flag("stack")
		if len(args) == 1 {
			if !stack.Changed || stack.Value.String() != stack.NoOptDefVal {
				return exit.BadUsage(fmt.Errorf("%q is not a flag; if it is an agent: %s; if it is a stack: %s",
					args[0], advice.Command(cmd.Name(), "--agent", args[0]), advice.Command(cmd.Name(), "--stack", args[0])))
			}
			if err := stack.Value.Set(args[0]); err != nil {
				return exit.BadUsage(err)
			}
		}
		if len(agents) == 0 && !stack.Changed && !all {
			return exit.BadUsage(errors.New("say whom: --agent A, every one of the --stack, or --all stacks"))
		}
		if path := stack.Value.String(); path == stack.NoOptDefVal && strings.Contains(path, "/") {
			if err := stack.Value.Set(""); err != nil { // the variable's file decides
				return err
			}
		}
		homes, err := killed(cmd, all)
		if err != nil {
			return err
		}
		everyone := all || len(agents) == 0
		if everyone {
			agents = nil
		}
		find := operator
		if cmd.Name() == "kill" {
			find = killer
		}
		var failed, unknown error
		nowhere := slices.Clone(agents)
		for _, h := range homes {
			o, err := find(cmd.Context(), cmd.ErrOrStderr(), h)
			var out *bundle.Outcome
			by, no, name := agents, (*bundle.UnknownAgentError)(nil), filepath.Base(h.Root)
			if err == nil {
				out, err = do(o, cmd.Context(), bundle.Killed{Agents: by, Stack: everyone})
			}
			if errors.As(err, &no) { // others may be another stack's
				unknown = errors.Join(unknown, fmt.Errorf("%s: %w", name, err))
				by = slices.DeleteFunc(slices.Clone(by), func(a string) bool { return !slices.Contains(no.Known, a) })
				if len(by) == 0 || len(homes) == 1 {
					continue
				}
				out, err = do(o, cmd.Context(), bundle.Killed{Agents: by})
			}
			enough, byHandErr := hand(cmd.Context(), cmd.OutOrStdout(), h, by, out, err)
			nowhere = slices.DeleteFunc(nowhere, func(a string) bool { return slices.Contains(by, a) })
			switch {
			case enough:
				err = nil
			case out == nil:
				err = fmt.Errorf("%s: %w", name, err)
			default:
				err = imposed(cmd.OutOrStdout(), h, cmp.Or(strings.Join(by, ", "), everybody)+" "+what, out, err)
			}
			failed = errors.Join(failed, err, byHandErr)
		}
		if len(nowhere) > 0 {
			failed = errors.Join(failed, unknown)
		}
		return failed
	}
	cmd.Flags().StringSliceVarP(&agents, "agent", "a", nil, "these agents")
	// Replaces the global flag, which needs a value.
	cmd.Flags().StringP("stack", "s", "", "every agent of the stack; together with --agent, the agent's stack")
	cmd.Flags().Lookup("stack").NoOptDefVal = cmp.Or(os.Getenv(stacks.StackVariable), stacks.Usual)
	cmd.Flags().BoolVar(&all, "all", false, "every agent of every stack of this user on this machine")
	return cmd
}

// meant returns the path of the stack file that is named, or "", and the name of the stack.
func meant(cmd *cobra.Command) (file, name string) {
	file, name = cmd.Flag("file").Value.String(), cmd.Flag("stack").Value.String()
	if file == "" {
		name = cmp.Or(name, os.Getenv(stacks.StackVariable), stacks.Usual)
		if !strings.Contains(name, "/") {
			return "", name
		}
		file = name
	}
	base := filepath.Base(file)
	return file, strings.TrimSuffix(base, filepath.Ext(base))
}

// killed returns the state folders of the stacks to stop, at least one. A stack file is not needed:
// an agent may have removed it, or put something in its place, such as a link to another stack's.
// If a file is named, the stack that was brought up from that path is meant. Else every stack of
// that name is stopped, and without a name every stack; none works again.
func killed(cmd *cobra.Command, all bool) ([]home.Folder, error) {
	if all {
		return cut.Whom("", true, nil)
	}
	_, found, why := openHome(cmd)
	if errors.Is(why, home.ErrUnclaimed) {
		visible.Error(cmd.ErrOrStderr(), "warning:", why)
		why = nil
	}
	mend := cmd.Name() != "kill"
	if why == nil {
		if _, failed := os.Stat(found.Root); failed == nil || mend || cmd.Flag("file").Changed {
			return []home.Folder{found}, nil
		}
		why = errors.New("the stack of the stack file here is not up")
	}
	if exit.Status(why) == exit.Usage {
		return nil, why
	}
	file, name := meant(cmd)
	homes, err := broughtUpFrom(file)
	if err != nil || len(homes) == 0 && mend {
		return nil, errors.Join(why, err)
	}
	if len(homes) == 0 {
		homes, err = cut.Whom(name, file == "" && name == stacks.Usual, why) // nobody has to name that one
	}
	for _, h := range homes {
		visible.Printf(cmd.ErrOrStderr(), "%s: this is about the stack in %s\n", why, h.Root)
	}
	return homes, err
}

// broughtUpFrom returns the state folders whose record names the file, or none for "".
func broughtUpFrom(file string) ([]home.Folder, error) {
	if file == "" {
		return nil, nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	homes, err := home.All("")
	return slices.DeleteFunc(homes, func(h home.Folder) bool { return h.File() != abs }), err
}
