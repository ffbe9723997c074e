package manual

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	root := &cobra.Command{Use: "tool", Short: "Do things"}
	root.PersistentFlags().StringP("file", "f", "", "the `PATH` of a file")
	child := &cobra.Command{
		Use: "go NAME", Short: "Go there", Long: "Goes there.\n\n.hidden is a name, and so is a\\b.",
		Example:     "  tool go a-b",
		Annotations: map[string]string{"exit": "  0    done\n"}, Run: func(*cobra.Command, []string) {},
	}
	child.Flags().Bool("fast", false, "not slowly")
	secret := &cobra.Command{Use: "secret", Hidden: true, Run: func(*cobra.Command, []string) {}}
	root.AddCommand(child, secret)
	dir := t.TempDir()
	// What a link at the name of a page leads to stays as it is.
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(victim, filepath.Join(dir, "tool.1")))
	t.Cleanup(func() {
		content, err := os.ReadFile(victim)
		require.NoError(t, err)
		require.Equal(t, "mine", string(content))
	})
	names, err := Write(root, dir)
	require.NoError(t, err)
	require.Equal(t, []string{"tool.1", "tool-go.1"}, names)
	page, err := os.ReadFile(filepath.Join(dir, "tool-go.1"))
	require.NoError(t, err)
	require.Equal(t, `.TH TOOL\-GO 1 "" Postern
.SH NAME
tool\-go \- Go there
.SH SYNOPSIS
.B tool go NAME [flags]
.SH DESCRIPTION
Goes there.
.PP
\&.hidden is a name, and so is a\eb.
.SH OPTIONS
.TP
.B \-\-fast
not slowly
.TP
.B \-f, \-\-file PATH
the `+"`PATH`"+` of a file
.SH EXAMPLES
.EX
  tool go a\-b
.EE
.SH EXIT STATUS
.EX
  0    done
.EE
.SH SEE ALSO
\fBtool\fR(1)
`, string(page))
}
