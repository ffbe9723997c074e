package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/setup"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newInitCmd() *cobra.Command {
	a := &setup.Answers{}
	var yes bool
	cmd := &cobra.Command{
		Use:   "init [--program NAME] [--secret WHERE] [--project | --mine] [--yes]",
		Short: "Write a stack file from three answers, bring it up, and show it work",
		Long: `Asks which program works as the agent, where its key is, and where to keep the stack file: in
~/.config/postern/stacks, or in stacks/ of the project in the current folder. Writes the file, brings
the stack up, and shows a request that is refused.

Once an agent works in the project, the project's stack file is only a proposal: a person on a terminal
decides on each change of it. --yes takes the usual answers, and publishes without asking.`,
		Example: `  postern init
  postern init --program claude --secret ANTHROPIC_API_KEY --mine --yes
  postern init --program codex --project`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var in io.Reader
			if !yes {
				if !term.IsTerminal(int(os.Stdin.Fd())) {
					return exit.BadUsage(errors.New("nobody is there to answer: run this on a terminal, or with --yes"))
				}
				in = os.Stdin
			}
			placed := cmd.Flags().Changed("project") || cmd.Flags().Changed("mine")
			if a.Stack = cmd.Flag("stack").Value.String(); a.Stack == "" {
				a.Stack = stacks.Usual
			}
			if err := a.Ask(in, cmd.ErrOrStderr(), placed); err != nil {
				return exit.BadUsage(err)
			}
			path, err := a.Write()
			if err != nil {
				return err
			}
			visible.Printf(cmd.OutOrStdout(), "wrote %s\n", advice.Path(path))
			file, err := stacks.Open(path)
			if err != nil {
				return err
			}
			if err := setup.BringUp(cmd.Context(), file, yes); err != nil {
				return err
			}
			home, err := file.Home()
			if err != nil {
				return err
			}
			return setup.Show(cmd.Context(), cmd.OutOrStdout(), file, a, lacking(cmd.Context(), home))
		},
	}
	cmd.Flags().StringVar(&a.Program, "program", "", "the program that works as the agent: "+strings.Join(setup.Programs(), ", "))
	cmd.Flags().StringVar(&a.Secret, "secret", "", "where its key is: an environment variable, or a reference such as file:///PATH")
	cmd.Flags().StringVarP(&a.Agent, "agent", "a", "coder", "the agent's name")
	cmd.Flags().BoolVar(&a.Project, "project", false, "keep the stack file in stacks/ of the project in the current folder")
	cmd.Flags().Bool("mine", false, "keep it in ~/.config/postern/stacks")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "take the usual answers, and publish without asking")
	cmd.MarkFlagsMutuallyExclusive("project", "mine")
	return cmd
}
