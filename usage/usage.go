// Package usage makes every command line that is not valid an error with [exit.Usage], and says
// what was probably meant.
package usage

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
)

// Errors makes wrong flags and arguments of root, and of the commands below it, errors with
// [exit.Usage]. Call it when root has all its commands.
func Errors(root *cobra.Command) {
	root.SetFlagErrorFunc(wrong)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	check(root)
}

func wrong(cmd *cobra.Command, err error) error {
	return exit.BadUsage(fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help"))
}

// check does for cmd, and for the commands below it, what [Errors] says.
func check(cmd *cobra.Command) {
	given := cmd.Args
	switch {
	case cmd.HasSubCommands() && cmd.RunE == nil:
		given = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	case cmd.HasParent() && !cmd.Parent().HasParent() && cmd.Name() == "help":
		given = isCommand
	case given == nil:
		given = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := given(cmd, args)
		if err != nil && cmd.HasSubCommands() {
			err = unknown(cmd, args[0])
		}
		if err == nil { // cobra looks at these later, and gives them no status
			err = cmd.ValidateRequiredFlags()
		}
		if err == nil {
			err = cmd.ValidateFlagGroups()
		}
		if err != nil {
			return wrong(cmd, err)
		}
		return nil
	}
	for _, c := range cmd.Commands() {
		check(c)
	}
}

// isCommand requires that args are the path of a command.
func isCommand(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err == nil && len(rest) > 0 {
		err = unknown(found, rest[0])
	}
	return err
}

func unknown(cmd *cobra.Command, word string) error {
	meant := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		meant = ": did you mean " + near[0] + "?"
	}
	return fmt.Errorf("unknown command %q for %q%s", word, cmd.CommandPath(), meant)
}
