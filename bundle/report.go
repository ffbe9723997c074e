package bundle

import (
	"bytes"
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
	// Heartbeat is the longest time between two reports of a replica.
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
			return nil, fmt.Errorf("read the certificate of the stack's authority, which the control planes' reports "+
				"are verified with: %w", err)
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

// Report replaces the replica's report, signed by its reporter.
func (s *Store) Report(ctx context.Context, r *api.Replica, by *Reporter) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	payload, err := json.Marshal(r)
	if err == nil && len(payload) > maxReport/2 {
		// A long text must not make the report too large to be read.
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

// Reports returns the reports of the replicas, sorted by name. It leaves out a report that is not
// signed or is torn.
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
	said, err := api.Printable(payload)
	if err != nil || json.Unmarshal(line, &h) != nil || h.Kind != kindReport || h.Stack != s.Stack ||
		json.Unmarshal(said, r) != nil || r.ID != id {
		return nil, nil //nolint:nilerr // it is due again soon
	}
	if vouched(cert, s.Stack, h.Certificate, h.message(payload), h.Signature, time.Now()) != nil {
		return nil, nil //nolint:nilerr // nobody of this stack has signed it
	}
	r.Stale = time.Since(r.Time) > Stale
	return r, nil
}
