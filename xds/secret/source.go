package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/secret/service"
)

const (
	// maxSource bounds a secret: the largest keys have 20 KB.
	maxSource = 64 << 10
	// retryAfter is the first wait after a source has failed.
	retryAfter = 500 * time.Millisecond
	// pollEvery is the interval at which a service is asked that cannot say when a secret changes.
	pollEvery = 30 * time.Second
	// helpEvery is the interval at which a helper is run.
	helpEvery = 5 * time.Minute
)

// reading is what a source holds, or the reason why it cannot be read.
type reading struct {
	// value is nil if there is none: the credential closes.
	value sealed
	// version is the source's own, or a salted hash of the value.
	version string
	// problem, if there is a value, says why it may be out of date.
	problem string
}

// trouble says why a source was not read, in our own words: never those of the source or of a
// library, which may quote what they read.
type trouble struct {
	text string
	// down is set if the source said nothing about the secret: the value that it held before is
	// still the best one. Otherwise the secret is gone, refused or not valid.
	down bool
}

// ownVersion matches the versions of all sources that we know.
var ownVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// fetch asks a source once. The version is the source's own, "" if it has none.
type fetch func(ctx context.Context) (value []byte, version string, t *trouble)

// feed turns a source's answers into readings. Each reading differs from the one before.
type feed struct {
	store      *Store
	credential string
	ref        plan.Reference
	to         chan<- reading
	last       *reading
}

// watch sends what the source of c holds, now and after each change, until ctx
// is done.
func (s *Store) watch(ctx context.Context, c plan.Credential, to chan<- reading) {
	f := &feed{store: s, credential: c.Name, to: to}
	var err error
	if f.ref, err = plan.ParseReference(c.Secret); err != nil {
		f.fail(ctx, &trouble{text: err.Error()})
		return
	}
	switch f.ref.Source {
	case plan.SourceEnv:
		value := os.Getenv(f.ref.Name)
		if value == "" {
			f.fail(ctx, &trouble{text: f.ref.Name + " was not set when the control plane was started: export it and run `postern up` again"})
			return
		}
		f.value(ctx, []byte(value), "")
	case plan.SourceFile:
		f.followFile(ctx)
	case plan.SourceHTTPS:
		f.poll(ctx, pollEvery, s.fetchWeb(f.ref))
	case plan.SourceVault:
		f.poll(ctx, pollEvery, s.fetchVault(f.ref))
	case plan.SourceExec:
		f.poll(ctx, helpEvery, s.fetchHelper(f.ref))
	default:
		if plan.InCloud(f.ref.Source) {
			f.poll(ctx, pollEvery, s.fetchCloud(f.ref))
			return
		}
		f.fail(ctx, &trouble{text: f.ref.Source + ":// is not a known kind of secret"})
	}
}

// value sends what the source holds, if it is usable and not known already.
func (f *feed) value(ctx context.Context, raw []byte, version string) {
	value, problem := raw, ""
	if f.ref.Field != nil {
		value, problem = pick(raw, f.ref.Field)
	}
	// Editors leave a line break.
	value = bytes.TrimRight(value, "\r\n")
	switch {
	case problem != "":
	case len(value) == 0:
		problem = "the secret is empty"
	case len(value) > maxSource:
		problem = fmt.Sprintf("the secret has more than %d bytes", maxSource)
	}
	if problem != "" {
		f.fail(ctx, &trouble{text: problem})
		return
	}
	// A source's own version is shown to people, so it must look like one.
	if !ownVersion.MatchString(version) {
		version = f.store.fingerprint(f.credential, value)
	}
	f.send(ctx, reading{value: seal(bytes.Clone(value)), version: version})
}

// fail sends that the secret cannot be read. If the source is merely down, the value that was read
// before stays in use.
func (f *feed) fail(ctx context.Context, t *trouble) {
	r := reading{problem: t.text}
	if t.down && f.last != nil {
		r.value, r.version = f.last.value, f.last.version
	}
	f.send(ctx, r)
}

func (f *feed) send(ctx context.Context, r reading) {
	if f.last != nil && r.problem == f.last.problem && r.version == f.last.version && same(r.value, f.last.value) {
		return
	}
	f.last = &r
	select {
	case f.to <- r:
	case <-ctx.Done():
	}
}

// same reports whether both hold the same bytes, or both none.
func same(a, b sealed) bool {
	return a == nil && b == nil || a != nil && b != nil && bytes.Equal(a(), b())
}

// poll asks a source again and again, less often while it is in trouble. Some
// jitter keeps many credentials from asking at once.
func (f *feed) poll(ctx context.Context, every time.Duration, ask fetch) {
	if f.ref.Every != 0 {
		every = f.ref.Every
	}
	failures := 0
	for {
		value, version, t := ask(ctx)
		wait := every - rand.N(every/10+1) //nolint:gosec // jitter
		switch {
		case ctx.Err() != nil:
			return
		case t != nil:
			failures++
			f.fail(ctx, t)
			wait = min(wait, backoff(failures))
		default:
			failures = 0
			f.value(ctx, value, version)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep reports whether it slept for the whole time.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fetchCloud asks a cloud's service.
func (s *Store) fetchCloud(ref plan.Reference) fetch {
	return func(ctx context.Context) ([]byte, string, *trouble) {
		cloud := s.clouds[ref.Source]
		if cloud == nil {
			return nil, "", &trouble{text: "this control plane was built without the drivers of clouds: run `postern up` again, which takes posternd-cloud", down: true}
		}
		ctx, cancel := context.WithTimeout(ctx, mintTimeout)
		defer cancel()
		value, version, err := cloud.Fetch(ctx, ref)
		if err == nil {
			return value, version, nil
		}
		said := (*service.Trouble)(nil)
		if !errors.As(err, &said) { // a library's text may quote what it read
			said = &service.Trouble{Text: "the cloud's service cannot be asked", Down: true}
		}
		t := &trouble{text: said.Text, down: said.Down}
		if said.Cause != nil {
			t.text = transport(said.Cause, said.Name, said.Text)
		}
		return nil, "", t
	}
}

// newServiceClient is like [newClient], but keeps its connection, because one service has many
// secrets.
func newServiceClient() *http.Client {
	c := newClient()
	c.Transport.(guarded).next.(*http.Transport).DisableKeepAlives = false
	return c
}
