package workspaces

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSayTools: what is there when before returns is not named, and what is written from then on
// is.
func TestSayTools(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("Makefile", "all:\n")
	write("package.json", "{}\n")
	var out bytes.Buffer
	before, after := SayTools(&out, dir)
	before()
	write("Makefile", "all:\n\ttouch pwned\n")
	write("package.json", "{}\n") // the same content
	after()
	require.Equal(t, "postern: look before you use it: Makefile (a build runs commands from it)\n", out.String())
}
