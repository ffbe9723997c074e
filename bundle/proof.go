package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Proof is a report of `postern prove` that an operator has signed, for one publication.
type Proof struct {
	// Hash is [Bundle.Hash] of the publication.
	Hash string `json:"hash"`
	// By and Time say who signed it, and when.
	By   string    `json:"by"`
	Time time.Time `json:"time"`
	// Report is the report as JSON.
	Report json.RawMessage `json:"report"`
}

// KeepProof signs the report and keeps it next to the publication, in place of an earlier one.
func (o *Operator) KeepProof(ctx context.Context, b *Bundle, report []byte) error {
	key, err := readKey(o.Key)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(&Proof{Hash: b.Hash(), By: whoami(), Time: time.Now().UTC(), Report: report})
	if err != nil {
		return fmt.Errorf("encode the proof: %w", err)
	}
	sealed, err := seal(key, kindProof, o.Stack, b.Seq, payload)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return o.write(ctx, object(b.Seq, suffixProof), sealed, false)
}

// Proof returns the report that is kept next to the publication. One that no trusted operator has
// signed, or that is for another publication, is an error.
func (s *Store) Proof(ctx context.Context, b *Bundle) (*Proof, error) {
	sealed, err := s.fetch(ctx, object(b.Seq, suffixProof), maxBundle)
	if err != nil {
		return nil, err
	}
	trusted, err := ReadTrusted(s.Trusted)
	if err != nil {
		return nil, err
	}
	payload, err := unseal(trusted, kindProof, s.Stack, b.Seq, sealed)
	p := &Proof{}
	if err == nil {
		err = json.Unmarshal(payload, p)
	}
	if err == nil && p.Hash != b.Hash() {
		err = errors.New("it is for another publication of that number")
	}
	if err != nil {
		return nil, &BrokenError{Seq: b.Seq, What: "the proof of publication", Err: err}
	}
	return p, nil
}
