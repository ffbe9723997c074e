// Package counters defends what the kernel counts for a user: it ends an agent that shares a user
// with others, and takes the last.
package counters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel counts for a user is shared by the agents of that user and by the operator's
// commands, where the agent has no user of its own. Without a watch of epoll, no Go program starts,
// `postern kill` included. No limit of a process or a control group bounds these counts, so their
// last part is defended: see [Guard].
const (
	lookEvery = time.Second
	// A sandbox ends after this many failures in this time. One failure may be another program's.
	maxFailures, failuresIn = 3, 15 * time.Second
)

// Guard returns a context that is cancelled once nothing of the caller's user can start any more,
// with a cause that says why. It looks until ctx ends.
func Guard(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	// An editor of the user's may have taken all long ago.
	notified := canNotify() == nil
	go func() {
		var failures []time.Time
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := errors.Join(canWatch(), canPass())
			if notified {
				err = errors.Join(err, canNotify())
			}
			if err == nil {
				continue
			}
			failures = append(failures, time.Now())
			if n := len(failures); n >= maxFailures && time.Since(failures[n-maxFailures]) < failuresIn {
				cancel(fmt.Errorf("the sandbox was ended: the agent, or another program of this user, "+
					"has used up %w", err))
				return
			}
		}
	}()
	return ctx, cancel
}

// canWatch fails if the user has no watch of epoll left (epoll(7), max_user_watches).
func canWatch() error {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil //nolint:nilerr // descriptors of this process, or of the machine: not the user's
	}
	defer unix.Close(poll)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil //nolint:nilerr // the same
	}
	defer unix.Close(event)
	err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN})
	if errors.Is(err, unix.ENOSPC) {
		return errors.New("the watches of epoll that the kernel gives a user (fs.epoll.max_user_watches)")
	}
	return nil
}

// canNotify fails if the user has no watch of inotify left, or no instance (inotify(7)). Then
// nobody learns that a program of the host has changed a protected file.
func canNotify() error {
	notify, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if errors.Is(err, unix.EMFILE) {
		if spare, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
			unix.Close(spare)
			return errors.New("the instances of inotify that the kernel gives a user (fs.inotify.max_user_instances)")
		}
	}
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	defer unix.Close(notify)
	if _, err = unix.InotifyAddWatch(notify, "/", unix.IN_DELETE_SELF); errors.Is(err, unix.ENOSPC) {
		return errors.New("the watches of inotify that the kernel gives a user (fs.inotify.max_user_watches)")
	}
	return nil
}

// canPass fails if too many descriptors of the user are on their way (unix(7), ETOOMANYREFS).
func canPass() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(pair[1]), nil, unix.MSG_DONTWAIT)
	if errors.Is(err, unix.ETOOMANYREFS) {
		return errors.New("the descriptors that may be on their way between a user's processes " +
			"(the limit of open files)")
	}
	return nil
}
