package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"

	"gocloud.dev/gcerrors"
)

// mark is the payload of N.ok and N.try.
type mark struct {
	Hash string `json:"hash"`
	// Replica is the replica that is to try.
	Replica string `json:"replica,omitempty"`
}

// Hash is the SHA-256 of the signed object, in hexadecimal.
func (b *Bundle) Hash() string {
	sum := sha256.Sum256(b.sealed)
	return hex.EncodeToString(sum[:])
}

// Proven returns nil if the publication has the mark that every replica may serve it.
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

// VerifyProven returns the publication of a signed object, if the mark says that it is proven. It
// does not ask the store.
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
