package daemon

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNested(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{
		"Name:\tposternd\nNSpid:\t4711\nUid:\t0\n": false, "Name:\tsh\nNSpid:\t4711\t3\n": true, "Name:\tsh\n": false,
	} {
		require.Equal(t, want, nested([]byte(status)), status)
	}
}
