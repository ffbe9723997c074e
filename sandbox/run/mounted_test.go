package run

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/view"
)

// mounted is set in the mount namespace of TestNothingPrivateIsMounted.
const mounted = "POSTERN_TEST_MOUNTED"

// TestNothingPrivateIsMounted: no spelling, link or mount makes a working directory of what no
// agent may see, or has that in one.
func TestNothingPrivateIsMounted(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root mounts
	}
	if os.Getenv(mounted) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", os.Args[0],
			"-test.run=^TestNothingPrivateIsMounted$", "-test.v")
		cmd.Env = append(os.Environ(), mounted+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestNothingPrivateIsMounted/a_mount_of_the_keys")
		return
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	at := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range []string{
		"people/me/.ssh/keys", "people/me/.aws", "people/me/.config/gcloud", "people/me/project/sub", "elsewhere/aws",
		"state/local-1", "plain/sub", "runtime", "other",
	} {
		require.NoError(t, os.MkdirAll(at(dir), 0o700))
	}
	require.NoError(t, os.Remove(at("people/me/.aws")))
	require.NoError(t, os.Symlink(at("elsewhere/aws"), at("people/me/.aws")))
	for _, file := range []string{"runtime/docker.sock", "plain/file"} {
		require.NoError(t, os.WriteFile(at(file), nil, 0o600))
	}
	t.Setenv("HOME", at("people/me"))
	t.Setenv("XDG_RUNTIME_DIR", at("runtime"))
	try := func(dir string) error {
		registry := hostpath.In(at("state"))
		r := &Request{Plan: &plan.Plan{}, Home: home.Folder{Root: at("state/local-1")}, Agent: "demo"}
		w, err := view.Look(dir, os.Environ(), []string{at("state")})
		if err != nil {
			return err
		}
		folders, err := registry.Folders(w.Path)
		require.NoError(t, err)
		return r.trusted(folders, w.Path, nil)
	}
	require.NoError(t, try(at("plain")))
	require.NoError(t, try(at("people/me/project")))
	require.NoError(t, os.Symlink(at("people/me"), at("other/link")))
	require.NoError(t, os.Symlink(".ssh", at("people/me/project/sub/../../project-keys")))
	for _, dir := range []string{
		"people/me", "people/me/", "people/../people//me/.", "people/me/project/..", "other/link",
		"other/link/.ssh", "people", "people/me/.ssh", "people/me/.ssh/keys", "people/me/.aws",
		"elsewhere/aws", "elsewhere", "people/me/.config",
		"people/me/.config/gcloud", "people/me/project-keys", "state", "state/local-1", ".",
	} {
		require.Error(t, try(root+"/"+dir), dir)
		require.Error(t, try("/proc/self/root"+root+"/"+dir), dir)
	}
	for _, dir := range []string{"/", "/proc/self/cwd/..", "/etc", "/root", "/root/.ssh", "/run", "/dev/shm"} {
		require.Error(t, try(dir), dir)
	}
	for name, c := range map[string]struct{ what, on, dir string }{
		"a mount of the keys":              {"people/me/.ssh", "plain/sub", "plain"},
		"a mount of a folder in the keys":  {"people/me/.ssh/keys", "plain/sub", "plain"},
		"a mount of the home":              {"people/me", "plain/sub", "plain"},
		"a mount of what is around a home": {"people", "plain/sub", "plain"},
		"a mount of what a link leads to":  {"elsewhere/aws", "plain/sub", "plain"},
		"a mount of settings":              {"people/me/.config/gcloud", "plain/sub", "plain"},
		"a mount of the state":             {"state/local-1", "plain/sub", "plain"},
		"a mount of the engine's socket":   {"runtime/docker.sock", "plain/file", "plain"},
		"the folder is a mount of keys":    {"people/me/.ssh", "other", "other"},
		"the folder is a mount of a home":  {"people/me", "other", "other"},
		"in a mount of a home":             {"people/me", "other", "other/.ssh"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, unix.Mount(at(c.what), at(c.on), "", unix.MS_BIND, ""))
			defer func() { require.NoError(t, unix.Unmount(at(c.on), 0)) }()
			require.Error(t, try(at(c.dir)))
		})
	}
	require.NoError(t, unix.Mount(at("other"), at("plain/sub"), "", unix.MS_BIND, ""))
	require.NoError(t, try(at("plain")), "a mount of something else")
	require.NoError(t, unix.Unmount(at("plain/sub"), 0))
}
