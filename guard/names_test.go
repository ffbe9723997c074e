package guard

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNamesOfHooks: the C of cmd/libguard calls things what this package does.
func TestNamesOfHooks(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../cmd/libguard/names.h")
	require.NoError(t, err)
	names := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#define (\w+) "(.*)"$`).FindAllStringSubmatch(string(b), -1) {
		names[m[1]] = m[2]
	}
	require.Equal(t, map[string]string{
		"FILTER": Filter, "FILTER_PUT": FilterPut, "LEASE_PATH": LeasePath, "UNRECORDED": Unrecorded, "FULL": Full, "NAMESPACE": Namespace, "KEY": Key,
	}, names)
}
