package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/audit/link"
	"github.com/postern/postern/plan"
)

// An agent could make allowed requests only to fill the log. This must push out neither other
// agents' events nor its own. So before any segment is removed, the segments that filled fastest
// are replaced by digests. In a digest, an agent that had more than its share of the segment has
// one event, with a count, for all similar requests. Other agents' events stay as they are.

// likeness is what the requests have in common for which a digest has one event.
type likeness struct {
	agent, verdict, state, rule, host, method, path string
	reason                                          plan.Reason
}

// like returns what e has in common with other requests, in three steps: the path of what
// was only read, and was there, does not count, then no path, then no place.
func (e *Event) like(step int) likeness {
	l := likeness{agent: e.Agent, verdict: e.Verdict, state: e.State, reason: e.Reason}
	if step < 2 {
		l.rule, l.host, l.method = e.Rule, e.Host, e.Method
	}
	if step < 1 && (e.Verdict != Allow || e.Sent > 0 || e.Reason != plan.ReasonAllowed || e.Status >= 400) {
		l.path = e.Path
	}
	return l
}

// digest replaces a segment by its digest, after an event that records this. It returns the number
// of bytes saved: 0 if the digest would not be half as long, or the segment is damaged.
func (w *Writer) digest(s segment) (saved int64, err error) {
	greedy, size, err := s.greedy()
	if err != nil || len(greedy) == 0 {
		return 0, err
	}
	content, counted, err := s.digest(greedy, w.bounds.digest)
	if err != nil || 2*int64(len(content)) > size {
		return 0, err
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return 0, fmt.Errorf("make a digest of the audit log: %w", err)
	}
	err = w.write([]*Event{{
		Time: time.Now().UTC(), Verdict: Change, Kind: eventsRemoved, Count: counted,
		Detail: fmt.Sprintf("from %d on, of %s, which filled the log: each that stays counts requests that were alike",
			s.first, strings.Join(greedy, ", ")),
	}})
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	sum.Write(content)
	err = w.chain.add(link.Link{Kind: link.Digest, First: s.first, Bytes: int64(len(content)), SHA256: hexSum(sum)})
	if err != nil {
		return 0, err
	}
	if err := atomicfile.Write(s.path, content, 0o600); err != nil {
		return 0, fmt.Errorf("make a digest of the audit log: %w", err)
	}
	// Readers skip segments by their time.
	if err := os.Chtimes(s.path, info.ModTime(), info.ModTime()); err != nil {
		return 0, fmt.Errorf("make a digest of the audit log: %w", err)
	}
	return size - int64(len(content)), nil
}

// greedy returns the agents that have more than they would have if all agents of the segment had
// the same, and how long the segment is. A damaged segment has none.
func (s segment) greedy() (agents []string, size int64, err error) {
	bytes := map[string]int64{}
	whole, err := s.each(func(e *Event, line []byte) {
		size += int64(len(line)) + 1
		if e.Agent != "" {
			bytes[e.Agent] += int64(len(line)) + 1
		}
	})
	if err != nil || !whole {
		return nil, size, err
	}
	for agent, n := range bytes {
		if len(bytes) == 1 || n > size/int64(len(bytes)) {
			agents = append(agents, agent)
		}
	}
	slices.Sort(agents)
	return agents, size, nil
}

// digest returns the segment with the events of these agents counted, and how many events
// have none of their own any more. An agent has, for each reason and for what failed, so
// many bytes for events with a path, and as many for those without; what is beyond is
// counted by verdict and reason. So what succeeds takes no path from what fails or is denied.
func (s segment) digest(agents []string, bytesKept int64) (content []byte, counted uint64, err error) {
	// part is a line that stays, or an event that stands for others.
	type part struct {
		line  []byte
		event *Event
	}
	var parts []part
	groups := map[likeness]*Event{}
	// used are the bytes of an agent's events, by the step of their likeness.
	type share struct {
		agent  string
		reason plan.Reason
		failed bool
		step   int
	}
	used := map[share]int64{}
	_, err = s.each(func(e *Event, line []byte) {
		if !slices.Contains(agents, e.Agent) {
			parts = append(parts, part{line: bytes.Clone(line)})
			return
		}
		for step := range 3 {
			like, of := e.like(step), share{e.Agent, e.Reason, e.Status >= 400, step}
			if g := groups[like]; g != nil {
				g.Count = max(1, g.Count) + max(1, e.Count)
				g.Sent += e.Sent
				g.Received += e.Received
				counted++
				return
			}
			if step == 2 || used[of]+int64(len(line)) <= bytesKept {
				used[of] += int64(len(line))
				first := *e
				if step == 2 {
					first.Rule, first.Host, first.Method, first.Path = "", "", "", ""
				}
				groups[like] = &first
				parts = append(parts, part{event: &first})
				return
			}
		}
	})
	for _, p := range parts {
		if p.event != nil {
			content = p.event.appendJSON(content)
		} else {
			content = append(content, p.line...)
		}
		content = append(content, '\n')
	}
	return content, counted, err
}

// each calls visit for each event, with its line, and reports whether the segment has
// nothing but events.
func (s segment) each(visit func(e *Event, line []byte)) (whole bool, err error) {
	whole = true
	torn, err := s.lines(func(b []byte, _ int) bool {
		var e Event
		if whole = b != nil && e.read(b); whole {
			visit(&e, b)
		}
		return whole
	})
	return whole && !torn && err == nil, err
}
