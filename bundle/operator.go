package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"gocloud.dev/gcerrors"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// Operator publishes: it has a store, the key that signs, and the control planes that it can tell.
// Several goroutines may call its methods at once; of those that publish, one wins.
type Operator struct {
	*Store
	// Key is the PEM file of the Ed25519 key; see [MakeKey].
	Key string
	// Controls are told directly, the first one first. If there is none, the replicas find the
	// publication in the store, and Operator waits for their reports there.
	Controls []*api.Client
	// Kept are the files in which a control plane on this machine keeps what it serves. A kill is
	// based on them when neither the store nor the control plane answers.
	Kept []string
	// Over, if set, is the publication that a person was shown. If another plan is published by
	// then, Publish returns a [*ConflictError]. A Seq of 0 means that nothing was published.
	Over *Bundle
	// Killed are the agents that the first publication of a store kills.
	Killed Killed
	// Say, if set, is told how it goes.
	Say func(string)
}

// keep is the number of publications that a store holds. An operator who may delete deletes older
// ones.
const keep = 200

// Publish publishes p and makes the control planes roll it out, one first and then the others. It
// returns when every connected node has acknowledged all of it. If p is not taken, the error is an
// [*api.Error], with Envoy's message if a node refused p. If p is not taken or ctx ends, the
// previous publication counts again, everywhere.
//
// If an agent loses anything by p, it loses its connections too; see [Bundle.Generations]. Killed
// agents stay killed.
func (o *Operator) Publish(ctx context.Context, p *plan.Plan) (*api.Converged, error) {
	encoded, err := p.Encode()
	if err != nil {
		return nil, err
	}
	before, seq, err := o.base(ctx, &expected{p, encoded})
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if o.overtaken(before) {
		return nil, o.conflict(ctx, o.Over, before.Seq)
	}
	next := &Bundle{Seq: seq, Plan: p, Killed: o.Killed, planVersion: version(encoded), encoded: encoded}
	if before != nil {
		next.Killed, next.Generations, next.Evicted = before.Killed, generations(seq, before, p), before.Evicted
	}
	if err := o.create(ctx, before, next); err != nil {
		return nil, err
	}
	return o.rollOut(ctx, before, next)
}

// overtaken reports whether something other than Over was published meanwhile. A kill does not
// count as another plan.
func (o *Operator) overtaken(before *Bundle) bool {
	return o.Over != nil && before != nil && (o.Over.Seq == 0 || o.Over.version() != before.version())
}

// Newest returns the publication that the next one follows: the newest of the
// store, or of the control planes if the store has lost it; or [ErrNone].
func (o *Operator) Newest(ctx context.Context) (*Bundle, error) {
	b, _, err := o.base(ctx, nil)
	return b, err
}

// base returns the publication that the next one follows, and its number: the newest. A publication
// that a control plane serves counts too. So a store that lost something, or was put back to an
// older copy, takes nothing back. known is as for [Store.get].
func (o *Operator) base(ctx context.Context, known *expected) (*Bundle, uint64, error) {
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
		return nil, 0, fmt.Errorf("the bundle store %s has an object with the number %d, which belongs to no "+
			"publication: remove it", o.name(), next-1)
	}
	return b, next, err
}

// lost returns the number of the newest publication that a replica serves and the store no longer
// holds, or 0.
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
			o.say("the bundle store has lost publications up to %d, which control plane %s serves: who was killed by "+
				"them is not known here; look with `postern status`, and kill again", r.Seq, r.ID)
		}
	}
	return most, nil
}

func (o *Operator) at(ctx context.Context, seq uint64, known *expected) (*Bundle, error) {
	if seq == 0 {
		return nil, ErrNone
	}
	return o.get(ctx, seq, known)
}

// create stores next. The error is a [*ConflictError] if the number is taken. before is the
// publication that the caller had seen, or nil.
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

// put stores next, which is signed. Its errors are those of [Operator.create].
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
		return errors.Join(fmt.Errorf("the bundle store %s replaces objects that exist, so two operators would not "+
			"notice each other: it cannot be used", o.name()), o.remove(ctx, name))
	}
	for ; len(seqs) >= keep; seqs = seqs[1:] {
		for _, suffix := range []string{suffixProof, suffixTry, suffixProven, suffixBundle} {
			err := o.remove(ctx, object(seqs[0], suffix))
			if gcerrors.Code(err) == gcerrors.PermissionDenied {
				return nil // this operator may not delete: old publications stay, and do no harm
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
	for _, suffix := range []string{suffixProof, suffixTry, suffixProven, suffixBundle} {
		if err := o.remove(ctx, object(seq, suffix)); err != nil {
			return err
		}
	}
	return nil
}

// whoami returns the user's name for people. Nothing is decided by it.
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
