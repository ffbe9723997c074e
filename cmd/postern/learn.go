package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/denials"
	"github.com/postern/postern/home"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/edit"
	"github.com/postern/postern/visible"
)

// newLearnCmd runs a command, and offers to allow what was refused to it.
func newLearnCmd() *cobra.Command {
	f := running{learn: true}
	cmd := &cobra.Command{
		Use:   "learn [--agent NAME] [--workdir DIR] [--overlay] -- COMMAND [ARG]...",
		Short: "Run a command, and offer to allow what was refused to it",
		Long: `Runs a command as "postern run" does, which has the same flags. Nothing more than before is allowed
while the command runs. Then it shows what would have to be allowed, with the risk of each change, and
asks on a terminal. It publishes nothing without that answer: what the command asked for is the
agent's choice.

Of a host that is not allowed at all, a proxy sees no more than the name, so reading there is offered.
Run it again until nothing is refused: then methods and paths are seen.

It is for stacks of this machine, and not for production: see guardrails in the stack file.`,
		Example: `  postern learn -- npm test
  postern learn --overlay -- claude -p 'run the tests'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := f.run(cmd, args); err != nil || f.ended.Agent == "" { // or only printed
				return err
			}
			return f.offer(cmd)
		},
	}
	f.flags(cmd)
	return cmd
}

// learnable returns an error for a stack that nobody should try things out with.
func learnable(file *stacks.File, home home.Folder) error {
	stack, err := file.Load()
	if err == nil && (stack.Guardrails.Production || publish.Elsewhere(home)) {
		err = fmt.Errorf("learn is for trying things out, and stack %s is for production, or not on this machine: "+
			"learn with another stack, and have what it allows reviewed", stack.Name)
	}
	return err
}

// offer shows what would allow what was refused, and publishes it if a person agrees.
func (f *running) offer(cmd *cobra.Command) error {
	wants, others := denials.Wanted(f.ended.Read(cmd.Context(), auditPatience))
	var requests []edit.AllowRequest
	for _, w := range wants {
		r := edit.AllowRequest{
			Agent: f.agent, Hosts: []stacks.HostPort{{Host: w.Host, Port: w.Port}}, Methods: w.Methods, Paths: w.Paths,
		}
		if _, err := edit.Allow(f.file, r); err != nil {
			visible.Printf(os.Stderr, "postern: not offered: %s\n", visible.Text(err.Error()))
			continue
		}
		requests = append(requests, r)
	}
	f.ended.Explain(os.Stderr, others)
	if len(requests) == 0 {
		visible.Println(cmd.OutOrStdout(), "nothing was refused that could be allowed")
		return nil
	}
	edited, err := edit.Allow(f.file, requests...)
	if err != nil {
		return err
	}
	return (&editFlags{learned: true}).apply(cmd, edited)
}
