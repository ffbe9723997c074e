package main

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/visible"
)

func newHistoryCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show what was published, by whom and when, the newest first",
		Example: `  postern history
  postern rollback 3f2a9c1e5b7d8046`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, history, err := readHistory(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				for _, b := range history {
					if b.Broken() != nil {
						continue
					}
					if err := visible.Encode(cmd.OutOrStdout(), b, ""); err != nil {
						return err
					}
				}
				return nil
			}
			view, err := o.Look(cmd.Context())
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			visible.Printf(t, "NO.\tVERSION\tTIME\tBY\tWHAT CHANGED\n")
			for i, b := range history {
				if err := b.Broken(); err != nil {
					visible.Printf(t, "%d\t-\t-\t-\t%v\n", b.Seq, err)
					continue
				}
				version, err := b.Plan.Version()
				if err != nil {
					return err
				}
				before := &bundle.Bundle{Plan: &plan.Plan{}}
				if i+1 < len(history) {
					before = history[i+1]
				}
				what := whatChanged(before, b)
				if b.Note != "" {
					what = b.Note
				}
				if !view.Marked(b.Seq) {
					what = "was not live: " + what
				}
				visible.Printf(t, "%d\t%s\t%s\t%s\t%s\n",
					b.Seq, version, b.Time.Local().Format(time.DateTime), b.By, what)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything, one JSON object per line")
	return cmd
}

// whatChanged says in a few words what b did.
func whatChanged(before, b *bundle.Bundle) string {
	if before.Killed.Stack != b.Killed.Stack || len(before.Killed.Agents) != len(b.Killed.Agents) {
		return "kill switch"
	}
	if !maps.Equal(before.Evicted, b.Evicted) {
		return "evicted nodes"
	}
	switch changes := plan.Diff(before.Plan, b.Plan); len(changes) {
	case 0:
		return "nothing"
	case 1:
		return changes[0].String()
	default:
		return fmt.Sprintf("%s, and %d more", changes[0], len(changes)-1)
	}
}

func newRollbackCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rollback [VERSION|NUMBER]",
		Short: "Publish an earlier version again: the version before, or the named one",
		Long: `Publishes the plan of an earlier version again: the version that was live before, or the named one.
Versions that were refused or taken back count only if they are named. The stack file does not change.
Correct it before the next "postern push" or "up", which would publish its content again.`,
		Example: `  postern rollback
  postern rollback 3f2a9c1e5b7d8046
  postern rollback 12`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, history, err := readHistory(cmd)
			if err != nil {
				return err
			}
			live, err := readLive(cmd, o)
			if err != nil {
				return err
			}
			var wanted *bundle.Bundle
			if len(args) == 1 {
				wanted, err = named(history[1:], args[0])
			} else if version, failed := live.Plan.Version(); failed != nil {
				err = failed
			} else {
				wanted, err = o.Earlier(cmd.Context(), history, version)
			}
			if errors.Is(err, bundle.ErrNone) {
				return fmt.Errorf("there is no such earlier version; `postern history` lists them")
			}
			if err != nil {
				return err
			}
			_, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			r := review(cmd, nil, home, plan.Diff(live.Plan, wanted.Plan), yes)
			r.Print(cmd.OutOrStdout())
			if err := r.Ask(cmd.Context()); err != nil {
				return err
			}
			if err := publishPlan(cmd.Context(), cmd.OutOrStdout(), o, home, wanted.Plan); err != nil {
				return err
			}
			visible.Println(cmd.ErrOrStderr(), "The stack file is as it was. Correct it before the next `postern push` or `up`,"+
				" which would publish its content again.")
			return nil
		},
	}
	addYes(cmd, &yes)
	return cmd
}

// named returns the newest publication of a version, or the publication with a number, or
// [bundle.ErrNone]. A version is longer than any number.
func named(history []*bundle.Bundle, name string) (*bundle.Bundle, error) {
	for _, b := range history {
		if b.Broken() != nil {
			continue
		}
		v, err := b.Version()
		if err != nil || v == name || strconv.FormatUint(b.Seq, 10) == name {
			return b, err
		}
	}
	return nil, bundle.ErrNone
}

// readHistory needs no valid stack file: a broken one may be the reason to roll back.
func readHistory(cmd *cobra.Command) (*bundle.Operator, []*bundle.Bundle, error) {
	_, home, err := openHome(cmd)
	if err != nil {
		return nil, nil, err
	}
	o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
	if err != nil {
		return nil, nil, err
	}
	history, err := o.History(cmd.Context())
	if err == nil && len(history) == 0 {
		err = bundle.ErrNone
	}
	return o, history, err
}
