package moto

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOneByOne: the server never has two requests, and each is what the client sent.
func TestOneByOne(t *testing.T) {
	t.Parallel()
	var now atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.EqualValues(t, 1, now.Add(1))
		defer now.Add(-1)
		<-time.After(time.Millisecond) // as long as others would come
		assert.True(t, r.Close, "on a connection of its own")
		_, err := io.Copy(w, io.MultiReader(strings.NewReader(r.Method+" "+r.Host+r.URL.String()+" "), r.Body))
		assert.NoError(t, err)
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	require.NoError(t, err)
	proxy := httptest.NewServer(oneByOne(at))
	defer proxy.Close()
	var all sync.WaitGroup
	client := &http.Client{Timeout: time.Minute}
	for range 20 {
		all.Go(func() {
			at := proxy.URL + "/b/k%2Fx?acl="
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, at, strings.NewReader("body"))
			assert.NoError(t, err)
			r.Host = "s3.eu-west-1.amazonaws.com"
			resp, err := client.Do(r)
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			assert.NoError(t, err)
			assert.Equal(t, "PUT s3.eu-west-1.amazonaws.com/b/k%2Fx?acl= body", string(b))
		})
	}
	all.Wait()
}
