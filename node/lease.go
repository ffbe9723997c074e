package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/hostpath"
)

// leaseTime is the time for which Envoy decides while its log is not taken. It bounds the decisions
// without a record if Envoy is killed meanwhile.
const leaseTime = 2 * time.Second

// beat is the interval at which the lease is renewed while the log is empty.
const beat = leaseTime / 10

// lease is the memory that Envoy's module shares: see [guard.LeasePath]. Only a supervisor
// that takes the log renews the lease; one that is stopped, or waits for its disk, does not.
type lease struct {
	memory []byte
	events *audit.Writer
	// renewed is the time of the last renewal.
	renewed time.Time
}

// newLease begins a lease in the working directory of a node. It also records requests that were
// refused before, if a killed supervisor has not.
func newLease(dir string, events *audit.Writer) (*lease, error) {
	f, err := leaseFile(dir)
	if err != nil {
		return nil, fmt.Errorf("make the lease: %w", err)
	}
	defer f.Close()
	memory, err := unix.Mmap(int(f.Fd()), 0, guard.LeaseSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("share the lease with Envoy: %w", err)
	}
	l := &lease{memory: memory, events: events, renewed: time.Now()}
	if err := l.refused("the supervisor before this one was killed"); err != nil {
		return nil, err
	}
	return l, l.renew()
}

// leaseFile opens the lease's file in the folder. Nobody sees a file there that is not whole. If
// there is one it stays, because sandboxes have it mounted.
func leaseFile(dir string) (*os.File, error) {
	path := filepath.Join(dir, guard.LeasePath)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err == nil {
		info, err := f.Stat()
		if err == nil && info.Size() != guard.LeaseSize {
			err = f.Truncate(guard.LeaseSize)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f, err = os.CreateTemp(dir, ".lease-*"); err != nil {
		return nil, err
	}
	// The control plane, which may be a user of its own in the node's group, reads it.
	if err := errors.Join(f.Truncate(guard.LeaseSize), f.Chmod(0o640), os.Rename(f.Name(), path)); err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f, nil
}

func (l *lease) end() error {
	return errors.Join(l.refused(l.silence()), unix.Munmap(l.memory))
}

func (l *lease) word(i int) *uint64 { return (*uint64)(unsafe.Pointer(&l.memory[8*i])) }

// renew lets Envoy decide for another leaseTime.
func (l *lease) renew() error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	atomic.StoreUint64(l.word(0), uint64(now+leaseTime))
	err = l.refused(l.silence())
	l.renewed = time.Now()
	return errors.Join(err, l.events.Tell())
}

// refused records the number of requests that the guard has refused since the last time, and why.
func (l *lease) refused(why string) error {
	n := atomic.SwapUint64(l.word(1), 0)
	if n == 0 {
		return nil
	}
	return l.events.Unrecorded(n, why)
}

func (l *lease) silence() string {
	return "the log was not taken for " + time.Since(l.renewed).Round(time.Millisecond).String()
}

// errExpired means that the supervisor hangs, or waits for its disk.
var errExpired = errors.New("its supervisor does not take the log, so that every request is refused")

// checkLease fails if the lease in the working directory of a node has run out, or cannot be read.
// Without a running node there is no lease.
func checkLease(dir string) error {
	b, err := hostpath.ReadFile(filepath.Join(dir, guard.LeasePath), guard.LeaseSize)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) != guard.LeaseSize {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the node's lease: %w", err)
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint64(b) <= uint64(now) {
		return errExpired
	}
	return nil
}

// monotonic is the time of the clock by which leases end, which Envoy reads too.
func monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// accessLog is Envoy's end of the access log. Whoever reads again has written what came before. So
// each Read renews the lease, and so does each beat while it waits.
type accessLog struct {
	pipe  *os.File
	lease *lease
}

func (l accessLog) Read(b []byte) (int, error) {
	for {
		if err := l.lease.renew(); err != nil {
			return 0, err
		}
		if err := l.pipe.SetReadDeadline(time.Now().Add(beat)); err != nil {
			return 0, err
		}
		if n, err := l.pipe.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}
