package sandbox

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is one of the kernel's threads, on which functions run alone: its mounts are not the
// other threads'. The kernel tells a sandbox's first process that its parent has
// ended when the thread that started it ends. So a thread must outlive what it has started.
type thread struct {
	work chan func()
	done chan struct{}
}

func newThread() *thread {
	t := new(thread)
	t.renew()
	return t
}

// renew replaces the thread by another.
func (t *thread) renew() {
	if t.work != nil {
		t.end()
	}
	work, done := make(chan func()), make(chan struct{})
	t.work, t.done = work, done
	var serve func()
	serve = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		if unix.Gettid() == unix.Getpid() {
			// The first thread never ends, and what it sees is what /proc shows of the process.
			// While it is held here, the next goroutine is on another.
			go serve()
			<-done
			runtime.UnlockOSThread()
			return
		}
		for {
			select {
			case f := <-work:
				f()
			case <-done:
				return
			}
		}
	}
	go serve()
}

// do runs f on the thread and returns what it returns.
func (t *thread) do(f func() error) error {
	result := make(chan error)
	t.work <- func() { result <- f() }
	return <-result
}

func (t *thread) end() { close(t.done) }
