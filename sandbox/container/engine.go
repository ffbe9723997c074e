// Package container renders a sandbox's view as a container of Docker or Podman, and asks the
// engine for it over the engine's own socket.
//
// The client is ours: it makes nine calls of Docker's API, with [net/http], which every command
// links anyway. The library of the Moby project brings tracing, an OCI registry's types and a
// second HTTP stack into a program that starts for each command of an agent.
package container

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern/postern/hostpath"
)

// patience bounds each call of the engine but those that wait for a container.
const patience = time.Minute

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 8 << 20

// Engine is a container engine. It may be used by several goroutines.
type Engine struct {
	// Socket is the path of the engine's socket.
	Socket string
	client *http.Client
	// prefix is the version of the API that the engine prefers, as the first element of a path.
	prefix string
}

// UnusableError says why a runtime cannot be used on this machine, and what to do.
type UnusableError struct {
	// Why is one sentence; Remedy is a command to type, or "".
	Why, Remedy string
}

func (e *UnusableError) Error() string {
	if e.Remedy == "" {
		return e.Why
	}
	return e.Why + ": " + e.Remedy
}

// Open connects to the engine that listens on the socket. If that does not answer, the error is an
// [UnusableError].
func Open(ctx context.Context, socket string) (*Engine, error) {
	dialer := new(net.Dialer)
	e := &Engine{Socket: socket, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := e.ask(ctx, http.MethodGet, "/_ping", nil)
	if err != nil {
		return nil, unusable(socket, err)
	}
	response.Body.Close()
	version := response.Header.Get("Api-Version")
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) {
		return nil, &UnusableError{Why: fmt.Sprintf("what listens on %s is not a container engine", socket)}
	}
	e.prefix = "/v" + version
	return e, nil
}

// unusable explains why nobody answers on the socket.
func unusable(socket string, err error) error {
	docker := filepath.Base(socket) == "docker.sock"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &UnusableError{
			Why:    fmt.Sprintf("there is no container engine on this machine (no socket %s)", socket),
			Remedy: "apt install docker.io",
		}
	case errors.Is(err, fs.ErrPermission):
		return &UnusableError{
			Why:    fmt.Sprintf("you may not use the container engine on %s (who may is as powerful as root)", socket),
			Remedy: "sudo usermod -aG docker $USER",
		}
	case errors.Is(err, syscall.ECONNREFUSED) && docker:
		return &UnusableError{
			Why:    fmt.Sprintf("the container engine on %s is not running", socket),
			Remedy: "systemctl start docker",
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &UnusableError{
			Why:    fmt.Sprintf("the container engine on %s does not answer", socket),
			Remedy: "systemctl restart docker",
		}
	}
	return &UnusableError{Why: fmt.Sprintf("the container engine on %s does not answer: %v", socket, err)}
}

// engineError is an answer of the engine that is not success.
type engineError struct {
	status  int
	message string
}

func (e *engineError) Error() string { return e.message }

// isStatus reports whether the engine answered with the status.
func isStatus(err error, status int) bool {
	var answer *engineError
	return errors.As(err, &answer) && answer.status == status
}

// ask sends a request, and returns the answer if that is success. The caller closes its body.
func (e *Engine) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+e.prefix+path, content)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := e.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the container engine: %w", err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("ask the container engine: %w", err)
	}
	var said struct{ Message string }
	if json.Unmarshal(text, &said) != nil || said.Message == "" {
		said.Message = response.Status
	}
	return nil, &engineError{status: response.StatusCode, message: said.Message}
}

// call is ask for an answer that is decoded into result, or dropped if result is nil.
func (e *Engine) call(ctx context.Context, method, path string, body, result any) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := e.ask(bounded, method, path, body)
	if err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			return &UnusableError{
				Why:    fmt.Sprintf("the container engine on %s has not answered for %s", e.Socket, patience),
				Remedy: "systemctl restart docker",
			}
		}
		return err
	}
	defer response.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(result); err != nil {
		return fmt.Errorf("read the container engine's answer: %w", err)
	}
	return nil
}

// Info is what an engine says about itself.
type Info struct {
	ServerVersion string
	DockerRootDir string
	NCPU          int
	// Runtimes are the names of the OCI runtimes that the engine knows.
	Runtimes map[string]struct {
		Path string   `json:"path"`
		Args []string `json:"runtimeArgs"`
	}
	SecurityOptions []string
	// Warnings say which limits do not hold.
	Warnings                            []string
	MemoryLimit, PidsLimit, CPUCfsQuota bool
}

// Users are the users that an engine's containers are on this machine.
type Users struct {
	// First is the user that root of a container is, with userns-remap: the others follow.
	First int
	// Rootless means that root of a container is who runs the engine, and all others are nobody's.
	Rootless bool
}

// usersRange is the number of users that userns-remap gives to containers, at most.
const usersRange = 65536

// Users returns the users that i's containers are. An engine with userns-remap has a folder of its
// own for each range, which is named after the first user and group.
func (i *Info) Users() Users {
	has := func(name string) bool {
		return slices.ContainsFunc(i.SecurityOptions, func(o string) bool { return strings.HasPrefix(o, "name="+name) })
	}
	u := Users{Rootless: has("rootless")}
	if has("userns") {
		if first, _, ok := strings.Cut(filepath.Base(i.DockerRootDir), "."); ok {
			u.First, _ = strconv.Atoi(first) // otherwise 0: nothing is known of them
		}
	}
	return u
}

// inside returns the user of the container that is the user of this machine, or else the same
// number.
func (u Users) inside(id int) int {
	switch {
	case u.Rootless:
		return 0
	case u.First != 0 && id >= u.First && id < u.First+usersRange:
		return id - u.First
	}
	return id
}

// Outside returns the user of this machine that the container's first process is for a view's user.
// For a rootless engine, that is the caller.
func (u Users) Outside(id int) int {
	if u.Rootless {
		return os.Getuid()
	}
	return u.First + u.inside(id)
}

// Info asks the engine about itself.
func (e *Engine) Info(ctx context.Context) (*Info, error) {
	info := new(Info)
	if err := e.call(ctx, http.MethodGet, "/info", nil, info); err != nil {
		return nil, fmt.Errorf("ask about the container engine: %w", err)
	}
	return info, nil
}

// Image is an image that the engine has.
type Image struct {
	// ID is the digest of the image's configuration: it names these bytes and no others.
	ID string `json:"Id"`
	// Config is what the image asks for. Whoever made the image wrote it.
	Config struct {
		Env     []string
		Volumes map[string]struct{}
	}
}

// Image returns the image of that name or digest. The engine must have it: nothing is downloaded.
func (e *Engine) Image(ctx context.Context, name string) (*Image, error) {
	image := new(Image)
	err := e.call(ctx, http.MethodGet, "/images/"+url.PathEscape(name)+"/json", nil, image)
	if isStatus(err, http.StatusNotFound) {
		return nil, &UnusableError{
			Why:    fmt.Sprintf("the container engine has no image %q", name),
			Remedy: "docker pull " + hostpath.Quote(name),
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look for image %q: %w", name, err)
	}
	return image, nil
}

// create makes a container of that name, and returns its ID.
func (e *Engine) create(ctx context.Context, name string, c *config) (string, error) {
	var made struct {
		ID string `json:"Id"`
	}
	if err := e.call(ctx, http.MethodPost, "/containers/create?name="+name, c, &made); err != nil {
		return "", fmt.Errorf("make container: %w", err)
	}
	return made.ID, nil
}

// checkOverlays makes sure that the engine has made the overlays of c, and not empty volumes.
func (e *Engine) checkOverlays(ctx context.Context, id string, c *config) error {
	for _, m := range c.HostConfig.Mounts {
		if m.VolumeOptions == nil {
			continue
		}
		var made struct {
			Mounts []struct{ Name, Destination string }
		}
		if err := e.call(ctx, http.MethodGet, "/containers/"+id+"/json", nil, &made); err != nil {
			return fmt.Errorf("look at container: %w", err)
		}
		var volume struct{ Options map[string]string }
		for _, v := range made.Mounts {
			if v.Destination != m.Target {
				continue
			}
			if err := e.call(ctx, http.MethodGet, "/volumes/"+url.PathEscape(v.Name), nil, &volume); err != nil {
				return fmt.Errorf("look at the overlay at %s: %w", m.Target, err)
			}
		}
		if !maps.Equal(volume.Options, m.VolumeOptions.DriverConfig.Options) {
			return fmt.Errorf("make container: this engine makes no overlay at %s: use the runtime bubblewrap, or "+
				"--workspace read-only", m.Target)
		}
	}
	return nil
}

// linkAt returns what is at the path in the container, and where it leads in the end if it is a
// symbolic link, or else "". If nothing is there, the error is [fs.ErrNotExist].
func (e *Engine) linkAt(ctx context.Context, id, path string) (to string, mode fs.FileMode, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := e.ask(ctx, http.MethodHead, "/containers/"+id+"/archive?path="+url.QueryEscape(path), nil)
	if isStatus(err, http.StatusNotFound) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return "", 0, fmt.Errorf("look at %s in the container: %w", path, err)
	}
	response.Body.Close()
	var stat struct {
		Mode       fs.FileMode `json:"mode"`
		LinkTarget string      `json:"linkTarget"`
	}
	encoded := strings.NewReader(response.Header.Get("X-Docker-Container-Path-Stat"))
	if err := json.NewDecoder(base64.NewDecoder(base64.StdEncoding, encoded)).Decode(&stat); err != nil {
		return "", 0, fmt.Errorf("look at %s in the container: %w", path, err)
	}
	if stat.Mode&fs.ModeSymlink == 0 {
		return "", stat.Mode, nil
	}
	if stat.LinkTarget == "" {
		return "", 0, fmt.Errorf("look at %s in the container: the engine does not say where the link leads", path)
	}
	return stat.LinkTarget, stat.Mode, nil
}

// start starts the container.
func (e *Engine) start(ctx context.Context, id string) error {
	if err := e.call(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

// gone waits, without a bound, until the container has ended and is removed. Call it before the
// container starts: ready is closed when the engine has begun to wait. An engine that could not
// remove the container says so in its answer.
func (e *Engine) gone(ctx context.Context, id string, ready func()) error {
	response, err := e.ask(ctx, http.MethodPost, "/containers/"+id+"/wait?condition=removed", nil)
	ready()
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for container: %w", err)
	}
	defer response.Body.Close()
	var ended struct{ Error *struct{ Message string } }
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&ended); err != nil {
		return fmt.Errorf("wait for container: %w", err)
	}
	if ended.Error != nil {
		return fmt.Errorf("wait for container: %s", ended.Error.Message)
	}
	return nil
}

// removeEvery is the time between two requests to remove a container that somebody else removes.
const removeEvery = 100 * time.Millisecond

// Remove ends and removes the container of that ID or name, and returns when the engine no longer
// has it: a removal in progress (409) may fail. One that is gone is not an error. If the engine
// fails to end the container, as after a fork bomb, Remove waits for that end and asks again.
func (e *Engine) Remove(ctx context.Context, id string) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := false
	var refused error // what the engine has answered
	for {
		err := e.call(bounded, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
		switch {
		case err == nil, isStatus(err, http.StatusNotFound):
			return nil
		case refused != nil && bounded.Err() != nil: // this is no answer
			return e.stillThere(id, fmt.Errorf("the engine still has it: %w", refused))
		case isStatus(err, http.StatusConflict):
		case isStatus(err, http.StatusInternalServerError) && !ended:
			failed := e.call(bounded, http.MethodPost, "/containers/"+id+"/wait?condition=not-running", nil, nil)
			if isStatus(failed, http.StatusNotFound) {
				return nil
			}
			if ended = failed == nil; !ended && bounded.Err() == nil {
				return e.stillThere(id, fmt.Errorf("%w: wait for its end: %w", err, failed))
			}
		case isUnanswered(err):
			return fmt.Errorf("remove container: %w", err)
		default:
			return e.stillThere(id, err)
		}
		refused = err
		select {
		case <-bounded.Done():
			return e.stillThere(id, fmt.Errorf("the engine still has it: %w", refused))
		case <-time.After(removeEvery):
		}
	}
}

// stillThere says how a person removes the container, which the engine has not removed.
func (e *Engine) stillThere(id string, why error) error {
	command := "docker --host"
	if filepath.Base(e.Socket) == "podman.sock" {
		command = "podman --url"
	}
	return fmt.Errorf("remove container: %w: run `%s %s rm --force --volumes %s`", why, command,
		hostpath.Quote("unix://"+e.Socket), id)
}
