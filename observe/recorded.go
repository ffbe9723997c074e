package observe

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postern/postern/bundle"
)

// RecordedKills returns an error that names the agents that are killed by what is recorded, for a
// control plane that does not answer, or nil.
func RecordedKills(ctx context.Context, o *bundle.Operator) error {
	b, err := o.Current(ctx)
	if err != nil {
		return nil //nolint:nilerr // that the control plane does not answer is said already
	}
	switch {
	case b.Killed.Stack:
		return errors.New("recorded as killed: every agent")
	case len(b.Killed.Agents) > 0:
		return fmt.Errorf("recorded as killed: %s", strings.Join(b.Killed.Agents, ", "))
	}
	return nil
}
