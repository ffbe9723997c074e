package secret

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/postern/postern/plan"
)

const (
	// mintTimeout bounds one attempt, with all its requests.
	mintTimeout = 10 * time.Second
	// maxBackoff is the longest wait between two requests to a failing endpoint.
	maxBackoff = time.Minute
	// unknownLifetime is the assumed lifetime of a token if the endpoint does not state one.
	unknownLifetime = time.Hour
	// maxLifetime is the longest time that a token is used, whatever its endpoint says.
	maxLifetime = 24 * time.Hour
)

// token is a minted token.
type token struct {
	value   sealed
	expires time.Time
	// refresh is the refresh token to use from now on, if there is another.
	refresh sealed
	// version is the version of the secret from which it was minted.
	version string
}

// failure is the reason why nothing was minted, in our own words: never a part of the secret, and
// never the endpoint's text.
type failure struct {
	text string
	// source is set if the secret itself is at fault, so that no endpoint was asked.
	source bool
}

// mint makes a token from the content of c's source. refresh is the newest refresh token from the
// same content, or nil.
type mint func(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, refresh sealed) (*token, *failure)

// minters are the functions for the kinds that need minting.
var minters = map[plan.Kind]mint{
	plan.KindOAuth2ClientCredentials: mintClientCredentials,
	plan.KindOAuth2RefreshToken:      mintRefreshToken,
	plan.KindGitHubApp:               mintInstallation,
	plan.KindGCPAccessToken:          mintGCP,
	plan.KindGCPIDToken:              mintGCP,
}

// renewal keeps one minted credential current. A source that is gone, empty or
// malformed closes it at once. An endpoint that fails does not, until the token
// that it gave before expires.
type renewal struct {
	store      *Store
	entry      *entry
	credential plan.Credential
	mint       mint
	readings   <-chan reading

	source  sealed
	version string
	// stale is why source may be out of date.
	stale    string
	refresh  sealed
	last     *token
	failures int
	problem  string
}

type outcome struct {
	token   *token
	failure *failure
}

func (r *renewal) run(ctx context.Context) {
	next, expiry := stopped(), stopped()
	defer next.Stop()
	defer expiry.Stop()
	results, cancel := make(chan outcome, 1), context.CancelFunc(func() {})
	defer func() { cancel() }()
	for {
		select {
		case <-ctx.Done():
			return
		case reading := <-r.readings:
			if r.source != nil && same(reading.value, r.source) {
				if r.last != nil && r.last.version == r.version {
					r.last.version = reading.version
				}
				r.stale, r.version = stale(reading.problem), reading.version
				r.publish(ctx)
				break
			}
			r.version, r.stale = reading.version, ""
			cancel()
			// This attempt is no longer wanted.
			results = make(chan outcome, 1)
			next.Stop()
			r.failures = 0
			if r.source = reading.value; r.source == nil {
				r.close(ctx, reading.problem)
				break
			}
			r.refresh = nil
			cancel = r.attempt(ctx, results)
		case <-next.C:
			cancel()
			cancel = r.attempt(ctx, results)
		case o := <-results:
			cancel()
			switch {
			case o.failure == nil:
				r.last, r.failures, r.problem = o.token, 0, ""
				r.last.version = r.version
				if o.token.refresh != nil {
					r.refresh = o.token.refresh
				}
				r.publish(ctx)
				left := time.Until(r.last.expires)
				expiry.Reset(left)
				next.Reset(max(retryAfter, time.Duration(float64(left)*(0.6+0.1*rand.Float64())))) //nolint:gosec // jitter
			case o.failure.source:
				// A new attempt can only succeed after the source has changed.
				r.close(ctx, o.failure.text)
			default:
				r.problem = o.failure.text
				r.publish(ctx)
				r.failures++
				next.Reset(backoff(r.failures))
			}
		case <-expiry.C:
			if r.last != nil && time.Now().Before(r.last.expires) {
				expiry.Reset(time.Until(r.last.expires))
				break
			}
			r.last = nil
			if r.problem == "" {
				r.problem = "the token has expired, and the endpoint has not answered yet"
			}
			r.publish(ctx)
		}
	}
}

// attempt mints in the background; the result is one more event of run.
func (r *renewal) attempt(ctx context.Context, results chan<- outcome) context.CancelFunc {
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	source, refresh := r.source(), r.refresh
	go func() {
		t, f := r.mint(ctx, r.store.http, r.credential, source, refresh)
		if f == nil {
			f = t.check(time.Now())
		}
		results <- outcome{t, f}
	}()
	return cancel
}

func (r *renewal) close(ctx context.Context, problem string) {
	r.last, r.problem = nil, problem
	r.publish(ctx)
}

func (r *renewal) publish(ctx context.Context) {
	m := material{problem: r.problem}
	switch {
	case r.last == nil:
	case r.credential.Slot().Basic:
		m.value = seal(basic(r.credential.Username, r.last.value()))
	default:
		m.value = r.last.value
	}
	if m.value != nil {
		m.version = r.last.version
		if m.problem != "" {
			m.problem = fmt.Sprintf("the token ends at %s and cannot be renewed: %s", r.last.expires.UTC().Format(time.RFC3339), m.problem)
		}
	}
	if m.problem == "" {
		m.problem = r.stale
	}
	r.store.set(ctx, r.entry, m)
}

// check checks that t is usable, and bounds the time for which it is used.
func (t *token) check(now time.Time) *failure {
	if t.expires.IsZero() {
		t.expires = now.Add(unknownLifetime)
	}
	if limit := now.Add(maxLifetime); t.expires.After(limit) {
		t.expires = limit
	}
	if !t.expires.After(now) {
		return &failure{text: "the endpoint answered with a token that has expired already"}
	}
	if len(t.value()) == 0 {
		return &failure{text: "the endpoint answered something that is not a token"}
	}
	if check(t.value()) != "" {
		return &failure{text: "the endpoint answered with a token that does not fit into a header"}
	}
	return nil
}

// backoff returns the wait after that many failures in a row.
func backoff(failures int) time.Duration {
	d := min(maxBackoff, retryAfter<<min(failures-1, 10))
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
