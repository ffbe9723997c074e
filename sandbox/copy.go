package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is the number of bytes that are read at a time. A pipe of ours holds as much, if
	// the caller may have that.
	bufferSize = 256 << 10
	pipeSize   = 1 << 20
	// hangUp is the time, in milliseconds, that the last output of a terminal may take after the
	// last process has ended: the kernel passes it on in the background.
	hangUp = 1000
)

// copier passes bytes on from one descriptor to another until the first ends, the second is closed
// at its other end, or the command has ended.
type copier struct {
	from, to *os.File
	// stop is an eventfd that is readable when the command has ended.
	stop int
	// input is set if the command reads. When the command has ended, nobody reads the rest. If it
	// is not set, everything that the command has written is passed on.
	input bool
	// patience bounds the wait for output after the command has ended, in milliseconds. The content
	// of a pipe is available at once, and a process that still holds its other end must not delay
	// the end.
	patience int
	// end is written to a terminal to say that there is no more.
	end []byte
}

// errStopped means that the command has ended.
var errStopped = errors.New("the command has ended")

// run copies, and closes both of our ends. If nobody reads, that is not an error: the writer then
// gets SIGPIPE.
func (c *copier) run() error {
	var buffer []byte
	for {
		n, err := c.splice()
		if errors.Is(err, unix.EINVAL) {
			if buffer == nil {
				buffer = make([]byte, bufferSize)
			}
			if n, err = c.read(buffer); err == nil {
				err = c.write(buffer[:n])
			}
		}
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, errStopped), errors.Is(err, unix.EIO) && !c.input:
			return nil // EIO: nobody has the terminal any longer
		case err != nil:
			return fmt.Errorf("copy from %s to %s: %w", c.from.Name(), c.to.Name(), err)
		case n == 0:
			if len(c.end) > 0 {
				return c.write(c.end)
			}
			return nil
		}
	}
}

// splice moves bytes inside the kernel, which costs a fraction. It returns EINVAL if one of the two
// does not support that, such as a terminal or a file that is appended to.
func (c *copier) splice() (int, error) {
	for {
		if err := c.await(int(c.from.Fd()), unix.POLLIN); err != nil {
			return 0, err
		}
		n, err := unix.Splice(int(c.from.Fd()), nil, int(c.to.Fd()), nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := c.await(int(c.to.Fd()), unix.POLLOUT); err != nil {
				return 0, err
			}
		case !errors.Is(err, unix.EINTR):
			return int(max(n, 0)), err
		}
	}
}

func (c *copier) read(buffer []byte) (int, error) {
	for {
		if err := c.await(int(c.from.Fd()), unix.POLLIN); err != nil {
			return 0, err
		}
		n, err := unix.Read(int(c.from.Fd()), buffer)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		return max(n, 0), err
	}
}

func (c *copier) write(data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(int(c.to.Fd()), data)
		if n > 0 {
			data = data[n:]
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := c.await(int(c.to.Fd()), unix.POLLOUT); err != nil {
				return err
			}
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// await waits until the descriptor is ready, or until waiting is pointless.
func (c *copier) await(fd int, events int16) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(c.stop), Events: unix.POLLIN}, {Fd: -1}}
	if c.input && len(c.end) == 0 {
		fds[2].Fd = int32(c.to.Fd()) // a pipe reports its closing without being asked
	}
	wait := -1
	for {
		n, err := unix.Poll(fds, wait)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case n == 0, c.input && fds[1].Revents != 0, c.input && fds[2].Revents&unix.POLLERR != 0:
			return errStopped
		case fds[0].Revents != 0:
			return nil
		case events == unix.POLLOUT:
			fds[1].Fd = -1 // whoever reads the rest may take any time
		default:
			fds[1].Fd, wait = -1, c.patience
		}
	}
}
