package bundle

import (
	"context"
	"errors"

	"gocloud.dev/gcerrors"
)

// Earlier returns the newest publication of the history that was live and has another plan than the
// version, or [ErrNone]. The history is in the order of [Store.History]. A publication that was
// never proven was not live. A publication that was taken back does not count either, even if some
// nodes had it.
func (s *Store) Earlier(ctx context.Context, history []*Bundle, version string) (*Bundle, error) {
	back := map[uint64]bool{}
	for _, b := range history {
		if b.Broken() != nil {
			continue
		}
		back[b.TakesBack] = true
		if back[b.Seq] || b.version() == version {
			continue
		}
		var broken *BrokenError
		switch err := s.Proven(ctx, b); {
		case err == nil:
			return b, nil
		case !errors.As(err, &broken) && gcerrors.Code(err) != gcerrors.NotFound:
			return nil, err
		}
	}
	return nil, ErrNone
}
