// Package drive has the commands that drive the Pulumi engine: their words, flags and help. Both
// postern, which starts postern-stack, and postern-stack, which does the work, are made of them.
package drive

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
)

// Request is what a command line asks for.
type Request struct {
	// Stack is the name of a stack, and File the path of a stack file. At most one is set.
	Stack, File string
	JSON        bool
	Verbose     bool
	// Yes means that somebody has agreed beforehand.
	Yes bool
	// Audit removes the audit log, too.
	Audit bool
	// Offline asks nobody, not even the engine. Graph is the file for the plan's graph, or "": a
	// preview writes it, and the proof of what exists reads it.
	Offline bool
	Graph   string
	// State is a file with what Pulumi saved, or "" for the stack file.
	State string
	// Live proves what exists in the account: the networks of the stack, and those of VPCs.
	Live bool
	VPCs []string
	// SVG is the file for a picture, or "".
	SVG string
	// Sign keeps the proof next to the publication, and Verify reads it there.
	Sign, Verify bool
	SARIF        bool
	// NoChanges makes a refresh that finds a difference fail.
	NoChanges bool
	// Folder has policies of the operator's own, whose tests are run.
	Folder string
}

// Flags adds the flags of [Request] that every command has.
func Flags(root *cobra.Command) {
	root.PersistentFlags().StringP("stack", "s", "",
		"the stack: the name, without .yaml, of a file in stacks/ here or above, or in ~/.config/postern/stacks")
	root.PersistentFlags().String("file", "", "the stack file itself, instead of --stack")
	root.PersistentFlags().BoolP("verbose", "v", false, "show more, and say on standard error what is done")
}

// Commands returns the commands, which call do with their own name.
func Commands(do func(cmd *cobra.Command, r *Request) error) []*cobra.Command {
	up := command(&cobra.Command{
		Use:   "up [STACK] [--yes]",
		Short: "Bring the stack up, or repair it",
		Long: `Brings this machine, or the cloud, to what the stack file says, and repairs drift, with the Pulumi
engine. Changes of high risk for agents need an answer on the terminal, or --yes. A stack file that
an agent may write is only a proposal: it always needs an answer on a terminal.`,
		Example: `  postern up
  postern up work --yes
  postern up --file ~/app/stacks/local.yaml`,
	}, do)
	preview := command(&cobra.Command{
		Use:   "preview [STACK] [--offline]",
		Short: "Show what up would change, and change nothing",
		Long: `Shows what "postern up" would change. With --offline it asks nobody, not even the engine: it shows the
whole plan, its price, and what a cloud would refuse.`,
		Example: `  postern preview
  postern preview prod-aws --offline --graph plan.json`,
	}, do)
	refresh := command(&cobra.Command{
		Use: "refresh [STACK]", Short: "Show what has drifted, and record it for the next up",
		Long: `Compares what Pulumi made with what is there, and records the difference for the next "postern up".
With --expect-no-changes the exit status says whether there is one, for a check in CI.`,
		Example: "  postern refresh\n  postern refresh prod-aws --expect-no-changes",
	}, do)
	refresh.Flags().Bool("expect-no-changes", false, "fail if anything has drifted")
	down := command(&cobra.Command{
		Use:     "down [STACK]",
		Aliases: []string{"destroy"},
		Short:   "Stop and remove everything except the audit log",
		Long: `Stops the stack's processes, or removes its resources from the cloud, and removes its state. The stack
file stays, and so does the audit log.`,
		Example: "  postern down\n  postern down work --audit",
	}, do)
	prove := command(&cobra.Command{
		Use:   "prove [STACK] [--state FILE | --live]",
		Short: "Prove what agents can reach, before anything is created",
		Long: `Proves what each agent, the proxies and the control plane can reach in the network that the stack file
describes, and lists what the proxies let through. It asks nobody, and creates nothing. With --state
it proves what Pulumi has saved instead: a state, a preview, or a plan's graph. With --live it reads
what exists in the account, whoever made it, and proves that. It changes nothing there.

A proof needs "postern check" too: it says where packets go and who may read secrets. It does not see
what a machine runs, keys, logs, alarms, buckets, or policies of your own.`,
		Example: `  postern prove prod-aws --svg network.svg
  postern prove prod-aws --json | jq -r .result
  pulumi stack export --file state.json && postern prove --state state.json
  postern prove prod-aws --live
  postern prove --live --vpc vpc-0123456789abcdef0`,
	}, do)
	check := command(&cobra.Command{
		Use:   "check [STACK] [--state FILE]",
		Short: "Check what up would create, or a saved state, against the guardrails",
		Long: `Checks every resource that "postern up" would create, and asks nobody. With --state it checks what is
in a file: what "pulumi stack export" writes, or "pulumi preview --json --show-sames", or "postern preview
--offline --graph". The waivers are those of the stack file; with --state and no stack there are none, and
the guardrails are those for production.

A check needs "postern prove" too: it looks at one resource and its neighbours. It does not follow a
packet through several of them, and does not compute what a role may do in all.`,
		Example: `  postern check prod-aws
  postern check --state state.json --sarif > postern.sarif
  postern check prod-aws --state state.json`,
	}, do)
	test := command(&cobra.Command{
		Use:   "test [STACK] [--folder FOLDER]",
		Short: "Run the tests of your own policies",
		Long: `Runs the tests of the policies in CEL that the stack file names (guardrails: {policies: FOLDER}), or of a
folder. Each policy needs an example that holds, and one that fails.`,
		Example: `  postern policy test prod-aws
  postern policy test --folder policies`,
	}, do)
	policy := &cobra.Command{
		Use: "policy", Short: "Work with your own policies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	policy.PersistentFlags().String("folder", "", "the folder with the policies, instead of the stack file's")
	policy.AddCommand(test)
	check.Flags().String("state", "", "the file to check instead of the plan: a state, a preview, or a graph, as JSON")
	check.Flags().Bool("sarif", false, "print the findings as SARIF 2.1.0 and nothing else")
	up.Flags().BoolP("yes", "y", false, "do not ask about changes of high risk, or a stack file whose folder was "+
		"replaced; never for a file that an agent may have written")
	preview.Flags().Bool("offline", false, "ask nobody, not even the engine (with --json: print the plan's graph)")
	preview.Flags().String("graph", "", "with --offline: write the plan's graph to this file, as JSON")
	prove.Flags().String("state", "", "prove this `file`: of pulumi stack export, of pulumi preview --json "+
		"--show-sames, or the graph of a preview (- is standard input)")
	prove.Flags().Bool("live", false, "prove what exists in the account, whoever made it")
	prove.Flags().StringSlice("vpc", nil, "with --live: prove this network, too; without a stack, in the account "+
		"and the region of your AWS settings")
	prove.Flags().String("graph", "", "with --live: compare with this plan instead of the one that was brought up "+
		"last (postern preview STACK --offline --graph FILE)")
	prove.Flags().String("svg", "", "write a picture of the network to this file, with the cut drawn in")
	prove.Flags().Bool("sign", false, "if every assertion holds, sign the report with the operator's key, and keep it "+
		"next to the publication")
	prove.Flags().Bool("verify", false, "show the report next to the newest publication, if an operator signed it")
	down.Flags().Bool("audit", false, "remove the audit log too")
	return []*cobra.Command{up, preview, check, prove, policy, refresh, down}
}

func command(cmd *cobra.Command, do func(*cobra.Command, *Request) error) *cobra.Command {
	cmd.Args = cobra.MaximumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := request(cmd, args)
		if err != nil {
			return exit.BadUsage(err)
		}
		return do(cmd, r)
	}
	cmd.Flags().Bool("json", false, "print the summary as JSON and nothing else")
	return cmd
}

func request(cmd *cobra.Command, args []string) (*Request, error) {
	text := func(flag string) string {
		if f := cmd.Flag(flag); f != nil {
			return f.Value.String()
		}
		return ""
	}
	set := func(flag string) bool { return text(flag) == "true" }
	r := &Request{
		Stack: text("stack"), File: text("file"), JSON: set("json"), Verbose: set("verbose"),
		Yes: set("yes"), Audit: set("audit"), Offline: set("offline"), Graph: text("graph"),
		State: text("state"), SVG: text("svg"), Sign: set("sign"), Verify: set("verify"),
		Live:  set("live"),
		SARIF: set("sarif"), NoChanges: set("expect-no-changes"), Folder: text("folder"),
	}
	if cmd.Flag("vpc") != nil {
		r.VPCs, _ = cmd.Flags().GetStringSlice("vpc") // it is one
	}
	if len(args) == 1 {
		if r.Stack != "" {
			return nil, errors.New("the stack is named twice")
		}
		r.Stack = args[0]
	}
	switch {
	case r.Stack != "" && r.File != "":
		return nil, errors.New("name the stack or its file, not both")
	case (r.State != "" || r.Live) && (r.Sign || r.Verify):
		return nil, errors.New("a proof is signed for what a stack file says: leave --state and --live out")
	case r.State != "" && r.Live:
		return nil, errors.New("prove what is saved or what exists, not both")
	case len(r.VPCs) > 0 && !r.Live:
		return nil, errors.New("--vpc needs --live")
	case r.Verify && (r.Sign || r.SVG != ""):
		return nil, errors.New("--verify only reads: leave --sign and --svg out")
	case cmd.Name() == "prove" && r.State != "" && (r.Stack != "" || r.File != ""):
		return nil, errors.New("--state names all that is proved: leave the stack out")
	case r.Graph != "" && !r.Offline && !r.Live:
		return nil, errors.New("--graph needs --offline, or --live for a proof")
	case r.SARIF && r.JSON:
		return nil, errors.New("print JSON or SARIF, not both")
	}
	return r, nil
}
