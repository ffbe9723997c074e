// Package secret is the only place where secret bytes live. Values are read
// from their sources, kept in memory, and leave as Envoy secrets for the nodes;
// never through logs, errors, JSON or fmt.
package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"gocloud.dev/gcerrors"
	"gocloud.dev/runtimevar"
	"gocloud.dev/runtimevar/filevar"

	"github.com/postern/postern/plan"
)

// maxLength bounds a secret: what is longer does not fit into a header.
const maxLength = 16 << 10

// retryAfter is how long a source that failed is left alone.
const retryAfter = 500 * time.Millisecond

// Store holds the value of every credential of the live plan and watches where
// they come from. It is safe for concurrent use. Close it.
type Store struct {
	changed func()

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is one watched credential. Its bytes are never formatted: fmt does not
// call methods on unexported fields, so there is no method to rely on; nothing
// here hands out a value but Envoy.
type entry struct {
	url     string
	value   []byte
	problem string
	stop    context.CancelFunc
	// ready is closed after the first attempt to read the source.
	ready chan struct{}
	once  sync.Once
}

// NewStore returns an empty store. The function is called, from any
// goroutine, after a value or a problem has changed.
func NewStore(changed func()) *Store {
	return &Store{changed: changed, entries: map[string]*entry{}}
}

// Watch makes the store hold exactly the given credentials. It returns after
// each new source was tried once, or ctx is done.
func (s *Store) Watch(ctx context.Context, credentials []plan.Credential) error {
	s.mu.Lock()
	wanted := map[string]string{}
	var started []*entry
	for _, c := range credentials {
		wanted[c.Name] = c.Secret
		if e := s.entries[c.Name]; e == nil || e.url != c.Secret {
			if e != nil {
				e.stop()
			}
			e = s.start(c.Secret)
			s.entries[c.Name] = e
			started = append(started, e)
		}
	}
	for name, e := range s.entries {
		if wanted[name] == "" {
			e.stop()
			delete(s.entries, name)
		}
	}
	s.mu.Unlock()
	for _, e := range started {
		select {
		case <-e.ready:
		case <-ctx.Done():
			return fmt.Errorf("read secrets: %w", ctx.Err())
		}
	}
	return nil
}

// Close stops watching and forgets every value.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, e := range s.entries {
		e.stop()
		delete(s.entries, name)
	}
}

// Envoy returns the secret of a credential under the given xDS name. If it
// cannot be had the secret is empty: Envoy would keep the last value of one
// that is merely removed, but does not inject an empty one, so the routes that
// need it fail closed.
func (s *Store) Envoy(credential, name string) *tlsv3.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	var value []byte
	if e := s.entries[credential]; e != nil {
		value = bytes.Clone(e.value)
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
		Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: value}},
	}}}
}

// Problem is why a credential's secret cannot be had.
type Problem struct{ Credential, Text string }

// Problems returns, sorted, what is wrong now.
func (s *Store) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ps []Problem
	for name, e := range s.entries {
		if e.value == nil {
			ps = append(ps, Problem{name, e.problem})
		}
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i].Credential < ps[j].Credential })
	return ps
}

// Differing returns, sorted, the names of the environment variables that have
// another value here than in theirs. It is how `up` finds out, without either
// side showing a value, that a variable was changed since this process started.
func Differing(theirs map[string]string) []string {
	var names []string
	for name, value := range theirs {
		if os.Getenv(name) != value {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// start begins to watch the source at u. The caller holds s.mu.
func (s *Store) start(u string) *entry {
	ctx, stop := context.WithCancel(context.Background())
	e := &entry{url: u, stop: stop, ready: make(chan struct{})}
	scheme, rest, _ := strings.Cut(u, "://")
	switch scheme {
	case "env":
		s.set(e, []byte(os.Getenv(rest)), "")
		if os.Getenv(rest) == "" {
			s.set(e, nil, fmt.Sprintf("%s was not set when the control plane was started: export it and run `go run . up` again", rest))
		}
	case "file":
		path, err := url.PathUnescape(rest)
		if err != nil {
			s.set(e, nil, fmt.Sprintf("%s is not a valid URL", u))
			break
		}
		v, err := filevar.OpenVariable(path, runtimevar.BytesDecoder, &filevar.Options{WaitDuration: retryAfter})
		if err != nil {
			s.set(e, nil, fmt.Sprintf("cannot watch %s", path))
			break
		}
		go s.follow(ctx, e, path, v)
	default:
		s.set(e, nil, fmt.Sprintf("%s:// is not a known kind of secret", scheme))
	}
	return e
}

// follow keeps e up to date until ctx is done.
func (s *Store) follow(ctx context.Context, e *entry, path string, v *runtimevar.Variable) {
	defer v.Close()
	for {
		snap, err := v.Watch(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		switch {
		case errors.Is(err, runtimevar.ErrClosed):
			s.mu.Unlock()
			return
		case gcerrors.Code(err) == gcerrors.NotFound:
			s.set(e, nil, fmt.Sprintf("there is no file %s", path))
		case err != nil:
			// Not the error itself: it is not ours, and could quote the file.
			s.set(e, nil, fmt.Sprintf("cannot read %s: check that it is a file the control plane's user may read", path))
		default:
			s.set(e, snap.Value.([]byte), "")
		}
		s.mu.Unlock()
		s.changed()
	}
}

// set stores a value or why there is none. The caller holds s.mu.
func (s *Store) set(e *entry, value []byte, problem string) {
	value = bytes.TrimRight(value, "\r\n")
	if problem == "" {
		problem = check(value)
	}
	if problem != "" {
		value = nil
	}
	e.value, e.problem = bytes.Clone(value), problem
	e.once.Do(func() { close(e.ready) })
}

// check says what is wrong with a value that would become part of a header.
func check(value []byte) string {
	switch {
	case len(value) == 0:
		return "the secret is empty"
	case len(value) > maxLength:
		return fmt.Sprintf("the secret has more than %d bytes", maxLength)
	case bytes.ContainsFunc(value, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }):
		return "the secret has a line break or another control character in it"
	}
	return ""
}
