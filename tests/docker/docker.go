// Package docker starts a real container engine for tests, with the runtimes runc and gVisor, and
// makes images of this machine's own programs: no registry is asked.
package docker

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Daemon is an engine of the test's own.
type Daemon struct {
	// Socket is the path of its socket.
	Socket string
	cmd    *exec.Cmd
	// alive is the standard input of the engine's first process. When that has ended with the
	// status, ended is closed.
	alive  io.Closer
	status error
	ended  chan struct{}
	client *http.Client
}

// patience bounds the daemon's start, its end, and each call.
const patience = time.Minute

// Start starts an engine that keeps everything in dir, which must be short, as a socket's path is.
// more are flags of dockerd. Only root can. If a program is missing, that is an error: `make deps`
// installs all.
func Start(ctx context.Context, dir string, more ...string) (*Daemon, error) {
	dockerd, err := find("dockerd")
	if err != nil {
		return nil, err
	}
	runsc, err := find("runsc")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "daemon.json")
	content, err := json.Marshal(map[string]any{
		"runtimes": map[string]any{"runsc": map[string]any{
			// Without KVM and control groups it also works in a machine that is virtual itself.
			"path": runsc, "runtimeArgs": []string{
				"--platform=ptrace", "--ignore-cgroups", "--network=none", "--host-uds=open",
			},
		}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, content, 0o600); err != nil {
		return nil, err
	}
	d := &Daemon{Socket: filepath.Join(dir, "docker.sock"), ended: make(chan struct{})}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.Socket)
	}
	d.client = &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: patience}
	// A PID and a mount namespace of its own: when their first process ends, the kernel ends all
	// that the engine has started, and removes its mounts, even if the tests were killed.
	d.cmd = exec.Command(
		"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", first, dir,
		dockerd, "--config-file", config, "--host", "unix://"+d.Socket, "--pidfile", filepath.Join(dir, "pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
	)
	d.cmd.Args = append(d.cmd.Args, more...)
	output := new(bytes.Buffer)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.WaitDelay = output, output, patience
	if d.alive, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.status = d.cmd.Wait()
		close(d.ended)
	}()
	timeout := time.After(patience)
	for {
		err := d.call(ctx, http.MethodGet, "/_ping", nil, nil)
		if err == nil {
			return d, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-d.ended:
			return nil, fmt.Errorf("start dockerd: %w: %s", cmp.Or(d.status, err), output)
		case <-timeout:
			return nil, fmt.Errorf("start dockerd: %w", errors.Join(err, d.Stop()))
		}
	}
}

// first is the first process of the engine's namespaces. It ends the engine when the tests close
// its standard input, or are killed: gently, so that no control group is left, and within a bound.
// The file subids in the engine's folder, if there is one, says who may be which users.
const first = `exec 3<&0
[ ! -e "$0/subids" ] || { mount --bind "$0/subids" /etc/subuid && mount --bind "$0/subids" /etc/subgid; } || exit
"$@" & engine=$!
read -r -u 3 &
wait -n
kill $engine 2>/dev/null
(sleep 20; kill -KILL $engine) &
wait $engine`

// Stop ends the engine, and with it everything that it runs.
func (d *Daemon) Stop() error {
	if err := d.alive.Close(); err != nil {
		return err
	}
	select {
	case <-d.ended: // its status says nothing: it was told to end
		return nil
	case <-time.After(patience):
		return errors.Join(errors.New("dockerd does not end"), d.cmd.Process.Kill())
	}
}

// find finds a program on PATH, where administrators have theirs, or in the checkout's .cache/bin.
func find(name string) (string, error) {
	for dir, err := os.Getwd(); err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if path := filepath.Join(dir, ".cache", "bin", name); executable(path) {
			return path, nil
		}
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: `tools/packages.sh test` installs it", name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (d *Daemon) call(ctx context.Context, method, path string, body io.Reader, result any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode >= 300 || bytes.Contains(answer, []byte(`"errorDetail"`)):
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	case result != nil:
		return json.Unmarshal(answer, result)
	}
	return nil
}

// Containers returns the IDs of all containers with the label, which is NAME=VALUE.
func (d *Daemon) Containers(ctx context.Context, label string) ([]string, error) {
	filters, err := json.Marshal(map[string][]string{"label": {label}})
	if err != nil {
		return nil, err
	}
	var all []struct{ ID string }
	path := "/containers/json?all=1&filters=" + url.QueryEscape(string(filters))
	if err := d.call(ctx, http.MethodGet, path, nil, &all); err != nil {
		return nil, err
	}
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.ID
	}
	return ids, nil
}

// Create makes a container of the image, and does not start it.
func (d *Daemon) Create(ctx context.Context, name, image string, labels map[string]string) error {
	body, err := json.Marshal(map[string]any{"Image": image, "Cmd": []string{"true"}, "Labels": labels})
	if err != nil {
		return err
	}
	return d.call(ctx, http.MethodPost, "/containers/create?name="+name, bytes.NewReader(body), nil)
}

// Exec starts a shell's script in the container, beside what runs there.
func (d *Daemon) Exec(ctx context.Context, container, script string) error {
	body, err := json.Marshal(map[string]any{"Cmd": []string{"sh", "-c", script}})
	if err != nil {
		return err
	}
	var made struct{ ID string }
	if err := d.call(ctx, http.MethodPost, "/containers/"+container+"/exec", bytes.NewReader(body), &made); err != nil {
		return err
	}
	return d.call(ctx, http.MethodPost, "/exec/"+made.ID+"/start", strings.NewReader(`{"Detach":true}`), nil)
}

// Volumes returns the mount options of all volumes that have some.
func (d *Daemon) Volumes(ctx context.Context) ([]string, error) {
	var all struct {
		Volumes []struct{ Options map[string]string }
	}
	if err := d.call(ctx, http.MethodGet, "/volumes", nil, &all); err != nil {
		return nil, err
	}
	options := make([]string, len(all.Volumes))
	for i, v := range all.Volumes {
		options[i] = v.Options["o"]
	}
	return options, nil
}

// Import makes an image of a tar archive. changes are lines of a Dockerfile, e.g. VOLUME /data.
func (d *Daemon) Import(ctx context.Context, name string, archive io.Reader, changes ...string) error {
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {"latest"}, "changes": changes}
	return d.call(ctx, http.MethodPost, "/images/create?"+query.Encode(), archive, nil)
}

// Programs are in the images that Root makes, with the libraries that they need.
var Programs = []string{
	"bash", "cat", "chmod", "cp", "curl", "cut", "env", "getent", "grep", "head", "id", "ln", "ls", "mkdir", "mount",
	"mv", "nproc", "readlink", "rm", "seq", "sh", "sleep", "stat", "stty", "tee", "timeout", "touch", "tr", "true",
	"tty", "uname", "unshare", "wc",
}

// Root returns an archive of a small root file system: the Programs of this machine, more files by
// their path in the image, and more programs.
func Root(ctx context.Context, more map[string]string, programs ...string) (io.Reader, error) {
	files := map[string]string{}
	for _, name := range slices.Concat(Programs, programs) {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		files["/bin/"+name] = path
		libraries, err := needed(ctx, path)
		if err != nil {
			return nil, err
		}
		for _, l := range libraries {
			files[l] = l
		}
	}
	for target, source := range more {
		files[target] = source
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/", "home/", "run/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	targets := make([]string, 0, len(files))
	for target := range files {
		targets = append(targets, target)
	}
	slices.Sort(targets)
	for _, target := range targets {
		content, err := os.ReadFile(files[target])
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Name: strings.TrimPrefix(target, "/"), Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return &archive, w.Close()
}

// needed returns the libraries of a program, and its interpreter.
func needed(ctx context.Context, path string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", path).CombinedOutput()
	if bytes.Contains(out, []byte("not a dynamic executable")) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", path, err, out)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				found = append(found, word)
			}
		}
	}
	return found, nil
}
