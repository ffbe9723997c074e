// Package observe tells how the fleet of a stack is: by its control plane on this machine, by what
// control planes elsewhere report, and, if none answers, by what is recorded.
package observe

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern/postern/xds/api"
)

// Here is the fleet of a control plane on this machine.
type Here struct {
	*api.Client
	Stack string
}

// Status returns what the control plane says.
func (h Here) Status(ctx context.Context) (*api.Status, error) {
	s, err := h.Client.Status(ctx)
	if hung := (*api.HungError)(nil); errors.As(err, &hung) {
		return nil, fmt.Errorf("stack %s: %w; its nodes keep the version that they have; `postern up %s` replaces it",
			h.Stack, err, h.Stack)
	}
	if err != nil {
		return nil, fmt.Errorf("stack %s is not up: %w; bring it up with `postern up %s`", h.Stack, err, h.Stack)
	}
	return s, nil
}
