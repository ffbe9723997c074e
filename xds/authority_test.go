package xds

import (
	"crypto"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/mint"
)

// outage is a key that cannot be used while it is down.
type outage struct {
	crypto.Signer
	down bool
}

func (o *outage) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if o.down {
		return nil, errors.New("the key is away")
	}
	return o.Signer.Sign(r, digest, opts)
}

// TestKeyIsAway: status tells that the CA's key cannot be used, from the first failure until it
// can.
func TestKeyIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(t, "a")
	key := &outage{Signer: c.key}
	var err error
	c.mint, err = mint.New(c.root, key, c.meter.leaves, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, c.mint.Also(policyOf("api.one.test"), start))

	key.down = true
	c.renewAuthority(start)
	require.Empty(t, c.Status().Problem)
	c.renewAuthority(start.Add(5 * 24 * time.Hour))
	require.Contains(t, c.Status().Problem, "the agents' certificates cannot be renewed, and end at ")
	require.Contains(t, c.Status().Problem, "the key is away")
	key.down = false
	c.renewAuthority(start.Add(5 * 24 * time.Hour))
	require.Empty(t, c.Status().Problem)
}
