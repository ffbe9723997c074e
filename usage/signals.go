package usage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/postern/postern/exit"
)

// A SignalError is the cause of a context's end by a signal. Its exit status is that of a shell:
// 128 and the signal's number.
type SignalError struct{ Signal syscall.Signal }

func (e SignalError) Error() string {
	if e.Signal == syscall.SIGINT {
		return "interrupted"
	}
	return "ended by a signal: " + e.Signal.String()
}

// ExitStatus is 130 for SIGINT and 143 for SIGTERM.
func (e SignalError) ExitStatus() int { return 128 + int(e.Signal) }

type passKey struct{}

// sayPatience bounds the wait for a word before a command ends.
const sayPatience = 100 * time.Millisecond

// Signals returns a context that the first SIGINT or SIGTERM ends, with a [SignalError] as its
// cause; say is told before that, and the command cleans up. The second one ends the process at
// once. Call stop when the command has ended.
func Signals(say func(SignalError)) (ctx context.Context, stop func()) {
	ctx, end := context.WithCancelCause(context.Background())
	taken, done, pass := make(chan os.Signal, 2), make(chan struct{}), make(chan bool)
	signal.Notify(taken, os.Interrupt, syscall.SIGTERM)
	go func() {
		passed, first := false, true
		for {
			select {
			case sig := <-taken:
				ended := SignalError{sig.(syscall.Signal)}
				switch {
				case passed:
				case first:
					first = false
					said := make(chan struct{})
					go func() { say(ended); close(said) }()
					select {
					case <-said:
					case <-time.After(sayPatience): // nobody reads what is said
					}
					end(ended)
				default:
					os.Exit(ended.ExitStatus())
				}
			case passed = <-pass:
				for len(taken) > 0 { // of before
					<-taken
				}
				pass <- passed
			case <-done:
				return
			}
		}
	}()
	return context.WithValue(ctx, passKey{}, pass), func() {
		signal.Stop(taken)
		close(done)
		end(nil)
	}
}

// Pass calls f, which takes signals itself: until it returns, they end neither the process nor ctx.
// The context is one of [Signals].
func Pass(ctx context.Context, f func()) {
	if pass, ok := ctx.Value(passKey{}).(chan bool); ok {
		pass <- true
		<-pass
		defer func() {
			// Stop returns when every signal that has come is where it belongs.
			c := make(chan os.Signal, 1)
			signal.Notify(c, os.Interrupt)
			signal.Stop(c)
			pass <- false
			<-pass
		}()
	}
	f()
}

// Ended returns the error of a command whose context is ctx. If a signal's end of ctx may have
// caused it, it says so, and has the signal's exit status unless it has another one.
func Ended(ctx context.Context, err error) error {
	var sig, cause SignalError
	if err == nil || !errors.As(context.Cause(ctx), &sig) {
		return err
	}
	var own interface{ ExitStatus() int }
	switch caused := errors.As(err, &cause); {
	case !caused && !errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &own) && own != any(cause):
		return err
	}
	return exit.With(sig.ExitStatus(), fmt.Errorf("%w, and so: %w", sig, err))
}
