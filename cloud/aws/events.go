package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"github.com/postern/postern/audit"
)

// EventGroups returns the log groups of a stack's audit events: the proxies' decisions, and what
// the control plane has done to the policy.
func EventGroups(stack string) []string {
	return []string{"/postern/" + stack + "/proxies", "/postern/" + stack + "/control"}
}

// Events returns the selected audit events of the stack in CloudWatch Logs, by time. Events older
// than the log group's retention are only in the bucket. AWS is asked for a span of time only; the
// filter is applied here.
func (a *Account) Events(ctx context.Context, stack string, f audit.Filter) ([]audit.Event, error) {
	return a.eventsReader(stack, f).more(ctx)
}

const (
	// pollEvery is the interval at which new events are requested: FilterLogEvents has a quota of a
	// few calls a second for the whole account.
	pollEvery = 3 * time.Second
	// late is the longest time between an event and its arrival in the log.
	late = 2 * time.Minute
)

// FollowEvents calls each for the selected events that exist, and then for every new one, until ctx
// is done (it then returns nil) or each returns an error. It sees an event some seconds after it
// happened.
func (a *Account) FollowEvents(ctx context.Context, stack string, f audit.Filter, each func(audit.Event) error) error {
	r := a.eventsReader(stack, f)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		events, err := r.more(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// eventsReader reads every log group of a stack.
type eventsReader struct {
	groups []*groupReader
	// told are the IDs of events that were returned. Several replicas of the control plane may
	// record the same event.
	told map[string]bool
}

func (a *Account) eventsReader(stack string, f audit.Filter) *eventsReader {
	r := &eventsReader{told: map[string]bool{}}
	for _, group := range EventGroups(stack) {
		r.groups = append(r.groups, &groupReader{client: cloudwatchlogs.NewFromConfig(a.cfg), group: group, filter: f, from: f.Since, seen: map[string]time.Time{}})
	}
	return r
}

// more returns the new events of all groups, by time.
func (r *eventsReader) more(ctx context.Context) ([]audit.Event, error) {
	var all []audit.Event
	for _, g := range r.groups {
		events, err := g.more(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.ID != "" && r.told[e.ID] {
				continue
			}
			if e.ID != "" {
				r.told[e.ID] = true
			}
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b audit.Event) int { return a.Time.Compare(b.Time) })
	return all, nil
}

// groupReader remembers which events of one log group it has read.
type groupReader struct {
	client *cloudwatchlogs.Client
	group  string
	filter audit.Filter
	from   time.Time
	seen   map[string]time.Time // recent events, by the log's own ID
}

func (r *groupReader) more(ctx context.Context) ([]audit.Event, error) {
	in := &cloudwatchlogs.FilterLogEventsInput{LogGroupName: aws.String(r.group)}
	if !r.from.IsZero() {
		// The log's time is the time of writing, which is not before the event's time.
		in.StartTime = aws.Int64(r.from.UnixMilli())
	}
	var events []audit.Event
	newest := r.from
	for p := cloudwatchlogs.NewFilterLogEventsPaginator(r.client, in); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if is(err, "ResourceNotFoundException") {
			return nil, fmt.Errorf("read the audit log: there is no log group %s: is the stack up?", r.group)
		}
		if err != nil {
			return nil, explain("read the audit log", err)
		}
		for _, line := range page.Events {
			e, at, err := r.take(line)
			if err != nil {
				return nil, err
			}
			if at.After(newest) {
				newest = at
			}
			if e != nil {
				events = append(events, *e)
			}
		}
	}
	if after := newest.Add(-late); after.After(r.from) {
		r.from = after
	}
	for id, at := range r.seen {
		if at.Before(r.from) {
			delete(r.seen, id)
		}
	}
	return events, nil
}

// take returns the event of a line of the log. It returns nil if the line is not an event, is not
// selected, or was returned before.
func (r *groupReader) take(line types.FilteredLogEvent) (*audit.Event, time.Time, error) {
	at := time.UnixMilli(aws.ToInt64(line.Timestamp))
	id := aws.ToString(line.EventId)
	if _, known := r.seen[id]; known && id != "" {
		return nil, at, nil
	}
	r.seen[id] = at
	message := []byte(aws.ToString(line.Message))
	// The log also has messages of the supervisor and of the control plane.
	if !bytes.HasPrefix(message, []byte("{")) || !bytes.Contains(message, []byte(`"verdict"`)) {
		return nil, at, nil
	}
	var e audit.Event
	if err := json.Unmarshal(message, &e); err != nil {
		return nil, at, fmt.Errorf("read the audit log: a line of stream %s at %s is not an event: %w", aws.ToString(line.LogStreamName), at.UTC().Format(time.RFC3339), err)
	}
	if !r.filter.Match(&e) {
		return nil, at, nil
	}
	return &e, at, nil
}
