package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/daemon"
)

// Keep puts a publication that was verified into the store, with its mark, unless
// it is there. Another one of its number is not touched.
func (s *Store) Keep(ctx context.Context, b *Bundle, marked []byte) error {
	there, err := s.Get(ctx, b.Seq)
	var broken *BrokenError
	switch {
	case err == nil && there.Hash() == b.Hash():
		if s.Proven(ctx, b) == nil {
			return nil
		}
	case err == nil, errors.As(err, &broken):
		return nil // status reports what has the number instead
	default: // it is not there, or the store does not answer: writing tells
		if err := s.add(ctx, object(b.Seq, suffixBundle), b.Sealed()); err != nil && !exists(err) {
			return err
		}
	}
	return s.putMark(ctx, kindProven, b, marked)
}

// exists reports whether an object was not created because its name is taken.
func exists(err error) bool {
	return errors.Is(err, fs.ErrExist) || gcerrors.Code(err) == gcerrors.FailedPrecondition
}

// add creates an object; see [exists].
func (s *Store) add(ctx context.Context, name string, data []byte) error {
	err := s.write(ctx, name, data, true)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The answer may have been lost: the drivers try again by themselves, and find what they have
	// created. S3 has an error of its own for two at the same time (409
	// ConditionalRequestConflict). So what is there decides.
	there, failed := s.fetch(ctx, name, maxBundle)
	if failed != nil {
		return err
	}
	if bytes.Equal(there, data) {
		return nil
	}
	if exists(err) {
		return err
	}
	return s.write(ctx, name, data, true)
}

// write stores an object; with once it does not replace one, see [exists].
func (s *Store) write(ctx context.Context, name string, data []byte, once bool) error {
	if err := s.writeObject(ctx, name, data, once); err != nil {
		return fmt.Errorf("write %s to the bundle store %s: %w", name, s.name(), err)
	}
	return nil
}

func (s *Store) writeObject(ctx context.Context, name string, data []byte, once bool) error {
	if dir := s.folder(); dir != "" {
		// The library's driver does not sync, and its once is two steps.
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		// The control plane may be another user: the folder's mode says who reads.
		if once {
			return atomicfile.Create(file, data, 0o644)
		}
		return atomicfile.Write(file, data, 0o644)
	}
	b, done, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewWriter(ctx, name, &blob.WriterOptions{ContentType: "application/json", IfNotExist: once})
	if err != nil {
		return err
	}
	if _, err = w.Write(data); err != nil {
		cancel() // otherwise Close would store a part
		_ = w.Close()
		return err
	}
	return w.Close()
}

// remove deletes an object if it is there.
func (s *Store) remove(ctx context.Context, name string) error {
	b, done, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := b.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete %s from the bundle store %s: %w", name, s.name(), err)
	}
	return nil
}

// lockEvery is the pace of asking for a lock: nothing announces that it is free.
const lockEvery = 10 * time.Millisecond

// lock keeps other processes of this machine from publishing to a folder, for as
// long as ctx allows.
func (s *Store) lock(ctx context.Context) (func(), error) {
	dir := s.folder()
	if dir == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the bundle store: %w", err)
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, fs.FileMode(0o600))
	if err != nil {
		return nil, fmt.Errorf("lock the bundle store: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the bundle store: %w", err), f.Close())
		}
		select {
		case <-time.After(lockEvery):
		case <-ctx.Done():
			holder := "another process"
			if pid := daemon.Holder(f); pid > 0 {
				holder = fmt.Sprintf("process %d", pid)
			}
			return nil, errors.Join(fmt.Errorf("lock the bundle store: %s is publishing, and holds %s.lock: wait for "+
				"it, or end it", holder, dir), f.Close())
		}
	}
}
