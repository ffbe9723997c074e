package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	"gocloud.dev/gcerrors"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/svid"
)

// timeout bounds one reading of a store, and one writing.
const timeout = 10 * time.Second

// Bounds of what is read, in bytes. Until a signature is verified, whoever can write to the store
// is not trusted.
const (
	maxBundle = 64 << 20
	maxMark   = 4 << 10
	maxReport = 64 << 10
)

// maxReplicas bounds the reports that are looked at.
const maxReplicas = 100

// Store reads a bundle store. It is safe for concurrent use. Do not change its fields after the
// first use.
type Store struct {
	// URL is file://, or with package drivers s3:// or gs://.
	URL string
	// Stack is the stack of these publications. A publication that was signed for another stack is
	// refused.
	Stack string
	// Trusted is the file of the operators' public keys: see [ReadTrusted]. It is read again each
	// time.
	Trusted string
	// Authority returns the certificate of the authority that agents trust: its
	// key signs the reports. It is asked each time; without it none can be read.
	Authority func() (*x509.Certificate, error)

	mu sync.Mutex
	// cloud is the bucket, once it is open: opening one looks for credentials.
	cloud *blob.Bucket
	// last is the publication that was read last. Most looks find the same again, or little else.
	last    *Bundle
	spelled *spelling
	// trusted are the keys by one of which last was verified.
	trusted []ed25519.PublicKey
	// expected is the plan that is probably published: see [Store.Expect].
	expected *expected
}

// View lists the content of a store at one moment, by the names of its objects.
type View struct {
	// Newest is the highest number, Proven the highest that has a mark, whatever
	// is in it; 0 if there is none.
	Newest, Proven uint64
	// marked are the numbers of all that have a mark, the lowest first.
	marked []uint64
	// Tag tells the newest object from another under its name.
	Tag string
	// Try means that Newest is marked to be tried.
	Try bool
	// Reports tell a report by its replica's name from an older one.
	Reports map[string]string
}

const (
	suffixBundle = ".json"
	suffixProven = ".ok"
	suffixTry    = ".try"
	suffixProof  = ".proof"
)

// maxSeq is the highest number, of 16 digits.
const maxSeq = 9999999999999999

func object(seq uint64, suffix string) string { return fmt.Sprintf("%016d%s", seq, suffix) }

// numbered is the reverse of object.
func numbered(name string) (seq uint64, suffix string, ok bool) {
	suffix = path.Ext(name)
	seq, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 10, 64)
	return seq, suffix, err == nil && seq > 0 && seq <= maxSeq && object(seq, suffix) == name
}

// Marked reports whether the publication has a mark, whoever made it. It is for people.
func (v *View) Marked(seq uint64) bool { return slices.Contains(v.marked, seq) }

// Look lists the store: one request, nothing is read.
func (s *Store) Look(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v := &View{Reports: map[string]string{}}
	bundles, marks, tries := map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}
	objects, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if name, ok := strings.CutPrefix(o.Key, "replicas/"); ok {
			id, ok := strings.CutSuffix(name, suffixBundle)
			if ok && svid.IsName(id) && len(v.Reports) < maxReplicas {
				v.Reports[id] = tag(o)
			}
			continue
		}
		switch seq, suffix, ok := numbered(o.Key); {
		case ok && suffix == suffixBundle:
			bundles[seq] = true
			if seq > v.Newest {
				v.Newest, v.Tag = seq, tag(o)
			}
		case ok && suffix == suffixProven:
			marks[seq] = true
		case ok && suffix == suffixTry:
			tries[seq] = true
		}
	}
	// A mark without a publication is ignored: somebody may have put it there in advance.
	for seq := range marks {
		if bundles[seq] {
			v.marked = append(v.marked, seq)
		}
	}
	slices.Sort(v.marked)
	if n := len(v.marked); n > 0 {
		v.Proven = v.marked[n-1]
	}
	v.Try = tries[v.Newest]
	return v, nil
}

func tag(o *blob.ListObject) string {
	return fmt.Sprintf("%x %d %d", o.MD5, o.Size, o.ModTime.UnixNano())
}

// Current returns the newest publication, or [ErrNone]. If the newest publication cannot be
// verified, the error says why: Current never returns an older one in its place.
func (s *Store) Current(ctx context.Context) (*Bundle, error) {
	for {
		v, err := s.Look(ctx)
		if err != nil {
			return nil, err
		}
		if v.Newest == 0 {
			return nil, ErrNone
		}
		one, err := s.Get(ctx, v.Newest)
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue // it was withdrawn between the two
		}
		return one, err
	}
}

// Read returns the plan that is published, or [ErrNone].
func (s *Store) Read(ctx context.Context) (*plan.Plan, error) {
	b, err := s.Current(ctx)
	if err != nil {
		return nil, err
	}
	return b.Plan, nil
}

// History returns the publications, the newest first; see [Bundle.Broken].
func (s *Store) History(ctx context.Context) ([]*Bundle, error) {
	seqs, err := s.numbers(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(seqs)
	bundles := make([]*Bundle, 0, len(seqs))
	for _, seq := range seqs {
		one, err := s.Get(ctx, seq)
		var bad *BrokenError
		switch {
		case gcerrors.Code(err) == gcerrors.NotFound: // it was withdrawn meanwhile
		case errors.As(err, &bad):
			bundles = append(bundles, &Bundle{Seq: seq, Plan: &plan.Plan{}, broken: err})
		case err != nil:
			return nil, err
		default:
			bundles = append(bundles, one)
		}
	}
	return bundles, nil
}

// BrokenError means that an object was read, but is not what an operator put
// into its place.
type BrokenError struct {
	Seq  uint64
	What string
	Err  error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%s %d cannot be used: %v", e.What, e.Seq, e.Err)
}
func (e *BrokenError) Unwrap() error { return e.Err }

// Get returns the publication of that number. The error is a [*BrokenError] if
// it cannot be verified.
func (s *Store) Get(ctx context.Context, seq uint64) (*Bundle, error) {
	return s.get(ctx, seq, nil)
}

// get is Get for a caller that knows a plan of which most is probably in it, or nil.
func (s *Store) get(ctx context.Context, seq uint64, known *expected) (*Bundle, error) {
	data, err := s.fetch(ctx, object(seq, suffixBundle), maxBundle)
	if errors.Is(err, errTooLarge) {
		return nil, &BrokenError{Seq: seq, What: "publication", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return s.verify(seq, data, known)
}

// Verify is Get for an object that was kept: [Bundle.Sealed].
func (s *Store) Verify(sealed []byte) (*Bundle, error) { return s.verifyKept(sealed, nil) }

// Expect tells the store which plan is probably published: equal rules are not decoded. The caller
// must not change p afterwards.
func (s *Store) Expect(p *plan.Plan) error {
	encoded, err := p.Encode()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected = &expected{p, encoded}
	return nil
}

func (s *Store) verifyKept(sealed []byte, known *expected) (*Bundle, error) {
	var h header
	line, _, _ := bytes.Cut(sealed, []byte("\n"))
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, &BrokenError{What: "publication", Err: errors.New("it is torn, or no publication at all")}
	}
	return s.verify(h.Seq, sealed, known)
}

func (s *Store) verify(seq uint64, sealed []byte, known *expected) (*Bundle, error) {
	trusted, err := ReadTrusted(s.Trusted)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; `postern up` makes the first", err)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	last, spelled, keys, expected := s.last, s.spelled, s.trusted, s.expected
	s.mu.Unlock()
	sameKey := func(a, b ed25519.PublicKey) bool { return a.Equal(b) }
	if last != nil && last.Seq == seq && bytes.Equal(last.sealed, sealed) && slices.EqualFunc(keys, trusted, sameKey) {
		same := *last // its plan is shared, and never changed
		return &same, nil
	}
	payload, err := unseal(trusted, kindBundle, s.Stack, seq, sealed)
	if err != nil {
		return nil, &BrokenError{Seq: seq, What: "publication", Err: err}
	}
	if known != nil {
		expected = known
	}
	b := decodeAs(payload, expected)
	if b == nil {
		if expected != nil {
			spelled = spell(expected.plan, expected.encoded)
		}
		b, spelled, err = decode(payload, spelled)
	}
	if err != nil {
		return nil, &BrokenError{Seq: seq, What: "publication", Err: err}
	}
	if b.Plan == nil || b.Seq != seq {
		return nil, &BrokenError{Seq: seq, What: "publication", Err: errors.New("it is not what its name says")}
	}
	b.sealed = sealed
	same := *b
	if known != nil {
		return &same, nil // it shares rules with the caller's plan, which the caller may change
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.spelled, s.trusted = b, spelled, trusted
	return &same, nil
}

// numbers returns the numbers of the publications, the lowest first.
func (s *Store) numbers(ctx context.Context) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var seqs []uint64
	objects, err := s.list(ctx)
	for _, o := range objects {
		if seq, suffix, ok := numbered(o.Key); ok && suffix == suffixBundle {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs, err
}

// list returns all objects. It lists a folder again if a file in it disappears meanwhile, e.g. the
// temporary file of another replica's report.
func (s *Store) list(ctx context.Context) ([]*blob.ListObject, error) {
	b, done, err := s.open(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nobody has published to the folder yet
	}
	if err != nil {
		return nil, err
	}
	defer done()
	for tries := 1; ; tries++ {
		var objects []*blob.ListObject
		it := b.List(nil)
		o, err := it.Next(ctx)
		for ; err == nil; o, err = it.Next(ctx) {
			objects = append(objects, o)
		}
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case gcerrors.Code(err) != gcerrors.NotFound || tries == maxTries:
			return nil, fmt.Errorf("list the bundle store %s: %w", s.name(), err)
		}
	}
}

// maxTries bounds the number of times that a changing folder is listed.
const maxTries = 20

// Has reports whether there is an object of that number: one cheap request. It
// tells nothing of what the object is.
func (s *Store) Has(ctx context.Context, seq uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, done, err := s.open(ctx)
	if err != nil {
		return false
	}
	defer done()
	there, err := b.Exists(ctx, object(seq, suffixBundle))
	return there && err == nil
}

// errTooLarge refuses an object that is too large to be ours.
var errTooLarge = errors.New("it is larger than anything of its kind")

// fetch reads an object of at most that many bytes.
func (s *Store) fetch(ctx context.Context, name string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, done, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := b.NewReader(ctx, name, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s of the bundle store %s: %w", name, s.name(), err)
	}
	defer r.Close() //nolint:errcheck // it was only read
	var data bytes.Buffer
	data.Grow(int(min(r.Size(), most)) + bytes.MinRead) // otherwise copying would take most of the time
	n, err := data.ReadFrom(io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = errTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the bundle store %s: %w", name, s.name(), err)
	}
	return data.Bytes(), nil
}

// Close releases what was opened.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cloud == nil {
		return nil
	}
	b := s.cloud
	s.cloud = nil
	return b.Close()
}

// folder is the folder of a store of files, or "".
func (s *Store) folder() string {
	if u, err := url.Parse(s.URL); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}

// name is the URL as it may be shown.
func (s *Store) name() string { return strings.SplitN(s.URL, "?", 2)[0] }

// Linked reports whether this program can open the store at the URL. Stores in clouds need package
// drivers.
func Linked(store string) bool {
	u, err := url.Parse(store)
	return err == nil && blob.DefaultURLMux().ValidBucketScheme(u.Scheme)
}

// open opens the store. It does not create a folder: the error is then [fs.ErrNotExist].
func (s *Store) open(ctx context.Context) (*blob.Bucket, func(), error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, nil, fmt.Errorf("open the bundle store %q: %w", s.URL, err)
	}
	if !Linked(s.URL) {
		return nil, nil, fmt.Errorf("open the bundle store %s: this program was built without the drivers of clouds: use the one called -cloud, which `make cloud` builds", s.name())
	}
	if u.Scheme == "file" {
		if _, err := os.Stat(u.Path); err != nil {
			return nil, nil, fmt.Errorf("open the bundle store: %w", err)
		}
		q := u.Query()
		// Temporary files are next to the object, so that the rename is atomic. There are no
		// attribute files.
		q.Set("no_tmp_dir", "true")
		q.Set("metadata", "skip")
		u.RawQuery = q.Encode()
		b, err := blob.OpenBucket(ctx, u.String())
		if err != nil {
			return nil, nil, fmt.Errorf("open the bundle store %s: %w", s.name(), err)
		}
		return b, func() { b.Close() }, nil
	}
	if u.Path != "" {
		return nil, nil, fmt.Errorf("open the bundle store %s: say where in the bucket with ?prefix=, such as %s://%s?prefix=%s/", s.name(), u.Scheme, u.Host, strings.Trim(u.Path, "/"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cloud == nil {
		b, err := blob.OpenBucket(ctx, s.URL)
		if err != nil {
			return nil, nil, fmt.Errorf("open the bundle store %s: %w", s.name(), err)
		}
		s.cloud = b
	}
	return s.cloud, func() {}, nil
}

// ReadKept reads a file that holds the signed object of a publication, for
// [Store.Verify]. The error is a [*BrokenError] if the file is larger than any.
func ReadKept(file string) ([]byte, error) {
	sealed, err := hostpath.ReadFile(file, maxBundle)
	if unfit := (*hostpath.UnfitError)(nil); errors.As(err, &unfit) {
		err = &BrokenError{What: "publication", Err: unfit}
	}
	return sealed, err
}

// Interval returns the interval at which it is worth looking into the store. A folder costs
// nothing, and a cloud a fraction of a cent for a thousand looks.
func (s *Store) Interval() time.Duration {
	if s.folder() != "" {
		return 250 * time.Millisecond
	}
	return time.Second
}
