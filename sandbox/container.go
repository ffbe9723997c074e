package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/bubblewrap"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// endPatience is the time that a container has to end by itself.
const endPatience = 10 * time.Second

// inContainer is a sandbox that is a container.
type inContainer struct {
	options *container.Options
	running *container.Running
	// complaint receives what postern-sandbox writes.
	complaint chan string
}

func (c *inContainer) start(ctx context.Context, s *Spec, st *streams) (*net.UnixConn, error) {
	profile, err := containerProfile()
	if err != nil {
		return nil, err
	}
	if err := st.give(s.View.UID, s.View.GID); err != nil && os.Getuid() == 0 {
		return nil, err
	}
	c.warn(s)
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("connect to the container: %w", err)
	}
	defer write.Close()
	c.complaint = make(chan string, 1)
	go func() {
		defer read.Close()
		text, _ := io.ReadAll(io.LimitReader(read, enough)) // what was read counts
		c.complaint <- string(text)
	}()
	files := append(append([]*os.File{}, st.inner[:]...), write)
	running, host, err := container.Start(ctx, s.View, c.options, profile, files)
	c.running = running
	return host, err
}

// warn says that the agent cannot write its working directory, if so: a container has no mount that
// maps one user to another.
func (c *inContainer) warn(s *Spec) {
	var dir unix.Stat_t
	v := s.View
	if !slices.ContainsFunc(v.Mounts, func(m view.Mount) bool { return m.Writable }) {
		return
	}
	uid, gid := c.options.Users.Outside(v.UID), c.options.Users.Outside(v.GID)
	if unix.Stat(v.Workdir.Path, &dir) != nil || int(dir.Uid) == uid || dir.Mode&0o002 != 0 || s.Stderr == nil {
		return
	}
	fmt.Fprintf(s.Stderr, "postern: user %d owns the working directory, and the agent is user %d of this machine, "+
		"who may not write there: chown -R %d:%d %s\n", dir.Uid, uid, uid, gid, hostpath.Quote(v.Workdir.Path))
}

// started has nothing to do: a container ends with the connection, see package inside.
func (c *inContainer) started() error { return nil }

func (c *inContainer) wait(ctx context.Context) (string, error) {
	// The command has ended, or nobody there can be reached.
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	if err := c.running.Wait(ctx); err != nil {
		return "", err // perhaps it runs, and could still complain
	}
	return <-c.complaint, nil
}

func (c *inContainer) explain(complaint string, err error) error {
	if complaint = strings.TrimSpace(complaint); complaint == "" {
		return fmt.Errorf("set up sandbox: the container ended without a word: %w", err)
	}
	return errors.Join(fmt.Errorf("set up sandbox: %s", complaint), err)
}

func (c *inContainer) end() error {
	if c.running == nil {
		return nil
	}
	return c.running.Close()
}

// Line returns, for a shell, what the runtime is asked for. It starts nothing.
func (s *Spec) Line() (string, error) {
	var words []string
	switch {
	case s.Container != nil:
		profile, err := containerProfile()
		if err != nil {
			return "", err
		}
		if words, err = container.Line(s.View, s.Container, profile); err != nil {
			return "", err
		}
	case s.VM != nil:
		_, machine, err := s.around()
		if err != nil {
			return "", err
		}
		words = wire.Strings(machine.Argv)
	default:
		args, _ := bubblewrap.Render(s.View, 7) // after the streams and the control connection
		words = append([]string{s.Bubblewrap}, args...)
	}
	for i, w := range words {
		words[i] = hostpath.Quote(w)
	}
	return strings.Join(words, " "), nil
}
