package toolbox

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCancelled: a client ends a tool that it does not want any more. Where several clients have
// given their calls the same name, nobody ends another one's.
func TestCancelled(t *testing.T) {
	t.Parallel()
	running, ended := make(chan bool), make(chan error, 2)
	release := make(chan bool)
	post := served(t, func(ctx context.Context, _ int, _ ...string) ([]byte, int, error) {
		running <- true
		select {
		case <-ctx.Done():
			ended <- context.Cause(ctx)
			return nil, 0, context.Cause(ctx)
		case <-release:
			return []byte("said"), 0, nil
		}
	})
	answers := make(chan string, 2)
	call := func() {
		_, said, err := post(t.Context(), "", one)
		require.NoError(t, err)
		answers <- said
	}
	cancel := func(id string) {
		_, _, err := post(t.Context(), "",
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`}}`)
		require.NoError(t, err)
	}
	go call()
	<-running
	cancel("2")
	cancel(`"1"`)
	select {
	case err := <-ended:
		require.Fail(t, "another call was cancelled", err)
	case <-time.After(50 * time.Millisecond):
	}
	go call()
	<-running
	cancel("1")
	select {
	case err := <-ended:
		require.Fail(t, "nobody knows which one is meant", err)
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 {
		release <- true
		require.Contains(t, <-answers, "said")
	}

	go call()
	<-running
	cancel("1")
	select {
	case err := <-ended:
		require.ErrorIs(t, err, errCancelled)
	case <-time.After(10 * time.Second):
		require.Fail(t, "the tool goes on")
	}
	require.Contains(t, <-answers, "the client has cancelled it")
}
