package binary_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy/binary"
	"github.com/postern/postern/tests/fleet"
)

// TestVersion: C16. An Envoy that is not of the branch that is needed is refused, with what is
// needed.
func TestVersion(t *testing.T) {
	t.Parallel()
	require.NoError(t, binary.CheckVersion(t.Context(), fleet.Envoy(t)))
	for name, tc := range map[string]struct{ script, want string }{
		"older": {
			"echo 'envoy  version: 0123abc/1.38.3/Clean/RELEASE/BoringSSL'",
			"is Envoy 1.38.3, and Postern needs 1.40: unset ENVOY and run `make deps`",
		},
		"alike": {
			"echo 'envoy  version: 0123abc/1.4.0/Clean/RELEASE/BoringSSL'",
			"is Envoy 1.4.0, and Postern needs 1.40",
		},
		"newer": {
			"echo 'envoy  version: 0123abc/1.41.0-dev/Clean/RELEASE/BoringSSL'",
			"is Envoy 1.41.0-dev, and Postern needs 1.40",
		},
		"another": {
			"echo GNU cat 9.1",
			`is not an Envoy, it says "GNU cat 9.1"`,
		},
		"of libc": {
			"echo version GLIBC_2.99 not found >&2; exit 1",
			"does not say its version (exit status 1)",
		},
		"no format": {
			"exit 126",
			"does not say its version (exit status 126)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "envoy")
			require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o700))
			err := binary.CheckVersion(t.Context(), path)
			require.ErrorContains(t, err, path+" "+tc.want)
		})
	}
}
