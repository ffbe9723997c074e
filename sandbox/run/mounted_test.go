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
	"github.com/postern/postern/sandbox/workspace/protect"
)

// mounted is set in the mount namespace of TestNothingPrivateIsMounted.
const mounted = "POSTERN_TEST_MOUNTED"

// inMounts runs the test in a mount namespace.
func inMounts(t *testing.T, says string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", os.Args[0],
		"-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mounted+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), says)
}

// TestNothingPrivateIsMounted: no spelling, link or mount makes a working directory of what no
// agent may see, or has that in one.
func TestNothingPrivateIsMounted(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root mounts
	}
	if os.Getenv(mounted) == "" {
		inMounts(t, "--- PASS: TestNothingPrivateIsMounted/a_mount_of_the_keys")
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

// TestMountedFilesAreOwn: by what is mounted in the folder an agent writes neither a file that has
// a name elsewhere, nor one that is protected at another path.
func TestMountedFilesAreOwn(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root mounts
	}
	if os.Getenv(mounted) == "" {
		inMounts(t, "--- PASS: TestMountedFilesAreOwn/a_part_of_git's_folder")
		return
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	at := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range []string{"w/.git/hooks", "w/sub", "w/src", "w/two", "data/in", "theirs"} {
		require.NoError(t, os.MkdirAll(at(dir), 0o700))
	}
	for _, file := range []string{"w/.git/config", "w/src/main.go", "w/file", "data/own", "theirs/rc", "theirs/alone"} {
		require.NoError(t, os.WriteFile(at(file), []byte("mine"), 0o600))
	}
	require.NoError(t, os.Link(at("theirs/rc"), at("data/in/rc")))
	mount := func(t *testing.T, what, on string) {
		t.Helper()
		require.NoError(t, unix.Mount(what, on, "", unix.MS_BIND, ""))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(on, 0)) })
	}
	try := func() error {
		p := &Prepared{}
		defer func() {
			for _, done := range p.done {
				done()
			}
			p.unprotect()
		}()
		_, err := p.protect(at("w"), protect.Workdir)
		return err
	}
	for name, c := range map[string]struct{ what, on, refused string }{
		"git's folder":              {"w/.git", "w/sub", "is mounted what is also at " + at("w/.git") + ", where"},
		"a part of git's folder":    {"w/.git/hooks", "w/sub", "is mounted what is also at " + at("w/.git/hooks")},
		"a protected file":          {"w/.git/config", "w/file", "is mounted what is also at " + at("w/.git/config")},
		"the folder":                {"w", "w/sub", "is mounted what is also at " + at("w") + ", where"},
		"what is around it":         {".", "w/sub", "is mounted what is also at " + at("w") + ", where"},
		"a file with another name":  {"theirs/rc", "w/file", "has another name (a hard link)"},
		"a file without":            {"theirs/alone", "w/file", ""},
		"a part that nothing runs":  {"w/src", "w/sub", ""},
		"git's folder where it was": {"w/.git", "w/.git", "invalid cross-device link"},
	} {
		t.Run(name, func(t *testing.T) {
			mount(t, at(c.what), at(c.on))
			err := try()
			if c.refused == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.refused)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		require.NoError(t, os.Rename(at("w/.git"), at("git")))
		require.NoError(t, os.Mkdir(at("w/.git"), 0o700))
		mount(t, at("git"), at("w/.git"))
		mount(t, at("git"), at("w/two"))
		require.ErrorContains(t, try(), "is mounted what is also at "+at("w/.git"))
	})
	t.Run("names elsewhere", func(t *testing.T) {
		mount(t, at("data"), at("w/sub"))
		require.NoError(t, unix.Mount("", at("w/sub"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		require.NoError(t, try(), "nobody writes there")
		require.NoError(t, unix.Mount("", at("w/sub"), "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		require.NoError(t, try())
		require.NoError(t, os.WriteFile(at("w/sub/in/rc"), []byte("agent's"), 0o600))
		content, err := os.ReadFile(at("theirs/rc"))
		require.NoError(t, err)
		require.Equal(t, "mine", string(content))
	})
}
