package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/cloud"
	existing "github.com/postern/postern/cloud/aws/live"
	"github.com/postern/postern/graph"
)

// liveTimeout bounds the reading of a network: ten times what a large one takes.
const liveTimeout = 10 * time.Minute

// Live reads what exists in networks: see [live.Read].
func (a *Account) Live(
	ctx context.Context, n cloud.Networks, say func(string),
) (*graph.Graph, []cloud.Unread, error) {
	bounded, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	g, unread, err := existing.Read(bounded, a.cfg, n, unanswerable, say)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("AWS has not answered everything within %s: %w", liveTimeout, err)
	}
	return g, unread, explain("read what exists", err)
}

// unanswerable reports whether an answer of that code would be the same again. The others are about
// these credentials, or about how much was asked.
func unanswerable(code string) bool {
	return !strings.Contains(code, "Throttl") && !strings.Contains(code, "Expired") && !slices.Contains([]string{
		"RequestLimitExceeded", "TooManyRequestsException", "InvalidClientTokenId", "SignatureDoesNotMatch",
		"AuthFailure", "UnrecognizedClientException",
	}, code)
}
