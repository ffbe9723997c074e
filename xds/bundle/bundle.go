// Package bundle is what is published: a plan, and what was decided about it
// since. It is an object in a blob store, the source of truth for every
// replica of the control plane.
//
// Each publication is an object of its own, numbered without holes from 1 and
// never changed: the highest number is what counts, the others are its history.
// An object is only ever created, so of two operators who publish at once one
// wins, and the other is told.
package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	"gocloud.dev/gcerrors"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
)

// Bundle is one publication.
type Bundle struct {
	// Seq is its number.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// By is who published it, as the machine of the publisher knows them.
	By   string     `json:"by"`
	Plan *plan.Plan `json:"plan"`
	// Generations tell, by agent, a policy from one that was narrower or other
	// than before: connections of an earlier generation are cut. An agent that
	// is missing has never lost anything.
	Generations map[string]string `json:"generations,omitempty"`
	Killed      Killed            `json:"killed,omitzero"`
}

// Killed says who may do nothing at all, whatever the plan says.
type Killed struct {
	// Stack stops every agent.
	Stack bool `json:"stack,omitempty"`
	// Agents are sorted.
	Agents []string `json:"agents,omitempty"`
}

// Agent reports whether the agent is stopped.
func (k Killed) Agent(name string) bool { return k.Stack || slices.Contains(k.Agents, name) }

// ErrNone means that nothing was published yet.
var ErrNone = errors.New("nothing was published yet")

// ConflictError means that somebody else published in the meantime.
type ConflictError struct{ Theirs *Bundle }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s published version %s at %s, in the meantime; nothing of yours was published: look at what changed (`postern diff`) and try again",
		e.Theirs.By, e.Theirs.version(), e.Theirs.Time.Format(time.RFC3339))
}

func (b *Bundle) version() string {
	v, err := b.Plan.Version()
	if err != nil {
		return "unknown"
	}
	return v
}

// keep is how many publications a store holds; older ones are deleted.
const keep = 200

func object(seq uint64) string { return fmt.Sprintf("%016d.json", seq) }

// Current returns what is published in the store, or [ErrNone].
func Current(ctx context.Context, store string) (*Bundle, error) {
	b, err := open(ctx, store)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	for {
		names, err := list(ctx, b)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, ErrNone
		}
		one, err := read(ctx, b, names[len(names)-1])
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue // it was withdrawn between the two
		}
		return one, err
	}
}

// Read returns the plan that is published in the store, or [ErrNone].
func Read(ctx context.Context, store string) (*plan.Plan, error) {
	b, err := Current(ctx, store)
	if err != nil {
		return nil, err
	}
	return b.Plan, nil
}

// History returns what was published in the store, the newest first.
func History(ctx context.Context, store string) ([]*Bundle, error) {
	b, err := open(ctx, store)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	names, err := list(ctx, b)
	if err != nil {
		return nil, err
	}
	slices.Reverse(names)
	bundles := make([]*Bundle, 0, len(names))
	for _, name := range names {
		one, err := read(ctx, b, name)
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue // it was withdrawn meanwhile
		}
		if err != nil {
			return nil, err
		}
		bundles = append(bundles, one)
	}
	return bundles, nil
}

// create stores b as the publication after b.Seq-1. The error is a
// [*ConflictError] if there is one already.
func create(ctx context.Context, store string, b *Bundle) error {
	data, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	bucket, err := open(ctx, store)
	if err != nil {
		return err
	}
	defer bucket.Close()
	unlock, err := lock(store)
	if err != nil {
		return err
	}
	defer unlock()
	names, err := list(ctx, bucket)
	if err != nil {
		return err
	}
	if len(names) > 0 && names[len(names)-1] >= object(b.Seq) {
		return conflict(ctx, bucket, names[len(names)-1])
	}
	err = bucket.WriteAll(ctx, object(b.Seq), data, &blob.WriterOptions{ContentType: "application/json", IfNotExist: true})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return conflict(ctx, bucket, object(b.Seq))
	}
	if err != nil {
		return fmt.Errorf("write bundle to %s: %w", store, err)
	}
	for len(names) >= keep {
		if err := bucket.Delete(ctx, names[0]); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return fmt.Errorf("delete old bundle from %s: %w", store, err)
		}
		names = names[1:]
	}
	return nil
}

func conflict(ctx context.Context, b *blob.Bucket, name string) error {
	theirs, err := read(ctx, b, name)
	if err != nil {
		return fmt.Errorf("somebody else published in the meantime: %w", err)
	}
	return &ConflictError{Theirs: theirs}
}

// withdraw deletes the publication again, unless somebody has built on it.
func withdraw(ctx context.Context, store string, seq uint64) error {
	b, err := open(ctx, store)
	if err != nil {
		return err
	}
	defer b.Close()
	unlock, err := lock(store)
	if err != nil {
		return err
	}
	defer unlock()
	names, err := list(ctx, b)
	if err != nil || len(names) == 0 || names[len(names)-1] != object(seq) {
		return err
	}
	if err := b.Delete(ctx, object(seq)); err != nil {
		return fmt.Errorf("delete bundle from %s: %w", store, err)
	}
	return nil
}

// list returns the names of the publications, the oldest first.
func list(ctx context.Context, b *blob.Bucket) ([]string, error) {
	var names []string
	for it := b.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return names, nil // sorted by the store
		}
		if err != nil {
			return nil, fmt.Errorf("list bundles: %w", err)
		}
		if strings.HasSuffix(o.Key, ".json") {
			names = append(names, o.Key)
		}
	}
}

func read(ctx context.Context, b *blob.Bucket, name string) (*Bundle, error) {
	data, err := b.ReadAll(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", name, err)
	}
	one := &Bundle{}
	if err := json.Unmarshal(data, one); err != nil {
		return nil, fmt.Errorf("decode bundle %s: %w", name, err)
	}
	if one.Plan == nil || object(one.Seq) != name {
		return nil, fmt.Errorf("decode bundle %s: it is not what its name says", name)
	}
	return one, nil
}

// lock keeps other processes of this machine from publishing to a folder; other
// stores create an object only if it does not exist by themselves.
func lock(store string) (func(), error) {
	u, err := url.Parse(store)
	if err != nil || u.Scheme != "file" {
		return func() {}, nil //nolint:nilerr // open has told
	}
	f, err := os.OpenFile(u.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock bundle store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock bundle store: %w", err), f.Close())
	}
	return func() { f.Close() }, nil
}

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
