package audit

import "time"

// States of an event about a stream: a request, an upgraded connection or a tunnel that lasts. A
// stream that ends within five seconds has no state, and is a single event.
const (
	// Opened is the first event of a stream.
	Opened = "opened"
	// StillOpen records, every few minutes and in each new segment, that a stream lasts.
	StillOpen = "open"
	// Ended is the last event of a stream. It counts the whole stream.
	Ended = "ended"
	// Lost is the last event of a stream whose end nobody saw, because Envoy or the machine died.
	// It has the last known counts.
	Lost = "lost"
)

// Over reports whether e is the last event about a request or a stream. So each request that is
// over has exactly one such event.
func (e *Event) Over() bool { return e.State == "" || e.State == Ended || e.State == Lost }

// tellEvery is the interval at which an open stream is recorded.
const tellEvery = 5 * time.Minute

// stream is the last that is known of an open stream.
type stream struct {
	event Event
	told  time.Time
}

// track follows the streams, and reports whether to write the event. Envoy reports a stream as
// [StillOpen] every few seconds, and then as [Ended]. The first report becomes Opened. The end of a
// stream that was never opened is an ordinary event. The time of an ordinary event and of Opened is
// the beginning of the stream. The other events have the time at which they happened.
func (w *Writer) track(e *Event) bool {
	if e.Stream == "" {
		return true
	}
	s := w.open[e.Stream]
	switch e.State {
	case Opened, StillOpen:
		now := time.Now()
		if s == nil {
			s = &stream{told: now}
			w.open[e.Stream] = s
			e.State, e.Time = Opened, e.Time.Add(-time.Duration(e.Millis)*time.Millisecond)
		} else if e.State == StillOpen && now.Sub(s.told) < tellEvery {
			s.event = *e
			return false
		}
		s.event, s.told = *e, now
	case Ended:
		if s == nil {
			e.Stream, e.State = "", ""
			return true
		}
		e.Time = e.Time.Add(time.Duration(e.Millis) * time.Millisecond)
		delete(w.open, e.Stream)
	default:
		delete(w.open, e.Stream)
	}
	return true
}

// repeat records all open streams as open, so that the last segment always names them.
func (w *Writer) repeat() error {
	if len(w.open) == 0 {
		return nil
	}
	before := w.size
	events := make([]*Event, 0, len(w.open))
	for _, s := range w.open {
		e := s.event
		e.State = StillOpen
		s.told = time.Time{}
		events = append(events, &e)
	}
	err := w.write(events)
	w.carried = w.size - before
	return err
}

// Lost ends every open stream, because the Envoy that served them is gone.
func (w *Writer) Lost() error {
	w.mu.Lock()
	events := make([]*Event, 0, len(w.open))
	for _, s := range w.open {
		e := s.event
		e.State, e.Time = Lost, time.Now().UTC()
		events = append(events, &e)
	}
	w.mu.Unlock()
	return w.append(events...)
}
