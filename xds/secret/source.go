package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"gocloud.dev/gcerrors"
	"gocloud.dev/runtimevar"
	"gocloud.dev/runtimevar/filevar"
)

// maxSource bounds what is read of a source: the largest keys have 20 KB.
const maxSource = 64 << 10

// retryAfter is how long a source that failed is left alone.
const retryAfter = 500 * time.Millisecond

// reading is what a source holds, or why it cannot be read.
type reading struct {
	value   sealed
	problem string
}

// watch sends what the source at u holds, now and after each change, until ctx
// is done. A variable of the environment never changes.
func watch(ctx context.Context, u string, to chan<- reading) {
	send := func(value []byte, problem string) {
		r := reading{problem: problem}
		if problem == "" {
			r = read(value)
		}
		select {
		case to <- r:
		case <-ctx.Done():
		}
	}
	scheme, rest, _ := strings.Cut(u, "://")
	switch scheme {
	case "env":
		value := os.Getenv(rest)
		if value == "" {
			send(nil, fmt.Sprintf("%s was not set when the control plane was started: export it and run `go run . up` again", rest))
			return
		}
		send([]byte(value), "")
	case "file":
		path, err := url.PathUnescape(rest)
		if err != nil {
			send(nil, fmt.Sprintf("%s is not a valid URL", u))
			return
		}
		v, err := filevar.OpenVariable(path, runtimevar.BytesDecoder, &filevar.Options{WaitDuration: retryAfter})
		if err != nil {
			send(nil, "cannot watch "+path)
			return
		}
		defer v.Close()
		follow(ctx, v, path, send)
	default:
		send(nil, fmt.Sprintf("%s:// is not a known kind of secret", scheme))
	}
}

func follow(ctx context.Context, v *runtimevar.Variable, path string, send func([]byte, string)) {
	for {
		snap, err := v.Watch(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, runtimevar.ErrClosed):
			return
		case gcerrors.Code(err) == gcerrors.NotFound:
			send(nil, "there is no file "+path)
		case err != nil:
			// Not the error itself: it is not ours, and could quote the file.
			send(nil, fmt.Sprintf("cannot read %s: check that it is a file the control plane's user may read", path))
		default:
			send(snap.Value.([]byte), "")
		}
	}
}

// read takes the line break off the end that editors leave.
func read(value []byte) reading {
	value = bytes.TrimRight(value, "\r\n")
	switch {
	case len(value) == 0:
		return reading{problem: "the secret is empty"}
	case len(value) > maxSource:
		return reading{problem: fmt.Sprintf("the secret has more than %d bytes", maxSource)}
	}
	return reading{value: seal(bytes.Clone(value))}
}
