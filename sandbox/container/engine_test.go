package container

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// fake is an engine that answers what a test says.
type fake struct {
	*Engine
	// answer says what is answered to a method and path, without the API's version. The first line
	// is the status.
	answer func(request string) string

	mu    sync.Mutex
	asked []string
	// body is that of the last request with one.
	body string
}

func newFake(t *testing.T, answer func(string) string) *fake {
	t.Helper()
	f := &fake{answer: answer}
	dir, err := os.MkdirTemp("", "fk") // a socket's path may not be long
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "docker.sock")
	serveEngine(t, socket, f.serve)
	f.Engine, err = Open(t.Context(), socket)
	require.NoError(t, err)
	return f
}

func serveEngine(t *testing.T, socket string, handle http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := &http.Server{Handler: handle} //nolint:gosec // a test
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/_ping" {
		w.Header().Set("Api-Version", "1.43")
		return
	}
	path, _ := strings.CutPrefix(r.URL.EscapedPath(), "/v1.43")
	request := r.Method + " " + path
	if r.URL.RawQuery != "" {
		request += "?" + r.URL.RawQuery
	}
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	f.asked = append(f.asked, request)
	if len(body) > 0 {
		f.body = r.Header.Get("Content-Type") + " " + string(body)
	}
	answer := f.answer(request)
	f.mu.Unlock()
	var status int
	first, content, _ := strings.Cut(answer, "\n")
	if _, err := fmt.Sscan(first, &status); err != nil {
		panic(err)
	}
	if r.Method == http.MethodHead {
		w.Header().Set("X-Docker-Container-Path-Stat", content)
		content = ""
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, content)
}

// TestOpen: what is on the socket, and what to do if that is not an engine.
func TestOpen(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fk")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	dead := func(name string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
	}
	dead("docker.sock")
	dead("podman.sock")
	for name, version := range map[string]string{
		"no.sock": "", "path.sock": "1.43/../x", "letters.sock": "1.4a", "good.sock": "1.43",
	} {
		serveEngine(t, filepath.Join(dir, name), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Api-Version", version)
		})
	}
	serveEngine(t, filepath.Join(dir, "sad.sock"), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})
	for name, want := range map[string]string{
		"none.sock":   "there is no container engine on this machine (no socket AT): apt install docker.io",
		"docker.sock": "the container engine on AT is not running: systemctl start docker",
		"podman.sock": "the container engine on AT does not answer: ask the container engine: " +
			"Get \"http://engine/_ping\": dial unix AT: connect: connection refused",
		"no.sock":      "what listens on AT is not a container engine",
		"path.sock":    "what listens on AT is not a container engine",
		"letters.sock": "what listens on AT is not a container engine",
		"sad.sock":     "the container engine on AT does not answer: 418 I'm a teapot",
		"good.sock":    "",
	} {
		socket := filepath.Join(dir, name)
		e, err := Open(t.Context(), socket)
		if want == "" {
			require.NoError(t, err)
			require.Equal(t, "/v1.43", e.prefix)
			continue
		}
		require.EqualError(t, err, strings.ReplaceAll(want, "AT", socket), name)
		var unusable *UnusableError
		require.ErrorAs(t, err, &unusable)
	}
	require.EqualError(t, unusable("/x", fs.ErrPermission),
		"you may not use the container engine on /x (who may is as powerful as root): sudo usermod -aG docker $USER")
}

// TestCalls: what an engine is asked, and what its answers mean.
func TestCalls(t *testing.T) {
	t.Parallel()
	const boom = "\n" + `{"message":"boom"}`
	const wait, at = "POST /containers/c1/wait?condition=removed", "HEAD /containers/c1/archive?path=%2Fa+b"
	image := func(name string) func(*testing.T, *fake) (any, error) {
		return func(t *testing.T, f *fake) (any, error) { t.Helper(); return f.Image(t.Context(), name) }
	}
	for _, c := range []struct {
		call func(*testing.T, *fake) (any, error)
		// asked is the request, and answer what the engine says to it.
		asked, answer string
		want          string
	}{
		{
			info, "GET /info", "200\n" + `{"ServerVersion":"27","NCPU":3,"MemoryLimit":true,` +
				`"Runtimes":{"runsc":{"path":"/r","runtimeArgs":["-x"]}},"Warnings":["w"]}`,
			`27 3 map[runsc:{/r [-x]}] [w] true false`,
		},
		{info, "GET /info", "500" + boom, "error: ask about the container engine: boom"},
		{info, "GET /info", "200\n{", "error: read the container engine's answer"},
		{info, "GET /info", "500\n", "error: ask about the container engine: 500 Internal Server Error"},
		{info, "GET /info", "304\n", "error: ask about the container engine: 304 Not Modified"},
		{
			image("a/b:1?x"), "GET /images/a%2Fb:1%3Fx/json",
			"200\n" + `{"Id":"sha256:1","Config":{"Env":["A=b"],"Volumes":{"/data":{}}}}`,
			`&{sha256:1 {[A=b] map[/data:{}]}}`,
		},
		{
			image("a b"), "GET /images/a%20b/json", "404\n",
			`error: the container engine has no image "a b": docker pull 'a b'`,
		},
		{image("a"), "GET /images/a/json", "500" + boom, `error: look for image "a": boom`},
		{create, "POST /containers/create?name=n", "201\n" + `{"Id":"c1"}`, "c1"},
		{create, "POST /containers/create?name=n", "400" + boom, "error: make container: boom"},
		{start, "POST /containers/c1/start", "204\n", "<nil>"},
		{start, "POST /containers/c1/start", "404" + boom, "error: start container: boom"},
		{remove, "DELETE /containers/c1?force=1&v=1", "204\n", "<nil>"},
		{remove, "DELETE /containers/c1?force=1&v=1", "404\n", "<nil>"},
		{gone, wait, "200\n{}", "<nil>"},
		{gone, wait, "404\n", "<nil>"},
		{gone, wait, "200\n" + `{"StatusCode":137,"Error":{"Message":"boom"}}`, "error: wait for container: boom"},
		{gone, wait, "200\n" + `{"StatusCode":137,"Error":null}`, "<nil>"},
		{gone, wait, "200\n", "error: wait for container: EOF"},
		{gone, wait, "500" + boom, "error: wait for container: boom"},
		{look, at, "200\n" + stat(fs.ModeSymlink, "/x"), "/x"},
		{look, at, "200\n" + stat(fs.ModeDir, "/x"), ""},
		{look, at, "404\n", "error: look at /a b in the container: file does not exist"},
		{look, at, "200\n" + stat(fs.ModeSymlink, ""), "error: the engine does not say where the link leads"},
		{look, at, "200\n", "error: look at /a b in the container: EOF"},
		{look, at, "500\n", "error: look at /a b in the container: 500 Internal Server Error"},
	} {
		t.Run(c.asked+" "+c.answer, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(string) string { return c.answer })
			got, err := c.call(t, f)
			require.Equal(t, []string{c.asked}, f.asked)
			if want, fails := strings.CutPrefix(c.want, "error: "); fails {
				require.ErrorContains(t, err, want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, fmt.Sprint(got))
		})
	}
}

func info(t *testing.T, f *fake) (any, error) {
	t.Helper()
	i, err := f.Info(t.Context())
	if err != nil {
		return nil, err
	}
	return fmt.Sprint(i.ServerVersion, " ", i.NCPU, " ", i.Runtimes, i.Warnings, i.MemoryLimit, i.PidsLimit), nil
}

func create(t *testing.T, f *fake) (any, error) {
	t.Helper()
	id, err := f.create(t.Context(), "n", &config{Image: "i"})
	require.Contains(t, f.body, `application/json {"Image":"i"`)
	return id, err
}

func start(t *testing.T, f *fake) (any, error) { t.Helper(); return nil, f.start(t.Context(), "c1") }

func remove(t *testing.T, f *fake) (any, error) { t.Helper(); return nil, f.Remove(t.Context(), "c1") }

func gone(t *testing.T, f *fake) (any, error) {
	t.Helper()
	ready := 0
	err := f.gone(t.Context(), "c1", func() { ready++ })
	require.Equal(t, 1, ready)
	return nil, err
}

func look(t *testing.T, f *fake) (any, error) {
	t.Helper()
	to, _, err := f.linkAt(t.Context(), "c1", "/a b")
	return to, err
}

func stat(mode fs.FileMode, target string) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"mode":%d,"linkTarget":%q}`, mode, target))
}

// TestPlaces: a link of the image on the way to what is ours, or that leads there, is refused.
func TestPlaces(t *testing.T) {
	t.Parallel()
	own, host := []string{"/run/postern", "/home/me/work", "/data"}, "/run/postern/host"
	one := func(link, to string) map[string]string { return map[string]string{link: to} }
	chain := func(n int) map[string]string { // n links on the way from /tmp
		links := map[string]string{}
		for at := "/tmp"; n > 0; n-- {
			to := fmt.Sprintf("/l%d", n)
			links[at], at = to, to
		}
		return links
	}
	for name, c := range map[string]struct {
		links map[string]string
		// place, if set, is the place on the way to which a link is refused: that at link.
		// Otherwise want is what the error says.
		link, place, want string
	}{
		"a device": {links: one("/etc/group", "device"), want: "/etc/group of the image is not a file"},
		"a link to a device": {
			links: map[string]string{"/etc/passwd": "/x", "/x": "device"},
			want:  "/etc/passwd of the image is not a file",
		},
		"a file":            {links: one("/etc/passwd", "file")},
		"none":              {},
		"to ours":           {links: one("/run", "/elsewhere"), link: "/run", place: "/run/postern"},
		"ours itself":       {links: one("/run/postern", "/elsewhere"), link: "/run/postern", place: "/run/postern"},
		"in ours":           {links: one(host, "/x"), link: host, place: host},
		"to the folder":     {links: one("/home/me", "/elsewhere"), link: "/home/me", place: "/home/me/work"},
		"to a volume":       {links: one("/data", "/elsewhere"), link: "/data", place: "/data"},
		"in a volume":       {links: one("/data/sub", "/elsewhere"), link: "/data/sub", place: "/data/sub"},
		"elsewhere":         {links: one("/tmp", "/var/tmp")},
		"elsewhere, it is":  {links: map[string]string{"/tmp": "/var/tmp", "/var": "", "/var/tmp": ""}},
		"near":              {links: one("/tmp", "/home/me/work2")},
		"into ours":         {links: one("/tmp", "/run/postern/x"), link: "/tmp", place: "/tmp"},
		"around ours":       {links: one("/tmp", "/run"), link: "/tmp", place: "/tmp"},
		"into the folder":   {links: one("/tmp", "/home/me/work"), link: "/tmp", place: "/tmp"},
		"around the folder": {links: one("/tmp", "/home"), link: "/tmp", place: "/tmp"},
		"into a volume":     {links: one("/tmp", "/data")},
		"to everything":     {links: one("/tmp", "/"), link: "/tmp", place: "/tmp"},
		"by two":            {links: map[string]string{"/tmp": "/a/b", "/a": "/run"}},
		"into ours by two": {
			links: map[string]string{"/tmp": "/a/postern", "/a": "/run"}, link: "/tmp", place: "/tmp",
		},
		"forty":                {links: chain(40)},
		"more":                 {links: chain(41), want: "too many links in the image at /l2: use another image"},
		"a circle":             {links: one("/tmp", "/tmp"), want: "too many links in the image at /tmp"},
		"not absolute":         {links: one("/tmp", "x"), want: `says that the image's link at /tmp leads to "x"`},
		"an engine that fails": {links: one("/tmp", "500"), want: "look at /tmp in the container: 500 Internal"},
		"a container is gone":  {links: one("/", "404"), want: "look at / in the container: file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(request string) string {
				path, is := strings.CutPrefix(request, "HEAD /containers/c1/archive?path=")
				path = strings.ReplaceAll(path, "%2F", "/")
				link, there := c.links[path]
				for at := range c.links {
					there = there || strings.HasPrefix(at, path+"/")
				}
				switch {
				case request == "POST /containers/create?name=n":
					return "201\n" + `{"Id":"c1"}`
				case request == "DELETE /containers/c1?force=1&v=1":
					return "204\n"
				case !is:
					return "400\n"
				case link == "404", link == "500":
					return link + "\n"
				case link == "device":
					return "200\n" + stat(fs.ModeDevice, "")
				case link == "file":
					return "200\n" + stat(0, "")
				case link != "":
					return "200\n" + stat(fs.ModeSymlink, link)
				case path == "/", there:
					return "200\n" + stat(fs.ModeDir, "")
				}
				return "404\n"
			})
			err := f.checkPlaces(t.Context(), "n", &config{HostConfig: hostConfig{
				Mounts: []mount{{Target: "/run/postern/host"}, {Target: "/home/me/work/"}},
				Tmpfs:  map[string]string{"/tmp": "rw", "/data/sub": "rw"},
			}}, own)
			switch {
			case c.place != "":
				require.EqualError(t, err, "make container: the image has a link at "+c.link+", on the way to "+c.place+
					", where the sandbox has something of its own: use an image without it")
			case c.want != "":
				require.ErrorContains(t, err, c.want)
			default:
				require.NoError(t, err)
			}
			require.Contains(t, f.body, `"Mounts":null`, "a mount hides what the image has")
			require.Equal(t, "POST /containers/create?name=n", f.asked[0])
			require.Equal(t, "DELETE /containers/c1?force=1&v=1", f.asked[len(f.asked)-1])
		})
	}
}

// TestSweep: what processes that have ended left is removed, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	over := fmt.Sprintf("%s-%d-1", pidNamespace(), os.Getpid())
	removed := "204\n"
	f := newFake(t, func(string) string { return removed })
	folder := t.TempDir()
	for _, name := range []string{"run-" + over + "-1", "run-" + over + "-2", "run-" + Owner() + "-1", over, "run-"} {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, name, "sub"), 0o700))
	}
	for name, content := range map[string]string{
		"run-" + over + "-1": "postern-abc", "run-" + over + "-2": "theirs", "run-" + Owner() + "-1": "postern-runs",
	} {
		content += "\n" + f.Socket
		require.NoError(t, os.WriteFile(filepath.Join(folder, name, "name"), []byte(content), 0o600))
	}
	removed = "500\n"
	require.ErrorContains(t, f.sweep(t.Context(), folder), "remove container: 500")
	require.DirExists(t, filepath.Join(folder, "run-"+over+"-1"))
	removed, f.asked = "204\n", nil
	require.NoError(t, f.sweep(t.Context(), folder))
	require.Equal(t, []string{
		"DELETE /containers/postern-abc?force=1&v=1", "DELETE /containers/postern-abc-probe?force=1&v=1",
	}, f.asked)
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, left, 3)
	require.NoDirExists(t, filepath.Join(folder, "run-"+over+"-1"))
	require.NoError(t, f.sweep(t.Context(), filepath.Join(folder, "none")))
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, f.sweep(t.Context(), file), "look for folders of containers")
}

// TestListen: whoever gets through the private folder above may connect, as any user.
func TestListen(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), strings.Repeat("long", 40), "new")
	r := &Running{engine: newFake(t, func(string) string { return "404\n" }).Engine}
	l, err := r.listen(parent)
	require.NoError(t, err)
	defer l.Close()
	require.Equal(t, parent, filepath.Dir(r.folder))
	require.True(t, strings.HasPrefix(filepath.Base(r.folder), "run-"+Owner()+"-"), r.folder)
	for path, mode := range map[string]fs.FileMode{
		parent: fs.ModeDir | 0o700, r.folder: fs.ModeDir | 0o700, r.host(): fs.ModeDir | 0o755,
		filepath.Join(r.host(), "control.sock"): fs.ModeSocket | 0o666,
	} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
	require.NoError(t, r.Close())
	require.NoDirExists(t, r.folder)
	_, err = (&Running{}).listen(filepath.Join(parent, "\x00"))
	require.ErrorContains(t, err, "make folder for the container")
}

// TestStartFails: what was begun is ended and removed, and the error says why.
func TestStartFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// fails is the part of the request to which the engine answers status 500.
		fails, want string
		change      func(*view.View)
		// made reports whether there was a second container, besides the one with the links.
		made bool
		// left reports whether the folder stays, which says to the next run what is to be removed.
		left bool
	}{
		"create":    {fails: "POST /containers/create", want: "make container: boom"},
		"look":      {fails: "HEAD /containers/c1", want: "in the container: 500"},
		"start":     {fails: "/start", want: "start container: boom", made: true},
		"no mount":  {change: func(v *view.View) { v.Mounts[0].Kind = view.Symlink }, want: "cannot have a symlink"},
		"removal":   {fails: "DELETE /containers/", want: "boom", left: true},
		"its death": {want: "its first process ended before it connected", made: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(request string) string {
				switch {
				case c.fails != "" && strings.Contains(request, c.fails):
					return "500\n" + `{"message":"boom"}`
				case strings.HasPrefix(request, "POST /containers/create"):
					return "201\n" + `{"Id":"c1"}`
				case strings.HasSuffix(request, "?path=%2F"):
					return "200\n" + stat(fs.ModeDir, "")
				case strings.HasPrefix(request, "HEAD"):
					return "404\n"
				}
				return "200\n"
			})
			v := example()
			for i := range v.Mounts {
				if v.Mounts[i].Target == wire.Inside {
					v.Mounts[i].Source = "/bin/true"
				}
			}
			if c.change != nil {
				c.change(v)
			}
			o := &Options{Socket: f.Socket, Folder: t.TempDir()}
			_, _, err := Start(t.Context(), v, o, []byte("{}"), nil)
			require.ErrorContains(t, err, c.want)
			left, err := filepath.Glob(filepath.Join(o.Folder, "run-*"))
			require.NoError(t, err)
			require.Equal(t, c.left, len(left) > 0)
			asked := strings.Join(f.asked, "\n")
			require.Equal(t, c.made, strings.Count(asked, "POST /containers/create") == 2, asked)
		})
	}
}

// TestStartEndsUnanswered: an engine that has not answered may still make the container, so what
// names the container stays for the next run.
func TestStartEndsUnanswered(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fk") // a socket's path may not be long
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ctx, cancel := context.WithCancel(t.Context())
	socket := filepath.Join(dir, "docker.sock")
	serveEngine(t, socket, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.43")
		case strings.HasSuffix(r.URL.Path, "/containers/create"):
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	v := example()
	for i := range v.Mounts {
		if v.Mounts[i].Target == wire.Inside {
			v.Mounts[i].Source = "/bin/true"
		}
	}
	o := &Options{Socket: socket, Folder: t.TempDir()}
	_, _, err = Start(ctx, v, o, []byte("{}"), nil)
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(filepath.Join(o.Folder, "run-*", nameFile))
	require.NoError(t, err)
	require.Len(t, left, 1)
}
