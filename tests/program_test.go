package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// languageHostOf is set in the environment of a test binary that is to be the
// language host for the program that it names. Pulumi's own one for Go cannot
// be had as a Go module; all it does for us is to run the program.
const languageHostOf = "POSTERN_TEST_LANGUAGE_HOST_OF"

type languageHost struct {
	pulumirpc.UnimplementedLanguageRuntimeServer
	program, engine string
}

func serveLanguageHost(program string) {
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{Init: func(s *grpc.Server) error {
		pulumirpc.RegisterLanguageRuntimeServer(s, &languageHost{program: program, engine: os.Args[len(os.Args)-1]})
		return nil
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(handle.Port)
	if err := <-handle.Done; err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(0)
}

func (h *languageHost) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: "0.0.1"}, nil
}

func (h *languageHost) GetRequiredPackages(context.Context, *pulumirpc.GetRequiredPackagesRequest) (*pulumirpc.GetRequiredPackagesResponse, error) {
	return &pulumirpc.GetRequiredPackagesResponse{}, nil
}

func (h *languageHost) Run(ctx context.Context, req *pulumirpc.RunRequest) (*pulumirpc.RunResponse, error) {
	config, err := json.Marshal(req.GetConfig())
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, h.program)
	cmd.Dir = req.GetPwd()
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(),
		"PULUMI_ORGANIZATION="+req.GetOrganization(), "PULUMI_PROJECT="+req.GetProject(), "PULUMI_STACK="+req.GetStack(),
		"PULUMI_CONFIG="+string(config), "PULUMI_DRY_RUN="+strconv.FormatBool(req.GetDryRun()),
		"PULUMI_PARALLEL="+strconv.Itoa(int(req.GetParallel())),
		"PULUMI_MONITOR="+req.GetMonitorAddress(), "PULUMI_ENGINE="+h.engine)
	if err := cmd.Run(); err != nil {
		return &pulumirpc.RunResponse{Error: err.Error()}, nil
	}
	return &pulumirpc.RunResponse{}, nil
}

// For people who have Pulumi installed, main.go and Pulumi.yaml are a program
// like any other, and the provider is a plugin.
func TestEngineRunsTheProgram(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	project, err := os.ReadFile(filepath.Join("..", "Pulumi.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "Pulumi.yaml"), project, 0o600))
	plugin, err := buildPlugin()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Dir(plugin), filepath.Join(c.dir, "bin")))

	root := filepath.Dir(c.dir)
	path, state := filepath.Join(root, "path"), filepath.Join(root, "state")
	require.NoError(t, os.MkdirAll(path, 0o700))
	require.NoError(t, os.MkdirAll(state, 0o700))
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "pulumi-language-go"), []byte("#!/bin/sh\n"+
		languageHostOf+"="+stackProgram(t)+" exec "+self+" \"$@\"\n"), 0o700))
	environ := append(c.environ,
		"PATH="+path+string(filepath.ListSeparator)+os.Getenv("PATH"), "PULUMI_HOME="+filepath.Join(root, "pulumi"),
		"PULUMI_BACKEND_URL=file://"+state, "PULUMI_CONFIG_PASSPHRASE=", "PULUMI_SKIP_UPDATE_CHECK=true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION=true")
	pulumi := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), pulumiCLI(t), append(args, "--non-interactive", "--color=never")...)
		cmd.Dir, cmd.Env = c.dir, environ
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	pulumi("stack", "init", "local")
	require.Contains(t, pulumi("preview", "-s", "local"), "+ 6 to create") // with the stack and the component
	require.NoDirExists(t, c.home.Root)
	require.Contains(t, pulumi("up", "-s", "local", "--yes"), "+ 6 created")
	c.live()
	require.Contains(t, pulumi("up", "-s", "local", "--yes"), "6 unchanged")
	c.edit("allow: [one]", "allow: [one, two]")
	require.Contains(t, pulumi("up", "-s", "local", "--yes"), "~ 1 updated")
	pulumi("destroy", "-s", "local", "--yes")
	require.Empty(t, processes(t, c.home.Root))
}

// TestLauncher: main.go becomes the program that it builds: with the arguments, the environment and the exit status.
func TestLauncher(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	launcher, root := filepath.Join(dir, "launcher"), filepath.Join(dir, "tree")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", launcher, ".")
	build.Dir = ".."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "cmd", "postern-stack"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module example.test/tree\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "cmd", "postern-stack", "main.go"), []byte(`package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println(os.Args[1:], os.Getenv("PULUMI_MONITOR"))
	os.Exit(7)
}
`), 0o600))
	for _, said := range []string{"building bin/postern-stack: the first time", ""} {
		cmd := exec.CommandContext(t.Context(), launcher, "up", "local")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "PULUMI_MONITOR=here", "POSTERN_HOME="+filepath.Join(dir, "state"))
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err = cmd.Run()
		exited := (*exec.ExitError)(nil)
		require.ErrorAs(t, err, &exited)
		require.Equal(t, 7, exited.ExitCode(), stderr.String())
		require.Equal(t, "[up local] here\n", stdout.String())
		if said == "" {
			require.Empty(t, stderr.String())
		} else {
			require.Contains(t, stderr.String(), said)
		}
	}
}

// What is linked in must not ask the terminal questions: one that does not
// answer them would cost five seconds (package engine/still).
func TestEngineLeavesTheTerminalAlone(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), stackProgram(t), "--help")
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CI=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	terminal, err := pty.Start(cmd)
	require.NoError(t, err)
	defer terminal.Close()
	said, _ := io.ReadAll(terminal) // ends with an error when the other side is closed
	require.NoError(t, cmd.Wait())
	require.Contains(t, string(said), "preview")
	require.NotContains(t, string(said), "\x1b")
}
