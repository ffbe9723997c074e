package fleet

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Stream is a request of an agent that is in progress until it is cut.
type Stream struct {
	t     testing.TB
	ended chan string
}

// OpenStream starts a POST whose body never ends, and returns when the request has arrived at up.
func (f *Fleet) OpenStream(up *Upstream, node, agent, url string) *Stream {
	f.t.Helper()
	pr, pw := io.Pipe()
	f.t.Cleanup(func() { require.NoError(f.t, pw.Close()) })
	s := &Stream{t: f.t, ended: make(chan string, 1)}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, url, pr)
	require.NoError(f.t, err)
	client := f.Client(node, agent)
	client.Timeout = 0
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			s.ended <- err.Error()
			return
		}
		resp.Body.Close()
		s.ended <- "an answer: " + resp.Status
	}()
	_, err = pw.Write([]byte("x"))
	require.NoError(f.t, err)
	require.Eventually(f.t, func() bool { return up.Open() > 0 }, time.Minute, 5*time.Millisecond)
	return s
}

// RequireCut requires that the request ends by itself.
func (s *Stream) RequireCut() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		require.Fail(s.t, "the stream goes on")
	}
}

// RequireOpen requires that the request is still in progress after a moment.
func (s *Stream) RequireOpen() {
	s.t.Helper()
	select {
	case why := <-s.ended:
		require.Fail(s.t, "the stream was cut", why)
	case <-time.After(50 * time.Millisecond):
	}
}

// Get makes a GET request, reads the whole answer and returns its status.
func Get(ctx context.Context, c *http.Client, url string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
