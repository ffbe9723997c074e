package workspace

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/leak"
)

// TestSecrets has the files of mission.md's row F2 in several places and spellings, and files that
// look like them.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for path, content := range map[string]string{
		".env": "", ".env.local": "", "sub/.ENV": "", ".env.example": "", ".git-credentials": "",
		".aws/credentials": "", ".aws/config": "",
		"gcloud/application_default_credentials.json": "", ".azure/tokens": "", ".docker/config.json": "",
		".docker/other": "",
		".kube/config":  "", "kube/config": "", ".npmrc": "//r/:_authToken=x", "web/.npmrc": "registry=x",
		".pypirc":                   "",
		"prod-service-account.json": "", "tls/ca.pem": "-----BEGIN CERTIFICATE-----",
		"tls/id.pem":     "-----BEGIN EC PRIVATE KEY-----",
		"tls/server.key": "", "main.go": "", "environment": "", "keys.md": "", ".git/objects/ab/.env": "",
	} {
		write(t, filepath.Join(dir, path), content)
	}
	// Neither waits, and neither leads anywhere.
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe.pem"), 0o600))
	require.NoError(t, os.Symlink("/etc", filepath.Join(dir, "linked")))
	require.NoError(t, os.Symlink("tls/id.pem", filepath.Join(dir, "link.pem")))
	found, err := Search{}.Secrets(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{
		".aws/credentials", ".azure", ".docker/config.json", ".env", ".env.local", ".git-credentials", ".kube/config",
		".npmrc", ".pypirc",
		"gcloud/application_default_credentials.json", "pipe.pem", "prod-service-account.json", "sub/.ENV",
		"tls/id.pem", "tls/server.key",
	}, found.Paths())
}

// TestSecretsBehind: what the walk cannot look into is hidden: another file system, a folder that
// can be searched and not read, and a file that the kernel would read for an overlay.
func TestSecretsBehind(t *testing.T) {
	t.Parallel()
	found, err := Search{}.Secrets(t.Context(), "/dev")
	require.NoError(t, err)
	require.Contains(t, found.Paths(), "pts")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "closed/.env"), "")
	require.NoError(t, os.Chmod(filepath.Join(dir, "closed"), 0o111))
	write(t, filepath.Join(dir, "prod.conf"), "a")
	require.NoError(t, os.Chmod(filepath.Join(dir, "prod.conf"), 0o200))
	require.NoError(t, os.Chmod(dir, 0o755))
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if os.Getuid() == 0 {  // root reads everything
			if err = unix.Setfsuid(65534); err != nil {
				return
			}
		}
		f := finder{ctx: t.Context(), clean: &leak.Clean{}}
		err = f.below(root, ".", "")
		found = &f.Found
	}()
	<-done
	require.NoError(t, err)
	require.Equal(t, []string{"closed", "prod.conf"}, found.Paths())
}

// token is one that was made up, and that no list of tokens has.
func token() string { return "gh" + "p_" + "q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo" }

// why returns what a search says about each path: of what is shown, the reason after a colon.
func why(t *testing.T, s Search, dir string) map[string]string {
	t.Helper()
	found, err := s.Secrets(t.Context(), dir)
	require.NoError(t, err)
	all := map[string]string{}
	for _, h := range found.Hidden {
		all[h.Path] = h.Why
	}
	for _, s := range found.Shown {
		all[s.Path] = s.Why + ": " + s.Reason
	}
	return all
}

// TestSecretContents: a file with a token is one whatever its name is, but not where package
// managers put things, and not if it is no text.
func TestSecretContents(t *testing.T) {
	t.Parallel()
	dir := real(t)
	for at, content := range map[string]string{
		"deploy.sh": "curl -H 'Authorization: token " + token() + "'", "notes\n.txt": token(),
		"node_modules/x/readme": token(), "a/vendor/x": token(), "go.sum": token(), "program": "\x7fELF\x00" + token(),
		"plain": "token",
		"late":  strings.Repeat("x\n", 1<<19) + token(), "early": token() + strings.Repeat("\nx", 1<<20),
	} {
		write(t, filepath.Join(dir, at), content)
	}
	const is = "its content: github-pat"
	all := why(t, Search{}, dir)
	require.Equal(t, map[string]string{"deploy.sh": is, "notes\n.txt": is, "early": is}, all)
	for _, text := range all {
		require.NotContains(t, text, token()[4:8])
	}
}

// TestHideAndShow: the stack file's patterns, and the paths that are shown with a reason. What is
// both is hidden.
func TestHideAndShow(t *testing.T) {
	t.Parallel()
	dir := real(t)
	for _, at := range []string{
		"a.tfstate", "deep/B.TFSTATE", "prod/db/x", "x/prod/db/y", "db/x", "test/id_rsa", "test/sub/.env", "test/plain",
		".ssh/known_hosts", ".ssh/key", "both.key", "test.key", "other/.ssh/x",
	} {
		write(t, filepath.Join(dir, at), "")
	}
	s := Search{Hide: []string{"*.tfstate", "prod/db/", "both.key"}, Show: map[string]string{
		"test": "made up", ".ssh/known_hosts": "public", "both.key": "never", "missing": "nothing",
	}}
	require.Equal(t, map[string]string{
		"a.tfstate": "the stack file hides *.tfstate", "deep/B.TFSTATE": "the stack file hides *.tfstate",
		"prod/db": "the stack file hides prod/db/", "x/prod/db": "the stack file hides prod/db/",
		"test/id_rsa": "its name: made up", "test/sub/.env": "its name: made up",
		".ssh/known_hosts": "its name: public", ".ssh/key": "its name", "both.key": "the stack file hides both.key",
		"test.key": "its name", "other/.ssh": "its name",
	}, why(t, s, dir))
}

// TestOtherNamesOfSecrets: a hard link to a hidden file, also to one in a hidden folder, is hidden,
// and a symbolic link leads nowhere.
func TestOtherNamesOfSecrets(t *testing.T) {
	t.Parallel()
	dir := real(t)
	write(t, filepath.Join(dir, "z/.env"), "x")
	write(t, filepath.Join(dir, "z/.ssh/custom"), "x")
	write(t, filepath.Join(dir, "two"), "x")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	for from, to := range map[string]string{"z/.env": "a/copy", "z/.ssh/custom": "custom", "two": "names"} {
		require.NoError(t, os.Link(filepath.Join(dir, from), filepath.Join(dir, to)))
	}
	require.NoError(t, os.Symlink("z/.env", filepath.Join(dir, "link")))
	require.Equal(t, map[string]string{
		"z/.env": "its name", "z/.ssh": "its name", "a/copy": "it is z/.env by another name",
		"custom": "it is z/.ssh/custom by another name",
	}, why(t, Search{}, dir))
	require.Equal(t, map[string]string{
		"z/.env": "its name", "z/.ssh": "its name", "custom": "it is z/.ssh/custom by another name",
	}, why(t, Search{Show: map[string]string{"a/copy": "shown"}}, dir))
}

// TestCleanFilesAreRemembered: what was read is not read again, and what was written, replaced or
// changed a moment ago is.
func TestCleanFilesAreRemembered(t *testing.T) {
	t.Parallel()
	dir, cache := real(t), filepath.Join(t.TempDir(), "cache")
	for _, at := range []string{"written", "replaced", "mapped", "renamed"} {
		write(t, filepath.Join(dir, at), strings.Repeat("x", len(token())))
	}
	search := func(began time.Time) (*leak.Clean, map[string]bool) {
		root, err := os.Open(dir)
		require.NoError(t, err)
		defer root.Close()
		c, err := leak.OpenClean(cache, began)
		require.NoError(t, err)
		f := finder{ctx: t.Context(), clean: c}
		require.NoError(t, f.below(root, ".", ""))
		require.NoError(t, c.Save(true))
		hidden := map[string]bool{}
		for _, h := range f.Hidden {
			hidden[h.Path] = true
		}
		return c, hidden
	}
	c, _ := search(time.Now())
	require.Empty(t, c.Now, "a file that was just written is not remembered")
	later := time.Now().Add(time.Hour)
	c, _ = search(later)
	require.Len(t, c.Now, 4)
	require.True(t, c.Read)
	c, hidden := search(later)
	require.Len(t, c.Now, 4)
	require.False(t, c.Read, "nothing is read again")
	require.Empty(t, hidden)

	// With the size and the times for which people can set them.
	old, err := os.Stat(filepath.Join(dir, "written"))
	require.NoError(t, err)
	write(t, filepath.Join(dir, "written"), token())
	write(t, filepath.Join(dir, "new"), token())
	require.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "replaced")))
	for _, at := range []string{"written", "replaced"} {
		require.NoError(t, os.Chtimes(filepath.Join(dir, at), old.ModTime(), old.ModTime()))
	}
	_, hidden = search(later)
	require.Equal(t, map[string]bool{"written": true, "replaced": true}, hidden)
}

// TestSearchEnds: a search that its caller ends is an error, and the next one continues it.
func TestSearchEnds(t *testing.T) {
	t.Parallel()
	dir := real(t)
	write(t, filepath.Join(dir, "file"), "x")
	why := errors.New("it takes too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := Search{Cache: t.TempDir()}.Secrets(ctx, dir)
	require.ErrorIs(t, err, why)
}

// real is a new folder by its real path.
func real(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return dir
}

// TestPathsThatNobodyCanName: who meets one is told how to remove it.
func TestPathsThatNobodyCanName(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	look := func() error {
		_, err := Search{}.Secrets(t.Context(), dir)
		return err
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec",
		"n=$(printf %0250d 0); for i in $(seq 18); do mkdir $n; cd -P $n; done")
	cmd.Dir = dir
	require.NoError(t, cmd.Run())
	err = look()
	require.ErrorContains(t, err, "remove what has such a path with `")
	_, line, _ := strings.Cut(err.Error(), "`cd ")
	line, _, _ = strings.Cut(line, "`")
	require.NoError(t, exec.CommandContext(t.Context(), "sh", "-ec", "cd "+line).Run())
	require.NoError(t, look())
}
