package workspaces

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/visible"
)

// SayHidden says which files the command does not see, which ones it sees although they look like
// secrets, and what of the hidden ones the repository has.
// clean is the command that makes repositories without those.
func SayHidden(out io.Writer, found *workspace.Found, leaked []run.Leaked, clean string) {
	say(out, "hidden from the agent, because they look like secrets", found.Hidden)
	say(out, "shown to the agent, although they look like secrets", found.Shown)
	sayLeaked(out, leaked, clean)
}

// say names the first secrets of a list.
func say(out io.Writer, what string, all []workspace.Secret) {
	if len(all) == 0 {
		return
	}
	var shown []string
	for _, s := range all[:min(len(all), maxShown)] {
		text := visible.Quote(s.Path)
		if kind, ok := strings.CutPrefix(s.Why, "its content: "); ok {
			text += " (" + kind + ")"
		}
		if s.Reason != "" {
			text += " (" + visible.Text(s.Reason) + ")"
		}
		shown = append(shown, text)
	}
	visible.Printf(out, "postern: %s: %s%s\n", what, strings.Join(shown, ", "), more(len(all)-maxShown))
}

// sayLeaked says what each repository's objects have, and how to have a repository without that.
func sayLeaked(out io.Writer, all []run.Leaked, clean string) {
	for _, l := range all {
		sayOneLeaked(out, l, clean)
	}
}

func sayOneLeaked(out io.Writer, l run.Leaked, clean string) {
	if l.Unknown != nil {
		visible.Printf(out, "postern: %s: so an agent may find what is hidden in the repository's objects\n",
			visible.Text(l.Unknown.Error()))
	}
	if len(l.Paths) == 0 {
		return
	}
	var shown []string
	for _, at := range l.Paths[:min(len(l.Paths), maxShown)] {
		shown = append(shown, visible.Quote(at))
	}
	visible.Printf(out, "postern: an agent can read these in the objects of the repository %s, because they were "+
		"committed: %s%s; ", visible.Quote(l.Folder), strings.Join(shown, ", "), more(len(l.Paths)-maxShown))
	if visible.Text(clean) != clean {
		visible.Println(out, "give the folder another name first, without bytes that act on a terminal")
		return
	}
	visible.Printf(out, "for a repository without them, to use with --workdir %s:\n%s\n",
		visible.Text(advice.Path(l.Clean)), clean)
}

// cleanCommand returns the command that makes clean repositories of those in the folder.
func cleanCommand(stackFlags, agent, folder string) string {
	if agent != "" {
		agent = " --agent " + hostpath.Quote(agent)
	}
	return "postern" + stackFlags + " workspace scan" + agent + " --clean " + advice.Path(folder)
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// scan returns the command that lists what is hidden from agents.
func (stack Stack) scan() *cobra.Command {
	var asJSON, clean bool
	var agent string
	cmd := &cobra.Command{
		Use: "scan [DIR]", Short: "List the files in a folder that look like secrets",
		Long: `Lists the files that agents do not see in a folder with an overlay or read-only workspace, and why:
.env, credentials of clouds, registries and git, private keys and more, by their names, and files in
which there is a token or a key of a known form. With --agent, what the stack file hides and shows for
that agent counts too, as it is published.

If a command that could write the folder was killed, it first says what the command wrote that programs of
this machine run.

It says which of them the objects of the folder's git repositories have. With --clean it clones the last
commit of each such repository, without these files, to a new folder next to this one. It runs git
where it sees nothing but that repository.`,
		Example: "  postern workspace scan\n  postern workspace scan --json ~/project", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return stack.scanFolder(cmd, append(args, ".")[0], agent, asJSON, clean)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each file")
	cmd.Flags().BoolVar(&clean, "clean", false, "make repositories without these files")
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent whose workspace counts")
	return cmd
}

// scanFolder lists the files that are hidden from agents.
func (stack Stack) scanFolder(cmd *cobra.Command, dir, agent string, asJSON, clean bool) error {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return err
	}
	base, err := hostpath.StateFolder()
	if err != nil {
		return err
	}
	folders, err := hostpath.In(base).Folders()
	if err != nil {
		return err
	}
	sayUnsaid(cmd.ErrOrStderr(), run.Unsaid(base), real)
	w, err := stack.workspace(cmd, agent)
	if err != nil {
		return err
	}
	found, err := run.Search(base, w).Secrets(cmd.Context(), real)
	if err != nil {
		return err
	}
	leaked := run.Committed(cmd.Context(), folders, real, found)
	if err := printSecrets(cmd.OutOrStdout(), found, real, leaked, asJSON); err != nil {
		return err
	}
	if clean {
		return makeClean(cmd, hostpath.In(base), leaked, run.Search(base, w))
	}
	flags, err := stack.flags(cmd, agent)
	if err != nil {
		return err
	}
	sayLeaked(cmd.ErrOrStderr(), leaked, cleanCommand(flags, agent, real))
	if len(found.Hidden) > 0 && !asJSON {
		visible.Println(cmd.ErrOrStderr(),
			"note: with workspace write an agent can read these; with overlay and read-only it cannot")
	}
	return nil
}

// flags returns the flags that name the stack, if an agent is named.
func (stack Stack) flags(cmd *cobra.Command, agent string) (string, error) {
	if agent == "" {
		return "", nil
	}
	_, flags, err := stack(cmd)
	return flags, err
}

// makeClean makes a clean repository of each.
func makeClean(cmd *cobra.Command, registry hostpath.Registry, leaked []run.Leaked, search workspace.Search) error {
	var all error
	for _, l := range leaked {
		more, err := l.Clone(cmd.Context(), registry, search)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("clone %s: %w", visible.Quote(l.Folder), err))
			continue
		}
		for _, s := range more {
			visible.Printf(cmd.ErrOrStderr(), "the last commit had %s (%s), too\n", visible.Quote(s.Path),
				visible.Text(s.Why))
		}
		visible.Println(cmd.ErrOrStderr(), "made", visible.Quote(l.Clean))
	}
	return all
}

// workspace returns the workspace that is published for the agent, or the default.
func (stack Stack) workspace(cmd *cobra.Command, agent string) (plan.Workspace, error) {
	if agent == "" {
		return plan.Workspace{}, nil
	}
	home, _, err := stack(cmd)
	if err != nil {
		return plan.Workspace{}, err
	}
	live, _, err := publish.Operator(home, nil).Live(cmd.Context())
	if err != nil {
		return plan.Workspace{}, err
	}
	r := run.Request{Plan: live.Plan, File: home.File(), Home: home, Agent: agent}
	return r.Workspace()
}

func printSecrets(out io.Writer, found *workspace.Found, folder string, leaked []run.Leaked, asJSON bool) error {
	committed := map[string]bool{}
	for _, l := range leaked {
		for _, at := range l.Paths {
			if below, err := filepath.Rel(folder, filepath.Join(l.Folder, at)); err == nil {
				committed[below] = true
			}
		}
	}
	for _, s := range append(found.Hidden, found.Shown...) {
		if asJSON {
			line := struct {
				Path      string `json:"path"`
				Bytes     []byte `json:"bytes,omitempty"`
				Why       string `json:"why"`
				Hidden    bool   `json:"hidden"`
				Reason    string `json:"reason,omitempty"`
				Committed bool   `json:"committed"`
			}{Path: s.Path, Why: s.Why, Hidden: s.Reason == "", Reason: s.Reason, Committed: committed[s.Path]}
			if !utf8.ValidString(s.Path) {
				line.Bytes = []byte(s.Path)
			}
			if err := printJSON(out, line); err != nil {
				return err
			}
			continue
		}
		note := ""
		if s.Reason != "" {
			note = "; shown: " + visible.Text(s.Reason)
		}
		if committed[s.Path] {
			note += "; committed"
		}
		line := visible.Sprintf("%s  (%s%s)\n", visible.Quote(s.Path), s.Why, note)
		if _, err := io.WriteString(out, line); err != nil {
			return err
		}
	}
	return nil
}
