package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/bubblewrap"
)

// inBubblewrap is a sandbox that bwrap makes.
type inBubblewrap struct {
	group   *cgroup
	starter *thread
	passed  descriptors
	cmd     *exec.Cmd
	// user is nil unless root is the caller.
	user *bubblewrap.User
	// complaint is what bubblewrap and postern-sandbox write; the command has streams of its own.
	complaint beginning
	// alive is a pipe: bwrap reads, and only this process can write. Nobody writes.
	alive struct{ read, write *os.File }
}

// enough is how much of a complaint is kept, in bytes: an agent may be what there is to complain
// of.
const enough = 64 << 10

// beginning keeps the beginning of what is written.
type beginning struct{ text []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), enough-len(b.text))]...)
	return len(p), nil
}

func (b *inBubblewrap) start(ctx context.Context, s *Spec, st *streams) (*net.UnixConn, error) {
	b.group, b.starter = newCgroup(s.View.Limits), newThread()
	var err error
	if b.alive.read, b.alive.write, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("connect to bwrap: %w", err)
	}
	host, inside, err := controlPair()
	if err != nil {
		return nil, err
	}
	if err := b.launch(ctx, s, st, inside); err != nil {
		host.Close() // the first process, if there is one, ends: it waits for its setup
		if b.cmd == nil || b.cmd.Process == nil {
			return nil, err
		}
		if waitErr := b.cmd.Wait(); len(b.complaint.text) > 0 {
			return nil, bubblewrap.Explain(string(b.complaint.text), errors.Join(waitErr, err))
		}
		return nil, err
	}
	return host, nil
}

// launch starts the first process, which gets the streams and its end of the control connection.
func (b *inBubblewrap) launch(ctx context.Context, s *Spec, st *streams, inside *os.File) error {
	for _, f := range st.inner {
		b.passed.add(f)
	}
	b.passed.own(inside)
	args, contents := bubblewrap.Render(s.View, b.passed.next())
	for _, content := range contents {
		if err := b.passed.data(content); err != nil {
			return err
		}
	}
	b.passed.add(b.alive.read)
	var first *os.File // where bwrap says which process is the sandbox's first
	if len(b.group.legacy()) > 0 {
		read, write, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("connect to bwrap: %w", err)
		}
		defer read.Close()
		args = append([]string{"--info-fd", strconv.Itoa(b.passed.next())}, args...)
		first = read
		b.passed.own(write)
		b.passed.add(read) // a reader that stays: if this process is killed, bwrap goes on
	}
	b.cmd = exec.CommandContext(ctx, s.Bubblewrap, args...)
	b.cmd.Env = []string{}
	b.cmd.ExtraFiles = b.passed.files
	b.cmd.Stderr = &b.complaint
	// Out of the terminal's foreground group: Ctrl-C is for the command, which
	// gets it from us, and must not kill bubblewrap before that.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.log().Debug("limits", "processes", s.View.Limits.Processes, "memory", s.View.Limits.Memory,
		"by control group", b.group.held, "by resource limit", []string{"processes"})
	var err error
	if b.user, err = s.startBubblewrap(b.cmd, b.group, b.starter, st); err != nil {
		return fmt.Errorf("start %s: %w", s.Bubblewrap, err)
	}
	b.passed.close()
	// The kernel takes up to 20 ms to move a process, in which bwrap makes the mounts. The first
	// process starts nothing before it has its setup, so everything that the command may start is
	// in the groups.
	return b.group.takeFirst(first)
}

// started has the kernel kill bwrap if this process ends, whatever keeps the first process from
// seeing that the connection has ended. bwrap's own --die-with-parent does so too early: if bwrap
// is killed before the first process may go on, the first process waits for ever.
func (b *inBubblewrap) started() error {
	pipe := b.alive.read.Fd()
	for _, c := range []struct{ command, argument int }{
		{unix.F_SETOWN, b.cmd.Process.Pid}, {unix.F_SETSIG, int(unix.SIGKILL)}, {unix.F_SETFL, unix.O_ASYNC},
	} {
		if _, err := unix.FcntlInt(pipe, c.command, c.argument); err != nil {
			return fmt.Errorf("tie bwrap to this process: %w", err)
		}
	}
	return nil
}

// wait needs no ctx: the first process, which nobody inside can stop, ends with the connection.
func (b *inBubblewrap) wait(context.Context) (string, error) {
	err := b.cmd.Wait()
	return string(b.complaint.text), err
}

func (b *inBubblewrap) explain(complaint string, err error) error {
	return bubblewrap.Explain(complaint, err)
}

func (b *inBubblewrap) end() error {
	b.passed.close()
	b.starter.end()
	b.group.remove()
	b.user.Release()
	if b.alive.read != nil {
		b.alive.read.Close()
		b.alive.write.Close()
	}
	return nil
}

// startBubblewrap starts bubblewrap on the thread, in the control group of version 2. For root it
// uses a subordinate user, which it returns, and which the caller releases. If this machine or the
// file system cannot do that, it says so, and the sandbox is root without capabilities. Any other
// failure ends the run, because an agent that works above can cause it.
func (s *Spec) startBubblewrap(
	cmd *exec.Cmd, group *cgroup, starter *thread, streams *streams,
) (*bubblewrap.User, error) {
	if group.unified != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.unified.Fd())
	}
	if os.Getuid() != 0 {
		return nil, starter.do(cmd.Start)
	}
	user, err := bubblewrap.NewUser()
	if err == nil {
		err = streams.give(user.UID, user.GID)
	}
	if err == nil {
		err = starter.do(func() error { return user.Prepare(cmd, s.View) })
	}
	if err == nil {
		s.log().Debug("user", "uid", user.UID, "gid", user.GID)
		if err := starter.do(cmd.Start); err != nil {
			user.Release()
			return nil, err
		}
		return user, nil
	}
	user.Release()
	if unable := (*bubblewrap.UnableError)(nil); !errors.As(err, &unable) {
		return nil, err
	}
	if s.Stderr != nil {
		fmt.Fprintf(s.Stderr, "postern: the agent runs as root without capabilities, not as its own user: %v\n", err)
	}
	cmd.Dir, cmd.SysProcAttr.Credential = "", nil
	starter.renew() // what it sees of the host may be half changed
	return nil, starter.do(cmd.Start)
}

// controlPair returns the two ends of the connection between host and inside.
func controlPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// descriptors are the files that bubblewrap inherits, in order from 3.
type descriptors struct {
	files []*os.File
	owned []*os.File
}

// next is the number of the descriptor that is added next.
func (d *descriptors) next() int { return 3 + len(d.files) }

func (d *descriptors) add(f *os.File) { d.files = append(d.files, f) }

// own is add for a file that is closed here.
func (d *descriptors) own(f *os.File) {
	d.owned = append(d.owned, f)
	d.add(f)
}

// data adds a descriptor that reads content.
func (d *descriptors) data(content []byte) error {
	f, err := memory(content)
	if err == nil {
		d.own(f)
	}
	return err
}

// memory returns an anonymous file that reads content.
func memory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("postern", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make anonymous file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err = f.Write(content); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write anonymous file: %w", err)
	}
	return f, nil
}

func (d *descriptors) close() {
	for _, f := range d.owned {
		f.Close()
	}
	d.owned = nil
}
