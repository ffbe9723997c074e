package toolbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
)

// errCancelled ends a tool that its client does not want any more.
var errCancelled = errors.New("the client has cancelled it")

// calls are those that run. Each request has a connection of its own, so what cancels a call comes
// by another one, which names the call.
type calls struct {
	mu     sync.Mutex
	ending map[string]map[*context.CancelCauseFunc]bool // by the call's name
}

// wanted is the key of a context that ends when the client cancels the call.
type wanted struct{}

// watch has a notification of notifications/cancelled end the call that it names. If several
// clients have given calls that name, nobody knows which one is meant, and all go on.
func (c *calls) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // next finds the same error
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
		var said struct {
			Method string
			ID     json.RawMessage
			Params struct {
				RequestID json.RawMessage `json:"requestId"`
			}
		}
		_ = json.Unmarshal(body, &said) // next says what is wrong with it
		switch said.Method {
		case "tools/call":
			ctx, done := c.begin(r.Context(), string(said.ID))
			defer done()
			r = r.WithContext(context.WithValue(r.Context(), wanted{}, ctx))
		case "notifications/cancelled":
			c.cancel(string(said.Params.RequestID))
		}
		next.ServeHTTP(w, r)
	})
}

// begin returns a context that ends when the call of that name is cancelled. A client that has gone
// has not cancelled it.
func (c *calls) begin(ctx context.Context, name string) (of context.Context, done func()) {
	of, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending[name] == nil {
		c.ending[name] = map[*context.CancelCauseFunc]bool{}
	}
	c.ending[name][&cancel] = true
	return of, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.ending[name], &cancel); len(c.ending[name]) == 0 {
			delete(c.ending, name)
		}
	}
}

func (c *calls) cancel(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ending[name]) == 1 {
		for cancel := range c.ending[name] {
			(*cancel)(errCancelled)
		}
	}
}

// whileWanted returns ctx, which ends as well when the client cancels the call that ctx is of.
func whileWanted(ctx context.Context) (context.Context, func()) {
	of, ok := ctx.Value(wanted{}).(context.Context)
	if !ok {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(of, func() { cancel(context.Cause(of)) })
	return ctx, func() { stop(); cancel(nil) }
}
