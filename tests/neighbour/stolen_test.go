package neighbour

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// span is a time between two readings of the monotonic clock, which all processes share.
type span struct{ Start, End time.Duration }

func (s span) overlaps(o span) bool { return s.Start < o.End && o.Start < s.End }

func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for no clock that there is
	return time.Duration(t.Nano())
}

const (
	// look is how often a processor is looked at, and late is how late that may be: a system call
	// of another program and a timer are not, together.
	look = 250 * time.Microsecond
	late = 700 * time.Microsecond
)

// watchProcessors looks at each processor until the caller asks for the times in which the
// processor did not run: the machine's host had taken it away. A thread of real-time priority
// looks, which waits for no other thread. An ordinary user may not have such a thread: nothing is
// found then.
func watchProcessors(b *testing.B) (stolen func() []span) {
	b.Helper()
	var gaps []span
	var mu sync.Mutex
	var ended sync.WaitGroup
	var stop atomic.Bool
	for processor := range runtime.NumCPU() {
		ended.Go(func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			var one unix.CPUSet
			one.Set(processor)
			if unix.SchedSetaffinity(0, &one) != nil || unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1}, 0) != nil {
				return
			}
			for before := monotonic(); !stop.Load(); {
				pause := unix.NsecToTimespec(int64(look))
				_ = unix.Nanosleep(&pause, nil)
				now := monotonic()
				if now-before > look+late {
					mu.Lock()
					gaps = append(gaps, span{before, now})
					mu.Unlock()
				}
				before = now
			}
		})
	}
	return func() []span {
		stop.Store(true)
		ended.Wait()
		return gaps
	}
}
