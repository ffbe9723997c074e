package setup

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks"
)

// TestNext: nobody is told that it works who has no key.
func TestNext(t *testing.T) {
	t.Parallel()
	a, file := &Answers{Program: "claude"}, &stacks.File{Real: "/f.yaml"}
	for said, lacks := range map[string][]string{
		"\nIt works: only what /f.yaml allows gets out. Next, in the folder of your project:\n": nil,
		"\nThe sandbox works: only what /f.yaml allows gets out. But claude has no key, and cannot work yet:\n" +
			"  credential claude: no KEY\nNext, in the folder of your project:\n": {"credential claude: no KEY"},
	} {
		var out strings.Builder
		a.next(&out, file, lacks)
		require.Regexp(t, "^  .*postern run -- claude\n$", strings.TrimPrefix(out.String(), said))
	}
}
