// Package bundle is the published plan: an object in a blob store, the source
// of truth for the control plane.
package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	"gocloud.dev/gcerrors"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// key is the object that holds the plan.
const key = "plan.json"

// ErrNone means that nothing was published yet.
var ErrNone = errors.New("nothing was published yet")

// Read returns the plan that is published in the store at url, or [ErrNone].
func Read(ctx context.Context, store string) (*plan.Plan, error) {
	b, err := open(ctx, store)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	data, err := b.ReadAll(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle from %s: %w", store, err)
	}
	p := &plan.Plan{}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("decode bundle from %s: %w", store, err)
	}
	return p, nil
}

// Write stores p. A reader sees the old bundle or the new one, never a part.
func Write(ctx context.Context, store string, p *plan.Plan) error {
	data, err := p.Encode()
	if err != nil {
		return err
	}
	b, err := open(ctx, store)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.WriteAll(ctx, key, data, &blob.WriterOptions{ContentType: "application/json"}); err != nil {
		return fmt.Errorf("write bundle to %s: %w", store, err)
	}
	return nil
}

// Remove deletes what is published. It is idempotent.
func Remove(ctx context.Context, store string) error {
	b, err := open(ctx, store)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete bundle from %s: %w", store, err)
	}
	return nil
}

// Publish writes p to the store, has the control plane roll it out, and returns
// when every connected node has acknowledged all of it. If it is not taken (the
// error is then an [*api.Error], with Envoy's message if a node refused it),
// the store holds what it held before.
func Publish(ctx context.Context, store string, c *api.Client, p *plan.Plan) (*api.Converged, error) {
	before, err := Read(ctx, store)
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if err := Write(ctx, store, p); err != nil {
		return nil, err
	}
	v, err := c.Sync(ctx)
	if err == nil {
		return v, nil
	}
	// Also when the caller gave up; the control plane may not know that yet.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	if before == nil {
		return nil, errors.Join(err, Remove(ctx, store))
	}
	err = errors.Join(err, Write(ctx, store, before))
	var refused *api.Error
	if !errors.As(err, &refused) {
		_, again := c.Sync(ctx)
		err = errors.Join(err, again)
	}
	return nil, err
}

// restoreTimeout bounds how long it may take to go back to what was published before.
const restoreTimeout = 10 * time.Second

// open opens the store; a folder is made if it is not there, private to the user.
func open(ctx context.Context, store string) (*blob.Bucket, error) {
	u, err := url.Parse(store)
	if err != nil {
		return nil, fmt.Errorf("open bundle store %q: %w", store, err)
	}
	if u.Scheme == "file" {
		if err := os.MkdirAll(u.Path, 0o700); err != nil {
			return nil, fmt.Errorf("open bundle store: %w", err)
		}
		q := u.Query()
		// Temporary files beside the object, so that the rename is atomic; no attribute files.
		q.Set("no_tmp_dir", "true")
		q.Set("metadata", "skip")
		u.RawQuery = q.Encode()
		store = u.String()
	}
	b, err := blob.OpenBucket(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("open bundle store %s: %w", strings.SplitN(store, "?", 2)[0], err)
	}
	return b, nil
}
