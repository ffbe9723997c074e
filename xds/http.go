package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/secret"
)

// Handler serves the operator API that [api.Client] speaks. It does not
// authenticate: the socket it is served on must.
func (c *Control) Handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", c.answerStatus)
	m.HandleFunc("POST /v1/published", c.answerPublished)
	m.HandleFunc("POST /v1/called", c.answerCalled)
	m.HandleFunc("POST /v1/sync", func(w http.ResponseWriter, r *http.Request) {
		// The server notices that a client is gone only after the body was read.
		_, _ = io.Copy(io.Discard, r.Body)
		v, err := c.Sync(r.Context())
		answer(w, v, err)
	})
	m.HandleFunc("POST /v1/impose", func(w http.ResponseWriter, r *http.Request) {
		var p api.Imposed
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxImposed)).Decode(&p); err != nil {
			answer(w, nil, &api.Error{Message: "the publication could not be read: " + err.Error()})
			return
		}
		v, err := c.Impose(r.Context(), p)
		answer(w, v, err)
	})
	m.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		if err != nil {
			answer(w, nil, &api.Error{Message: "after is not a valid number"})
			return
		}
		var sealed []byte
		if b := c.bundle(); b != nil && b.Seq > after {
			sealed = b.Sealed()
		}
		answer(w, sealed, nil)
	})
	m.HandleFunc("POST /v1/environment", func(w http.ResponseWriter, r *http.Request) {
		var theirs map[string]string
		if json.NewDecoder(r.Body).Decode(&theirs) != nil {
			// The error itself could quote a value.
			answer(w, nil, &api.Error{Message: "the environment is not a JSON object of strings"})
			return
		}
		answer(w, secret.Differing(theirs), nil)
	})
	node := func(do func(string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			id := r.PathValue("id")
			if !svid.IsNode(id) {
				answer(w, nil, &api.Error{Message: fmt.Sprintf("%.64q is not a valid name of a node: use up to 63 lower-case letters, digits and dashes, and not control, which the control plane's own events have", id)})
				return
			}
			answer(w, struct{}{}, do(id))
		}
	}
	m.HandleFunc("PUT /v1/nodes/{id}", node(c.AddNode))
	m.HandleFunc("DELETE /v1/nodes/{id}", node(c.RemoveNode))
	return traced(m)
}

// traced continues the trace of the client.
func traced(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(propagation.TraceContext{}.Extract(r.Context(),
			propagation.HeaderCarrier(r.Header))))
	})
}

const (
	// maxImposed bounds a publication with its mark, in Base64, in bytes.
	maxImposed = 128 << 20
	// statusPause is the time for which changes are gathered: a storm of changes gives one answer.
	statusPause = 20 * time.Millisecond
)

// answerStatus answers at once. If the client states what it knows (?wait=ETAG), it answers when
// something has changed.
func (c *Control) answerStatus(w http.ResponseWriter, r *http.Request) {
	known, waits := r.URL.Query().Get("wait"), r.URL.Query().Has("wait")
	enough := time.NewTimer(api.WatchTimeout)
	defer enough.Stop()
	for {
		changed := c.ledger.Next()
		b, err := json.Marshal(c.Status()) //nolint:contextcheck // each of its probes has a bound
		if err != nil {
			answer(w, nil, err)
			return
		}
		sum := sha256.Sum256(b)
		tag := hex.EncodeToString(sum[:8])
		if waits && tag == known {
			select {
			case <-changed:
				select {
				case <-time.After(statusPause):
					continue
				case <-r.Context().Done():
					return
				}
			case <-r.Context().Done():
				return
			case <-enough.C:
			}
		}
		w.Header().Set("ETag", tag)
		answer(w, json.RawMessage(b), nil)
		return
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			e = &api.Error{Message: err.Error()}
		}
		w.WriteHeader(http.StatusConflict)
		v = e
	}
	// If this fails, the client is gone.
	_ = json.NewEncoder(w).Encode(v)
}
