package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/stacks"
)

func newAuditCmd() *cobra.Command {
	var f audit.Filter
	var since string
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "audit [--agent A] [--host H] [--denied] [--since 1h] [-f]",
		Short: "Show what the agents did: one line for each decision",
		Example: `  postern audit --since 10m
  postern audit --denied
  postern audit -f --json | jq .host`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			if f.Since, err = parseSince(since, time.Now()); err != nil {
				return exit.BadUsage(err)
			}
			read, tail := localEvents(home.AuditDir())
			stack, err := file.Load()
			switch _, missing := os.Stat(home.AuditDir()); {
			case err == nil && stack.AWS != nil:
				read, tail = cloudEvents(stack)
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
			show := printer(cmd.OutOrStdout(), asJSON)
			if follow {
				read = tail
			}
			return read(cmd.Context(), f, show)
		},
	}
	cmd.Flags().StringVarP(&f.Agent, "agent", "a", "", "only this agent")
	cmd.Flags().StringVar(&f.Host, "host", "", "only this host, with or without its port")
	cmd.Flags().BoolVar(&f.Denied, "denied", false, "only decisions that did not allow the request")
	cmd.Flags().StringVar(&since, "since", "", "only events since this long ago (30s, 15m, 2h), or since this time (2026-11-23T10:00:00Z)")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show new events too, until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per line")
	return cmd
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
func cloudEvents(stack *stacks.Stack) (read, tail eachEvent) {
	open := func(ctx context.Context) (cloud.Account, error) {
		return openAccount(ctx, stack, stack.AWS.Region)
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

// parseSince reads a duration before now, or a time. "" is the beginning.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("--since %q is neither a duration, such as 15m, nor a time, such as 2026-11-23T10:00:00Z", s)
	}
	return t, nil
}

// printer returns a function that writes one event as JSON, or as a row of a table, whose head it
// writes first. Columns have a fixed width, because later events are not known yet. What an agent
// sent is quoted if a terminal could act on it.
func printer(w io.Writer, asJSON bool) func(audit.Event) error {
	if asJSON {
		return func(e audit.Event) error {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(e); err != nil {
				return err
			}
			_, err := io.WriteString(w, advice.JSON(b.String()))
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
			_, err := fmt.Fprintf(w, "%-12s  %-7s  %-10s  %s\n", e.Time.Local().Format("15:04:05.000"), plain(string(e.Verdict)), plain(e.Agent), plain(changeText(e)))
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
		_, err := fmt.Fprintf(w, row, e.Time.Local().Format("15:04:05.000"), plain(string(e.Verdict)), plain(e.Agent), plain(e.Method), plain(e.Host+e.Path), status, plain(e.Rule), plain(reason))
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

// plain returns s as it is if every character can be printed, and quoted otherwise.
func plain(s string) string {
	if q := strconv.QuoteToASCII(s); len(q) != len(s)+2 {
		return q
	}
	return s
}
