package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// Operator is who publishes: a store, the key that signs, and the control
// planes that can be told. Its methods may be called by several goroutines at
// once; of those that publish one wins.
type Operator struct {
	*Store
	// Key is the PEM file of the Ed25519 key; see [MakeKey].
	Key string
	// Controls are told directly, the first one first. If there is none, the
	// replicas find what is published in the store, and are waited for by what
	// they report there.
	Controls []*api.Client
	// Kept are the files in which a control plane on this machine keeps what it
	// serves: what a kill is based on when neither the store nor the control plane
	// answers.
	Kept []string
	// Over, if set, is what a person has been shown as published: Publish is
	// refused with a [*ConflictError] if another plan is by then. A Seq of 0 means
	// that nothing was.
	Over *Bundle
	// Say, if set, is told how it goes.
	Say func(string)
}

// keep is how many publications a store holds; older ones are deleted by an
// operator who may delete.
const keep = 200

// Publish makes p what counts, has the control planes roll it out, one first
// and then the others, and returns when every connected node has acknowledged
// all of it. If it is not taken (the error is then an [*api.Error], with Envoy's
// message if a node refused it) or ctx ends, what was published before counts
// again, everywhere.
//
// An agent that loses anything by p loses its connections too; see
// [Bundle.Generations]. Who is killed stays so.
func (o *Operator) Publish(ctx context.Context, p *plan.Plan) (*api.Converged, error) {
	encoded, err := p.Encode()
	if err != nil {
		return nil, err
	}
	before, seq, err := o.base(ctx, spell(p, encoded))
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if o.overtaken(before) {
		return nil, o.conflict(ctx, o.Over, before.Seq)
	}
	next := &Bundle{Seq: seq, Plan: p, planVersion: version(encoded), encoded: encoded}
	if before != nil {
		next.Killed, next.Generations, next.Evicted = before.Killed, generations(seq, before, p), before.Evicted
	}
	if err := o.create(ctx, before, next); err != nil {
		return nil, err
	}
	return o.rollOut(ctx, before, next)
}

// overtaken reports whether something other than Over was published meanwhile. A
// kill is no other plan.
func (o *Operator) overtaken(before *Bundle) bool {
	return o.Over != nil && before != nil && (o.Over.Seq == 0 || o.Over.version() != before.version())
}

// Newest returns the publication that the next one follows: the newest of the
// store, or of the control planes if the store has lost it; or [ErrNone].
func (o *Operator) Newest(ctx context.Context) (*Bundle, error) {
	b, _, err := o.base(ctx, nil)
	return b, err
}

// base returns the publication that the next one follows, and its number: the
// newest. What a control plane serves counts
// too: a store that lost something, or was put back to an older copy, takes
// nothing back that way. known is as for [Store.get].
func (o *Operator) base(ctx context.Context, known *spelling) (*Bundle, uint64, error) {
	v, err := o.Look(ctx)
	if err != nil {
		return nil, 0, err
	}
	seq := v.Newest
	b, err := o.at(ctx, seq, known)
	if err != nil {
		seq = 0 // anything that a control plane has is better
	}
	for _, c := range o.Controls {
		sealed, failed := c.Live(ctx, seq)
		if failed != nil || len(sealed) == 0 {
			continue
		}
		live, failed := o.verifyKept(sealed, known)
		if failed != nil {
			return nil, 0, fmt.Errorf("the control plane's publication: %w", failed)
		}
		if live.Seq > seq {
			b, seq, err = live, live.Seq, nil
		}
	}
	next := max(v.Newest, seq) + 1
	if len(o.Controls) == 0 && err == nil {
		lost, failed := o.lost(ctx, v)
		if failed != nil {
			return nil, 0, failed
		}
		next = max(next, lost+1)
	}
	if next > maxSeq {
		return nil, 0, fmt.Errorf("the bundle store %s has an object with the number %d, which belongs to no publication: remove it", o.name(), next-1)
	}
	return b, next, err
}

// NewestProven returns the newest publication above a number that can be verified,
// with its mark, or [ErrNone]. What somebody has put above it hides no kill, and
// does not keep one from being based on it.
func (s *Store) NewestProven(ctx context.Context, v *View, above uint64) (*Bundle, error) {
	var first error
	for _, seq := range slices.Backward(v.marked) {
		if seq <= above {
			break
		}
		b, err := s.Get(ctx, seq)
		if err == nil {
			err = s.Proven(ctx, b)
		}
		if err == nil {
			return b, nil
		}
		var broken *BrokenError
		if !errors.As(err, &broken) && gcerrors.Code(err) != gcerrors.NotFound {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return nil, first
	}
	return nil, ErrNone
}

// lost returns the number of the newest publication that a replica serves and
// the store does not hold any more, or 0.
func (o *Operator) lost(ctx context.Context, v *View) (uint64, error) {
	if len(v.Reports) == 0 {
		return 0, nil
	}
	all, err := o.Reports(ctx)
	if err != nil {
		return 0, err
	}
	most := uint64(0)
	for _, r := range all {
		if r.Seq > max(v.Newest, most) {
			most = r.Seq
			o.say("the bundle store has lost publications up to %d, which control plane %s serves: who was killed by them is not known here; look with `postern status`, and kill again", r.Seq, r.ID)
		}
	}
	return most, nil
}

func (o *Operator) at(ctx context.Context, seq uint64, known *spelling) (*Bundle, error) {
	if seq == 0 {
		return nil, ErrNone
	}
	return o.get(ctx, seq, known)
}

// create stores next. The error is a [*ConflictError] if there is one of that
// number already; before is what the caller had seen, or nil.
func (o *Operator) create(ctx context.Context, before, next *Bundle) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := o.sign(next); err != nil {
		return err
	}
	unlock, err := o.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return o.put(ctx, before, next)
}

// sign makes the object of next.
func (o *Operator) sign(next *Bundle) error {
	key, err := readKey(o.Key)
	if err != nil {
		return err
	}
	next.Time, next.By = time.Now().UTC(), whoami()
	payload, err := encode(next)
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	next.encoded = nil
	next.sealed, err = seal(key, kindBundle, o.Stack, next.Seq, payload)
	return err
}

// put stores next, which is signed. The error is as create's.
func (o *Operator) put(ctx context.Context, before, next *Bundle) error {
	seqs, err := o.numbers(ctx)
	if err != nil {
		return err
	}
	if n := len(seqs); n > 0 && seqs[n-1] >= next.Seq {
		return o.conflict(ctx, before, seqs[n-1])
	}
	name := object(next.Seq, suffixBundle)
	err = o.add(ctx, name, next.sealed)
	if exists(err) {
		return o.conflict(ctx, before, next.Seq)
	}
	if err != nil {
		return err
	}
	if len(seqs) == 0 && !exists(o.write(ctx, name, next.sealed, true)) {
		return errors.Join(fmt.Errorf("the bundle store %s replaces objects that exist, so two operators would not notice each other: it cannot be used", o.name()), o.remove(ctx, name))
	}
	for ; len(seqs) >= keep; seqs = seqs[1:] {
		for _, suffix := range []string{suffixTry, suffixProven, suffixBundle} {
			err := o.remove(ctx, object(seqs[0], suffix))
			if gcerrors.Code(err) == gcerrors.PermissionDenied {
				return nil // this operator may not: they stay, and are in nobody's way
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Operator) conflict(ctx context.Context, before *Bundle, seq uint64) error {
	theirs, err := o.Get(ctx, seq)
	if err != nil {
		return fmt.Errorf("somebody else published in the meantime: %w", err)
	}
	e := &ConflictError{Theirs: theirs}
	was := &plan.Plan{}
	if before != nil && before.Plan != nil {
		was = before.Plan
	}
	for _, c := range plan.Diff(was, theirs.Plan) {
		e.Changes = append(e.Changes, c.Line())
	}
	return e
}

// mark adds a mark to the publication, for that one only: the mark has its hash.
func (o *Operator) mark(ctx context.Context, kind string, b *Bundle, replica string) error {
	sealed, err := o.signMark(kind, b, replica)
	if err != nil {
		return err
	}
	return o.putMark(ctx, kind, b, sealed)
}

func (o *Operator) signMark(kind string, b *Bundle, replica string) ([]byte, error) {
	key, err := readKey(o.Key)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(mark{Hash: b.Hash(), Replica: replica})
	if err != nil {
		return nil, fmt.Errorf("encode mark: %w", err)
	}
	return seal(key, kind, o.Stack, b.Seq, payload)
}

// putMark stores a mark that is signed.
func (s *Store) putMark(ctx context.Context, kind string, b *Bundle, sealed []byte) error {
	suffix := suffixProven
	if kind == kindTry {
		suffix = suffixTry
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.add(ctx, object(b.Seq, suffix), sealed); !exists(err) {
		return err
	}
	var broken *BrokenError
	if _, err := s.marked(ctx, kind, suffix, b); errors.As(err, &broken) {
		// It is none: somebody put it there ahead, so that ours would not count.
		return s.write(ctx, object(b.Seq, suffix), sealed, false)
	}
	return nil // somebody else knew it too
}

// mark is the payload of N.ok and N.try.
type mark struct {
	Hash string `json:"hash"`
	// Replica is who is to try.
	Replica string `json:"replica,omitempty"`
}

// Hash is the SHA-256 of the signed object, in hexadecimal.
func (b *Bundle) Hash() string {
	sum := sha256.Sum256(b.sealed)
	return hex.EncodeToString(sum[:])
}

// Proven reports whether the publication was marked as one that every replica
// may serve.
func (s *Store) Proven(ctx context.Context, b *Bundle) error {
	_, err := s.marked(ctx, kindProven, suffixProven, b)
	return err
}

// Tries returns which replica the publication is marked to be tried by.
func (s *Store) Tries(ctx context.Context, b *Bundle) (string, error) {
	m, err := s.marked(ctx, kindTry, suffixTry, b)
	return m.Replica, err
}

func (s *Store) marked(ctx context.Context, kind, suffix string, b *Bundle) (mark, error) {
	data, err := s.fetch(ctx, object(b.Seq, suffix), maxMark)
	if err != nil && !errors.Is(err, errTooLarge) {
		return mark{}, err
	}
	return s.readMark(kind, b, data, err)
}

// readMark verifies the mark of b that was read; err is why it could not be, or nil.
func (s *Store) readMark(kind string, b *Bundle, data []byte, err error) (mark, error) {
	var m mark
	trusted, failed := ReadTrusted(s.Trusted)
	if failed != nil {
		return m, failed
	}
	var payload []byte
	if err == nil {
		payload, err = unseal(trusted, kind, s.Stack, b.Seq, data)
	}
	if err == nil {
		err = json.Unmarshal(payload, &m)
	}
	if err == nil && m.Hash != b.Hash() {
		err = errors.New("it is for another publication of that number")
	}
	if err != nil {
		return mark{}, &BrokenError{Seq: b.Seq, What: "the mark of publication", Err: err}
	}
	return m, nil
}

// ReadKept reads a file that holds the signed object of a publication, for
// [Store.Verify]. The error is a [*BrokenError] if the file is larger than any.
func ReadKept(file string) ([]byte, error) {
	sealed, err := hostpath.ReadFile(file, maxBundle)
	if unfit := (*hostpath.UnfitError)(nil); errors.As(err, &unfit) {
		err = &BrokenError{What: "publication", Err: unfit}
	}
	return sealed, err
}

// VerifyProven returns the publication of a signed object if the mark says that it is
// proven. The store is not asked.
func (s *Store) VerifyProven(sealed, marked []byte) (*Bundle, error) {
	b, err := s.Verify(sealed)
	if err != nil {
		return nil, err
	}
	if _, err := s.readMark(kindProven, b, marked, nil); err != nil {
		return nil, err
	}
	return b, nil
}

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
		return nil // what is in its place is for status to tell
	default: // it is not there, or the store does not answer: writing tells
		if err := s.add(ctx, object(b.Seq, suffixBundle), b.Sealed()); err != nil && !exists(err) {
			return err
		}
	}
	return s.putMark(ctx, kindProven, b, marked)
}

// withdraw deletes a publication that no control plane serves, unless somebody
// has built on it.
func (o *Operator) withdraw(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	unlock, err := o.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	seqs, err := o.numbers(ctx)
	if err != nil || len(seqs) == 0 || seqs[len(seqs)-1] != seq {
		return err
	}
	for _, suffix := range []string{suffixTry, suffixProven, suffixBundle} {
		if err := o.remove(ctx, object(seq, suffix)); err != nil {
			return err
		}
	}
	return nil
}

// exists reports whether an object was not created because there is one of its name.
func exists(err error) bool {
	return errors.Is(err, fs.ErrExist) || gcerrors.Code(err) == gcerrors.FailedPrecondition
}

// add creates an object; see [exists].
func (s *Store) add(ctx context.Context, name string, data []byte) error {
	err := s.write(ctx, name, data, true)
	if err == nil || exists(err) || ctx.Err() != nil {
		return err
	}
	// Its answer may have been lost, and S3 has an error of its own for two at
	// the same time (409 ConditionalRequestConflict): what is there decides.
	there, failed := s.fetch(ctx, name, maxBundle)
	if failed != nil {
		return err
	}
	if bytes.Equal(there, data) {
		return nil
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
		cancel() // or else Close puts there what fitted
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
			return nil, errors.Join(fmt.Errorf("lock the bundle store: %s is publishing, and holds %s.lock: wait for it, or end it", holder, dir), f.Close())
		}
	}
}

// whoami is for people: nothing is decided by it.
func whoami() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
