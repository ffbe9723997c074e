package faults

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
)

// smallDisk returns a folder on a disk of 64 KiB of its own.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// The mount lasts as long as the process, which waits for its input to end.
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", fmt.Sprintf(`mount -t tmpfs -o size=64k none %q && echo ready && read line`, dir))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	answers := bufio.NewScanner(out)
	require.True(t, answers.Scan())
	require.Equal(t, "ready", answers.Text())
	return filepath.Join(fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), dir)
}

// fill leaves no room, until the function that it returns is called.
func fill(t *testing.T, disk string) (empty func()) {
	t.Helper()
	path := filepath.Join(disk, "filler")
	require.ErrorContains(t, os.WriteFile(path, make([]byte, 1<<20), 0o600), "no space left on device")
	return func() { require.NoError(t, os.Remove(path)) }
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func toOne(up *fleet.Upstream, more int) *plan.Plan {
	a := plan.Agent{Name: "a", Rules: []plan.Rule{
		{ID: "a/one", Host: "one.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/**"}, Upstream: up.Pin()},
	}}
	for i := range more {
		host := fmt.Sprintf("h%d.test", i)
		a.Rules = append(a.Rules, plan.Rule{ID: "a/" + host, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"}})
	}
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{a}}
}

// TestStoreDiskFull: C2. What does not fit into the store was not published, and
// leaves nothing there; a kill that does not fit is in force all the same.
func TestStoreDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	f := fleet.New(t, 0)
	require.NoError(t, os.WriteFile(f.Home.StoreFile(), []byte("file://"+disk+"/bundle"), 0o600))
	f.StopControl()
	f.StartControl()
	f.StartNode("n1")
	up := f.NewUpstream("one.test")
	f.MustPublish(toOne(up, 0))
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	there := names(t, disk+"/bundle")

	_, err := f.Publish(toOne(up, 2000))
	require.ErrorContains(t, err, "no space left on device")
	require.Equal(t, there, names(t, disk+"/bundle"))
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), s.Seq)
	require.Empty(t, s.Problem)
	f.MustPublish(toOne(up, 1))

	// C2: a kill that does not fit is in force at once, with what is open.
	upload := openUpload(t, f.Client("n1", "a"), up, "https://one.test/")
	empty := fill(t, disk)
	out, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.ErrorContains(t, out.Unrecorded, "no space left on device")
	require.NoError(t, out.Unconfirmed)
	require.Error(t, err, "what is not recorded is said")
	require.Equal(t, []string{"n1"}, out.Converged.Confirmed)
	upload.requireCut(t)
	require.NotEqual(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		return err == nil && strings.Contains(s.Problem, "no space left on device; it is tried again every second")
	}, patience, 10*time.Millisecond)
	// It is recorded by itself as soon as there is room.
	empty()
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		return err == nil && s.Problem == ""
	}, patience, 10*time.Millisecond)
	b, err := f.Operator().Current(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, b.Killed.Agents)
	require.NoError(t, f.Operator().Proven(t.Context(), b))
}

// upload is a request whose body has not ended.
type upload struct {
	ended chan error
	body  *io.PipeWriter
}

// openUpload begins a request whose body continues until it is cut, and returns when
// the upstream has it.
func openUpload(t *testing.T, client *http.Client, up *fleet.Upstream, url string) *upload {
	t.Helper()
	r, w := io.Pipe()
	u := &upload{ended: make(chan error, 1), body: w}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, r)
	require.NoError(t, err)
	client.Timeout = 0
	go func() {
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			err = fmt.Errorf("it was answered: %s", resp.Status)
		}
		u.ended <- err
	}()
	_, err = w.Write([]byte("begin"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return up.Open() > 0 }, patience, 5*time.Millisecond)
	t.Cleanup(func() { _ = w.Close() })
	return u
}

// requireCut makes sure that the upload has ended without an answer.
func (u *upload) requireCut(t *testing.T) {
	t.Helper()
	select {
	case err := <-u.ended:
		require.Error(t, err)
		require.NotContains(t, err.Error(), "it was answered")
	case <-time.After(patience):
		require.Fail(t, "the upload goes on")
	}
}

// TestStateDiskFull: C2. What a control plane cannot keep for its restart is not
// live, and the store does not hold it either. A kill is live all the same.
func TestStateDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	f := fleet.New(t, 0)
	f.StopControl()
	f.Configure = func(c *xds.Config) { c.State = disk }
	f.StartControl()
	f.StartNode("n1")
	up := f.NewUpstream("one.test")
	f.MustPublish(toOne(up, 0))
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Eventually(t, func() bool {
		info, err := os.Stat(filepath.Join(disk, "kill.reserve"))
		return err == nil && info.Sys().(*syscall.Stat_t).Blocks*512 >= 16<<10
	}, patience, 10*time.Millisecond)

	empty := fill(t, disk)
	_, err := f.Publish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}})
	require.ErrorContains(t, err, "no space left on device; the previous version stays live")
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), s.Seq)
	// The control plane may have seen what was taken back, until it looks again.
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		return err == nil && s.Problem == "" && s.Seq == 1
	}, patience, 10*time.Millisecond)
	history, err := f.Operator().History(t.Context())
	require.NoError(t, err)
	require.Len(t, history, 1)
	_, err = f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err, "there is room for a kill")
	require.NotEqual(t, 200, f.Get("n1", "a", "https://one.test/"))
	b, err := bundle.ReadKept(filepath.Join(disk, "good.bundle"))
	require.NoError(t, err)
	kept, err := f.Operator().Verify(b)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, kept.Killed.Agents, "a restart knows it")
	empty()
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		return err == nil && s.Problem == ""
	}, patience, 10*time.Millisecond)
	f.MustPublish(toOne(up, 1))
	require.NotEqual(t, 200, f.Get("n1", "a", "https://one.test/"), "who is killed stays so")
}
