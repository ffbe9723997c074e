package clients

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// installer gets pinned clients from one registry, through its own client.
type installer struct {
	name string
	pins []string
	// command installs the pins into the working folder.
	command []string
	env     []string
}

// installers are all that is not of the system. What they need in turn is what
// their registry says today.
func installers(dir string) []installer {
	locked, err := filepath.Abs(filepath.Join("testdata", "agents"))
	if err != nil {
		panic(err) // there is no working directory
	}
	return []installer{
		{
			name:    "pip",
			pins:    []string{"requests==2.34.2", "httpx==0.28.1", "aiohttp==3.14.5", "websockets==17.4", "anthropic==2.12.0", "claude-agent-sdk==0.2.187", "mcp==2.3.0"},
			command: []string{"python3", "-m", "pip", "install", "--disable-pip-version-check", "--upgrade", "--target", "python"},
		},
		{
			name:    "npm",
			pins:    []string{"@anthropic-ai/sdk@1.12.0", "ws@8.23.0", "@modelcontextprotocol/sdk@1.32.2"},
			command: []string{"npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", "."},
		},
		{
			// As npm has them with "install --global" and a prefix in the home: only what the lock file
			// has a digest of.
			name: "agents",
			pins: []string{
				"@anthropic-ai/claude-code@2.1.330", "@openai/codex@0.171.0", "@google/gemini-cli@0.61.0",
				"opencode-ai@1.18.33",
			},
			command: []string{"sh", "-c", `set -e
				prefix=home/.npm-global; mkdir -p $prefix/lib $prefix/bin; cp "$0"/package*.json $prefix/lib
				npm install --no-audit --no-fund --prefix $prefix/lib "$@"
				for name in claude codex gemini opencode; do
					ln -sf ../lib/node_modules/.bin/$name $prefix/bin
				done`, locked},
		},
		{
			name:    "go",
			pins:    []string{"github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"},
			command: []string{"go", "install"},
			env:     []string{"GOBIN=" + filepath.Join(dir, "bin"), "GOFLAGS=", "CGO_ENABLED=0"},
		},
		{
			// A Java that is not of the distribution, as far as trust goes.
			name:    "jlink",
			pins:    []string{"jdk.compiler", "java.net.http", "jdk.crypto.ec"},
			command: []string{"sh", "-c", `rm -rf jre && IFS=, && exec jlink --output jre --add-modules "$*"`, "sh"},
		},
	}
}

// install returns the folder of the clients, after the installers of these names, or all, have done
// their work. It is the working directory of most sandboxes here, as a project with its
// dependencies is.
func install(names ...string) (string, error) {
	dir, err := filepath.Abs(filepath.Join("..", "..", ".cache", "clients"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// The sandbox has real paths only.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	// One run at a time installs; the others find it done.
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	all := slices.DeleteFunc(installers(dir), func(in installer) bool {
		return len(names) > 0 && !slices.Contains(names, in.name)
	})
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, in := range all {
		wg.Go(func() { errs[i] = in.install(dir) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

// install does nothing if the pins are what was installed last.
func (in *installer) install(dir string) error {
	done := filepath.Join(dir, "."+in.name+".pins")
	want := strings.Join(in.pins, "\n") + "\n"
	if got, err := os.ReadFile(done); err == nil && string(got) == want {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	command := slices.Concat(in.command, in.pins)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), in.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	fmt.Fprintf(os.Stderr, "clients: %s installs %s\n", in.name, strings.Join(in.pins, " "))
	start := time.Now()
	ended := make(chan struct{})
	go func() {
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(os.Stderr, "clients: %s, %.0f s\n", in.name, time.Since(start).Seconds())
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Run()
	close(ended)
	if err != nil {
		return fmt.Errorf("install clients with %s: %w\n%s", in.name, err, out.Bytes())
	}
	fmt.Fprintf(os.Stderr, "clients: %s, done in %.0f s\n", in.name, time.Since(start).Seconds())
	return os.WriteFile(done, []byte(want), 0o600)
}

// clientsDir is [install] for a test.
func clientsDir(t testing.TB, names ...string) string {
	t.Helper()
	dir, err := install(names...)
	require.NoError(t, err)
	return dir
}

// TestInstall gets the clients, which takes minutes once: run it first, with
// -v, to see how far it is.
func TestInstall(t *testing.T) {
	t.Parallel()
	clientsDir(t)
}
