package tests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/engine"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/tests/fleet"
)

// TestMain lets the test binary be the language host of a Pulumi installation.
func TestMain(m *testing.M) {
	if program := os.Getenv(languageHostOf); program != "" {
		serveLanguageHost(program)
	}
	os.Exit(m.Run())
}

var (
	buildPosternd = fleet.Built("posternd", "./cmd/posternd")
	buildInside   = fleet.Built("postern-sandbox", "./cmd/postern-sandbox")
	buildProgram  = fleet.Built("postern-stack", "./cmd/postern-stack")
	buildPlugin   = fleet.Built("pulumi-resource-postern", "./cmd/pulumi-resource-postern")
)

// posternd returns the path of the daemon, built from this tree, with what Envoy
// loads next to it.
func posternd(t testing.TB) string {
	t.Helper()
	path, err := buildPosternd()
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(path), fleet.Modules(t))
	return path
}

// stackProgram returns the path of what `go run .` becomes, built from this tree.
func stackProgram(t testing.TB) string {
	t.Helper()
	path, err := buildProgram()
	require.NoError(t, err)
	return path
}

// pulumiCLI returns the path of the real Pulumi CLI. There is no test without it.
func pulumiCLI(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	nobody, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	path, err := engine.FindCLI(nobody, dir)
	require.NoError(t, err)
	return path
}
