// Package records is the command "postern audit": it shows the events of the agents' requests, and
// verifies that the log is what was written.
package records

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// Stack finds what the commands need.
type Stack struct {
	// Home finds the stack file and the state folder that the command's flags name. It needs no
	// valid stack file.
	Home func(*cobra.Command) (*stacks.File, home.Folder, error)
	// Account opens the account of a stack in a cloud.
	Account func(context.Context, *stacks.Stack, string) (cloud.Account, error)
}

// New returns the command.
func New(s Stack) *cobra.Command {
	var f audit.Filter
	var since, until string
	var follow, asJSON, asCSV bool
	cmd := &cobra.Command{
		Use:   "audit [--agent A] [--host H] [--denied] [--since 1h] [-f]",
		Short: "Show what the agents did: one line for each decision",
		Example: `  postern audit --since 10m
  postern audit --denied
  postern audit --verdict allow --status 403 --since 2026-11-23T10:00:00Z --until 1h
  postern audit --rule demo/echo --csv
  postern audit -f --json | jq .host`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := times(&f, since, until, time.Now()); err != nil {
				return exit.BadUsage(err)
			}
			file, home, err := s.Home(cmd)
			if err != nil {
				return err
			}
			read, tail := localEvents(home.AuditDir())
			stack, err := file.Load()
			switch _, missing := os.Stat(home.AuditDir()); {
			case err == nil && stack.AWS != nil:
				read, tail = s.cloudEvents(stack)
			case err != nil && missing != nil: // a stack file that is being edited hides no log that is here
				return err
			}
			if err == nil && f.Agent != "" {
				if err := known(cmd.Context(), stack, read, f.Agent); err != nil {
					return err
				}
			}
			if _, missing := os.Stat(home.AuditDir()); missing != nil && !follow && err == nil && stack.AWS == nil {
				return fmt.Errorf("stack %s has no audit log here: there is no %s; bring it up with `%s`",
					file.Name(), home.AuditDir(), file.Command("up"))
			}
			show := Printer(cmd.OutOrStdout(), asJSON)
			if asCSV {
				show = csvPrinter(cmd.OutOrStdout())
			}
			if follow {
				read = tail
			}
			return read(cmd.Context(), f, show)
		},
	}
	cmd.Flags().StringVarP(&f.Agent, "agent", "a", "", "only this agent")
	cmd.Flags().StringVar(&f.Host, "host", "", "only this host, with or without its port")
	cmd.Flags().BoolVar(&f.Denied, "denied", false, "only decisions that did not allow the request")
	cmd.Flags().StringVar(&f.Verdict, "verdict", "", "only events with this verdict: allow, deny, error, gap or change")
	cmd.Flags().StringVar(&f.Rule, "rule", "", "only what this rule decided: agent/destination, or agent/default")
	cmd.Flags().IntVar(&f.Status, "status", 0, "only answers with this HTTP status")
	cmd.Flags().StringVar(&since, "since", "",
		"only events since this long ago (30s, 15m, 2h), or since this time (2026-11-23T10:00:00Z)")
	cmd.Flags().StringVar(&until, "until", "", "only events before this: as --since")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show new events too, until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per line")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print comma-separated values (RFC 4180), with a head")
	cmd.MarkFlagsMutuallyExclusive("json", "csv")
	cmd.AddCommand(s.verify())
	return cmd
}

// verdicts are those of events.
var verdicts = []string{audit.Allow, audit.Deny, audit.Error, audit.Gap, audit.Change}

// times sets the filter's times, and returns an error for a filter that selects nothing.
func times(f *audit.Filter, since, until string, now time.Time) (err error) {
	if f.Since, err = parseTime("--since", since, now); err != nil {
		return err
	}
	if f.Until, err = parseTime("--until", until, now); err != nil {
		return err
	}
	switch {
	case !f.Until.IsZero() && !f.Since.Before(f.Until):
		return errors.New("--since is not before --until")
	case f.Verdict != "" && !slices.Contains(verdicts, f.Verdict):
		return fmt.Errorf("--verdict %q is not one of %s", f.Verdict, strings.Join(verdicts, ", "))
	}
	return nil
}

// known returns an error if an agent is neither in the stack file nor in any event. An agent that
// was removed from the file still has events.
func known(ctx context.Context, stack *stacks.Stack, read eachEvent, agent string) error {
	_, err := stack.Agent(agent)
	if err == nil {
		return nil
	}
	found := errors.New("found")
	switch failed := read(ctx, audit.Filter{Agent: agent}, func(audit.Event) error { return found }); {
	case errors.Is(failed, found):
		return nil
	case failed != nil:
		return failed
	}
	return fmt.Errorf("%w; no event has this agent either", err)
}

// eachEvent calls a function for the selected events, until that returns an error.
type eachEvent func(context.Context, audit.Filter, func(audit.Event) error) error

// localEvents reads, and follows, the events of the nodes of this machine.
func localEvents(dir string) (read, tail eachEvent) {
	return func(ctx context.Context, f audit.Filter, each func(audit.Event) error) error {
			return audit.Each(ctx, dir, f, each)
		},
		func(ctx context.Context, f audit.Filter, each func(audit.Event) error) error {
			return audit.Follow(ctx, dir, f, each)
		}
}

// cloudEvents reads, and follows, the events in CloudWatch Logs.
func (s Stack) cloudEvents(stack *stacks.Stack) (read, tail eachEvent) {
	open := func(ctx context.Context) (cloud.Account, error) {
		return s.Account(ctx, stack, stack.AWS.Region)
	}
	return func(ctx context.Context, f audit.Filter, each func(audit.Event) error) error {
			account, err := open(ctx)
			if err != nil {
				return err
			}
			events, err := account.Events(ctx, stack.Name, f)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := each(e); err != nil {
					return err
				}
			}
			return nil
		}, func(ctx context.Context, f audit.Filter, each func(audit.Event) error) error {
			account, err := open(ctx)
			if err != nil {
				return err
			}
			return account.FollowEvents(ctx, stack.Name, f, each)
		}
}

// parseTime reads the value of a flag: a duration before now, or a time. "" is no time.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %q is neither a duration, such as 15m, nor a time, such as 2026-11-23T10:00:00Z",
			flag, s)
	}
	return t, nil
}

// Printer returns a function that writes one event as JSON, or as a row of a table, whose head it
// writes first. Columns have a fixed width, because later events are not known yet. What an agent
// sent is quoted if a terminal could act on it.
func Printer(w io.Writer, asJSON bool) func(audit.Event) error {
	if asJSON {
		return func(e audit.Event) error {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(e); err != nil {
				return err
			}
			_, err := io.WriteString(w, visible.JSON(b.String()))
			return err
		}
	}
	head := false
	return func(e audit.Event) error {
		const row = "%-12s  %-7s  %-10s  %-7s  %-44s  %6s  %-22s  %s\n"
		if !head {
			head = true
			if _, err := fmt.Fprintf(w, row, "TIME", "VERDICT", "AGENT", "METHOD", "HOST AND PATH", "STATUS", "RULE", "REASON"); err != nil {
				return err
			}
		}
		if e.Verdict == audit.Change {
			_, err := fmt.Fprintf(w, "%-12s  %-7s  %-10s  %s\n", e.Time.Local().Format("15:04:05.000"), Plain(string(e.Verdict)), Plain(e.Agent), Plain(changeText(e)))
			return err
		}
		reason := string(e.Reason) + stateText(e)
		if e.Credential != "" {
			reason += ", credential " + e.Credential
		}
		if e.Detail != "" {
			reason += ": " + e.Detail
		}
		status := "-"
		if e.Status != 0 {
			status = strconv.Itoa(e.Status)
		}
		_, err := fmt.Fprintf(w, row, e.Time.Local().Format("15:04:05.000"), Plain(string(e.Verdict)), Plain(e.Agent), Plain(e.Method), Plain(e.Host+e.Path), status, Plain(e.Rule), Plain(reason))
		return err
	}
}

// stateText says what happened to a stream that lasts, and for how many decisions an event stands.
func stateText(e audit.Event) string {
	lasted := (time.Duration(e.Millis) * time.Millisecond).Round(time.Second).String()
	switch {
	case e.Count != 0:
		return fmt.Sprintf(", %d times", e.Count)
	case e.State == audit.Opened:
		return ", opened"
	case e.State == audit.StillOpen:
		return ", open for " + lasted
	case e.State == audit.Ended:
		return ", ended after " + lasted
	case e.State == audit.Lost:
		return ", lost after " + lasted
	}
	return ""
}

// changeText says what has happened to the policy.
func changeText(e audit.Event) string {
	text := e.Kind
	if e.Rule != "" {
		text += " " + e.Rule
	}
	if e.Credential != "" {
		text += " " + e.Credential
	}
	if e.Version != "" {
		text += fmt.Sprintf(" (publication %d, version %s, by %s)", e.Publication, e.Version, e.By)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Why != "" {
		text += "; it was there for: " + e.Why
	}
	if e.Owner != "" {
		text += "; owner " + e.Owner
	}
	return text
}

// columns are the columns of comma-separated values.
var columns = []string{
	"time", "node", "seq", "verdict", "agent", "method", "host", "path", "status", "rule", "reason", "credential", "sent",
	"received", "millis", "stream", "state", "count", "detail", "kind", "publication", "version", "by", "why", "owner",
}

// csvPrinter returns a function that writes one event as comma-separated values, the first time
// after a head. What a terminal could act on is quoted, and so is what a spreadsheet would compute.
func csvPrinter(w io.Writer) func(audit.Event) error {
	out := csv.NewWriter(w)
	head := false
	number := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	return func(e audit.Event) error {
		if !head {
			head = true
			if err := out.Write(columns); err != nil {
				return err
			}
		}
		row := []string{
			e.Time.Format(time.RFC3339Nano), e.Node, strconv.FormatUint(e.Seq, 10), e.Verdict, e.Agent, e.Method, e.Host,
			e.Path, number(int64(e.Status)), e.Rule, string(e.Reason), e.Credential, strconv.FormatInt(e.Sent, 10),
			strconv.FormatInt(e.Received, 10), strconv.FormatInt(e.Millis, 10), e.Stream, e.State, number(int64(e.Count)),
			e.Detail, e.Kind, number(int64(e.Publication)), e.Version, e.By, e.Why, e.Owner,
		}
		for i, v := range row {
			if row[i] = Plain(v); v != "" && strings.Contains("=+-@", v[:1]) {
				row[i] = strconv.QuoteToASCII(v)
			}
		}
		if err := out.Write(row); err != nil {
			return err
		}
		out.Flush()
		return out.Error()
	}
}

// Plain returns s as it is if every character can be printed, and quoted otherwise.
func Plain(s string) string {
	if q := strconv.QuoteToASCII(s); len(q) != len(s)+2 {
		return q
	}
	return s
}
