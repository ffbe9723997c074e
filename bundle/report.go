package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gocloud.dev/gcerrors"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/xds/api"
)

const (
	// Heartbeat is how often a replica reports at least.
	Heartbeat = 10 * time.Second
	// Stale is after how long without a report a replica counts as gone. The
	// clocks of operators and replicas differ by less.
	Stale = 3 * Heartbeat
	// takeTimeout bounds how long a replica may take for a publication that it
	// finds in the store: to find it, to roll it out, and to report.
	takeTimeout = 45 * time.Second
)

// CertificateIn returns what [Store.Authority] is, for a PEM file.
func CertificateIn(file string) func() (*x509.Certificate, error) {
	return func() (*x509.Certificate, error) {
		content, err := hostpath.ReadFile(file, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the stack's authority, which the control planes' reports are verified with: %w", err)
		}
		block, _ := pem.Decode(content)
		if block == nil {
			return nil, fmt.Errorf("%s has no certificate in PEM", file)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return cert, nil
	}
}

// Report replaces what the replica says of itself, signed by its reporter.
func (s *Store) Report(ctx context.Context, r *api.Replica, by *Reporter) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	payload, err := json.Marshal(r)
	if err == nil && len(payload) > maxReport/2 {
		// What is said in many words must not keep the rest from being read.
		less := *r
		less.Fleet, less.Credentials = nil, nil
		payload, err = json.Marshal(&less)
	}
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	h := header{Kind: kindReport, Stack: s.Stack, Seq: r.Seq, Certificate: by.cert}
	if h.Signature, err = by.sign(h.message(payload)); err != nil {
		return fmt.Errorf("sign report: %w", err)
	}
	line, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return s.write(ctx, "replicas/"+r.ID+suffixBundle, append(append(line, '\n'), payload...), false)
}

// Reports returns what the replicas say of themselves, sorted by name. One that
// is not signed, or is torn, is left out: what it says nobody knows.
func (s *Store) Reports(ctx context.Context) ([]api.Replica, error) {
	v, err := s.Look(ctx)
	if err != nil {
		return nil, err
	}
	var all []api.Replica
	for id := range v.Reports {
		r, err := s.ReadReport(ctx, id)
		if err != nil {
			return nil, err
		}
		if r != nil {
			all = append(all, *r)
		}
	}
	slices.SortFunc(all, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// ReadReport returns the report of one replica, nil if there is none that can
// be read and verified.
func (s *Store) ReadReport(ctx context.Context, id string) (*api.Replica, error) {
	if s.Authority == nil {
		return nil, errors.New("read a control plane's report: it is not known who signs it")
	}
	cert, err := s.Authority()
	if err != nil {
		return nil, err
	}
	data, err := s.fetch(ctx, "replicas/"+id+suffixBundle, maxReport)
	if gcerrors.Code(err) == gcerrors.NotFound || errors.Is(err, errTooLarge) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	line, payload, _ := bytes.Cut(data, []byte("\n"))
	var h header
	r := &api.Replica{}
	// One that is torn is due again soon.
	if json.Unmarshal(line, &h) != nil || h.Kind != kindReport || h.Stack != s.Stack || json.Unmarshal(payload, r) != nil || r.ID != id {
		return nil, nil
	}
	if vouched(cert, s.Stack, h.Certificate, h.message(payload), h.Signature, time.Now()) != nil {
		return nil, nil //nolint:nilerr // nobody of this stack has said it
	}
	r.Stale = time.Since(r.Time) > Stale
	return r, nil
}

// replicas are the names of those that have reported of late. One whose report is
// overdue may have died, and is behind the others.
func (o *Operator) replicas(ctx context.Context) ([]string, error) {
	all, err := o.Reports(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b api.Replica) int {
		return cmp.Compare(time.Since(a.Time)/(Heartbeat*3/2), time.Since(b.Time)/(Heartbeat*3/2))
	})
	var ids []string
	for _, r := range all {
		if r.Stale {
			o.say("control plane %s has not reported since %s: it is not waited for", r.ID, r.Time.Local().Format(time.DateTime))
			continue
		}
		ids = append(ids, r.ID)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("no control plane has reported to the bundle store %s within %s: nobody would serve a publication; check that one runs (`postern status`), with the stack's authority", o.name(), Stale)
	}
	return ids, nil
}

// throughStore is [Operator.rollOut] where no control plane can be told: one
// replica is asked to try, and when it reports that its nodes have
// acknowledged, the mark lets the others follow.
func (o *Operator) throughStore(ctx context.Context, before, next *Bundle) (*api.Converged, error) {
	start := time.Now()
	withdraw := func(err error) error {
		return errors.Join(err, o.drop(ctx, before, next, err))
	}
	ids, err := o.replicas(ctx)
	if err != nil {
		return nil, withdraw(err)
	}
	if err := o.mark(ctx, kindTry, next, ids[0]); err != nil {
		return nil, withdraw(err)
	}
	o.say("control plane %s tries version %s", ids[0], next.version())
	nodes, newer, err := o.await(ctx, next, ids[:1])
	if newer > 0 {
		return nil, o.conflict(ctx, before, newer)
	}
	var refused *api.Error
	if errors.As(err, &refused) {
		return nil, withdraw(err)
	}
	if err == nil {
		err = o.mark(ctx, kindProven, next, "")
	}
	if err == nil && len(ids) > 1 {
		o.say("live on %d nodes of %s; now %s", nodes, ids[0], strings.Join(ids[1:], ", "))
		var more int
		more, _, err = o.await(ctx, next, ids[1:])
		nodes += more
	}
	if err != nil {
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	return &api.Converged{Seq: next.Seq, Version: next.version(), Nodes: nodes, Millis: millis(start)}, nil
}

// await returns when every one of the replicas reports that its nodes have
// acknowledged b, or something newer, how many nodes those are, and the number of
// what is newer, or 0. One that stops
// to report meanwhile is not waited for, unless no other is left. The error
// is an [*api.Error] if one reports that its nodes have not.
func (o *Operator) await(ctx context.Context, b *Bundle, ids []string) (nodes int, newer uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	tick := time.NewTicker(o.Interval())
	defer tick.Stop()
	waiting, gone := slices.Clone(ids), 0
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return nodes, newer, fmt.Errorf("control plane %s has not taken publication %d: %w", strings.Join(waiting, ", "), b.Seq, ctx.Err())
		case <-tick.C:
		}
		var left []string
		for _, id := range waiting {
			r, err := o.ReadReport(ctx, id)
			switch {
			case err != nil:
				return nodes, newer, err
			case r == nil:
				left = append(left, id)
			case r.Seq == b.Seq && r.Hash == b.Hash(), r.Seq > b.Seq:
				nodes += r.Connected
				if r.Seq > b.Seq {
					newer = r.Seq
				}
				o.say("control plane %s: live on %d nodes", id, r.Connected)
			case r.Failed == b.Seq && r.FailedHash == b.Hash():
				return nodes, newer, &api.Error{Message: fmt.Sprintf("control plane %s: %s", id, r.Problem), Rejection: r.Rejected}
			case r.Stale:
				// It has died, or was replaced, shortly before.
				gone++
				o.say("control plane %s no longer reports: it is not waited for", id)
			default:
				left = append(left, id)
			}
		}
		waiting = left
	}
	if gone == len(ids) && gone > 0 {
		return 0, newer, fmt.Errorf("control plane %s has not taken publication %d, and no longer reports", strings.Join(ids, ", "), b.Seq)
	}
	return nodes, newer, nil
}

// Interval is how often it is worth to look into the store. A folder costs
// nothing, a cloud a fraction of a cent for a thousand times.
func (s *Store) Interval() time.Duration {
	if s.folder() != "" {
		return 250 * time.Millisecond
	}
	return time.Second
}
