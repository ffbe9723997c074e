package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/auto"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/common/workspace"

	"github.com/postern/postern/hostpath"
)

// Backend returns the URL of the backend that has the state of a stack in a cloud: stated, which
// the stack file says; or $PULUMI_BACKEND_URL; or the backend that the user of this machine has
// logged in to. So `pulumi up` and `postern up` have the same state. Without any of them Backend
// returns "": the state is in the stack's state folder, on this machine only. It refuses a folder
// that an agent may write.
func Backend(folders *hostpath.Folders, stated string) (string, error) {
	home, err := workspace.GetPulumiHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's Pulumi folder: %w", err)
	}
	if err := folders.CheckFolder(home); err != nil {
		return "", fmt.Errorf("use the user's Pulumi folder: %w", err)
	}
	at := cmp.Or(stated, os.Getenv("PULUMI_BACKEND_URL"))
	if at == "" {
		known, err := workspace.GetStoredCredentials()
		if err != nil {
			return "", fmt.Errorf("read where this user has logged in with `pulumi login`: %w", err)
		}
		at = known.Current
	}
	if dir, isFile := strings.CutPrefix(at, "file://"); isFile {
		dir, _, _ = strings.Cut(dir, "?")
		if dir == "~" || strings.HasPrefix(dir, "~/") {
			dir = filepath.Join(filepath.Dir(home), dir[1:])
		}
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("the backend %s: write the absolute path of the folder, as in file:///srv/states", at)
		}
		if err := folders.CheckFolder(dir); err != nil {
			return "", fmt.Errorf("use the backend %s: %w", at, err)
		}
	}
	return at, nil
}

// backend returns the URL of the backend that has the state.
func (e *Engine) backend() string { return cmp.Or(e.opts.Backend, local(e.dir)) }

// local returns the URL of a folder with states. The store would not replace its notes next to each
// file in one step, and an engine that is killed while it writes one leaves a state that it cannot
// read: so there are none.
func local(dir string) string {
	return (&url.URL{Scheme: "file", Path: dir, RawQuery: "metadata=skip"}).String()
}

// newWorkspace returns the workspace of the engine, whose folder is dir.
func newWorkspace(ctx context.Context, cli *cli, opts Options, dir string) (auto.Workspace, error) {
	env := map[string]string{
		"PULUMI_SKIP_UPDATE_CHECK":                      "true",
		"PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION":   "true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_INSTALLATIONS": "true",
	}
	// The state holds no secret that a passphrase would protect.
	if !slices.ContainsFunc(cli.environ, func(kv string) bool { return strings.HasPrefix(kv, "PULUMI_CONFIG_PASSPHRASE") }) {
		env["PULUMI_CONFIG_PASSPHRASE"] = ""
	}
	options := []auto.LocalWorkspaceOption{
		auto.Pulumi(cli),
		auto.Program(opts.Program),
		auto.WorkDir(filepath.Join(dir, "work")),
		auto.Project(workspace.Project{
			Name:    tokens.PackageName(Project),
			Runtime: workspace.NewProjectRuntimeInfo("go", nil),
			Main:    filepath.Join(dir, "work"),
			Backend: &workspace.ProjectBackend{URL: cmp.Or(opts.Backend, local(dir))},
		}),
		auto.EnvVars(env),
	}
	if !opts.Own {
		options = append(options, auto.PulumiHome(filepath.Join(dir, "home")))
	}
	ws, err := auto.NewLocalWorkspace(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("set up the engine: %w", err)
	}
	return ws, nil
}

// holds reports whether the backend has the stack. It leaves nothing on this machine.
func holds(ctx context.Context, cli *cli, opts Options) (bool, error) {
	dir, err := os.MkdirTemp("", "postern-backend-")
	if err != nil {
		return false, fmt.Errorf("look for the state of stack %s: %w", opts.Stack, err)
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o700); err != nil {
		return false, fmt.Errorf("look for the state of stack %s: %w", opts.Stack, err)
	}
	ws, err := newWorkspace(ctx, cli, opts, dir)
	if err != nil {
		return false, err
	}
	_, err = auto.SelectStack(ctx, opts.Stack, ws)
	switch {
	case err == nil:
		return true, nil
	case auto.IsSelectStack404Error(err):
		return false, nil
	default:
		return false, fmt.Errorf("look for the state of stack %s in %s: %w", opts.Stack, opts.Backend, err)
	}
}
