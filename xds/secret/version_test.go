package secret

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestHostileVersion: a source's word for its version is shown only if it looks
// like one.
func TestHostileVersion(t *testing.T) {
	t.Parallel()
	for version, own := range map[string]bool{
		"7": true, "01974c1e-5d2f-7b3e-8f6b-0c5f3f9b2a11": true, "\x1b[2J": false, "": false, strings.Repeat("1", 65): false, "a b": false, "7\n": false,
	} {
		readings := make(chan reading, 1)
		f := &feed{store: NewStore([]byte("salt"), hostpath.In(t.TempDir()), func() {}), credential: "c", to: readings}
		f.value(t.Context(), []byte("value"), version)
		r := <-readings
		require.Equal(t, own, r.version == version, "%q", version)
		require.Regexp(t, ownVersion, r.version)
	}
}
