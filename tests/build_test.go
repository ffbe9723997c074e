package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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

// built is one build of a program for all tests of a run, in .cache so that
// the folder is made once and the next run replaces what is in it. The settings are those of
// tools/build.sh, so that what it has compiled is used.
func built(name, pkg string, tags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := filepath.Abs(filepath.Join("..", ".cache", "tests"))
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags", strings.Join(tags, ","), "-o", path, pkg)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
		return path, nil
	})
}

var (
	buildPosternd = built("posternd", "./cmd/posternd")
	buildInside   = built("postern-sandbox", "./cmd/postern-sandbox")
	buildProgram  = built("postern-stack", "./cmd/postern-stack")
	buildPlugin   = built("pulumi-resource-postern", "./cmd/pulumi-resource-postern")
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
