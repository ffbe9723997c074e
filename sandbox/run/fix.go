package run

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// EngineConfig is a change of a container engine's configuration, which has not been made yet.
type EngineConfig struct {
	// Path is the real path of the file.
	Path string
	// Was is what the file has, and is nil if there is none. Content is what it will have. They are
	// the same if nothing has to change.
	Was, Content []byte

	folders *hostpath.Folders
}

// DefaultEngineConfig returns where the engine of this user has its configuration, unless it was
// told otherwise.
func DefaultEngineConfig() (string, error) {
	if os.Geteuid() == 0 {
		return "/etc/docker/daemon.json", nil
	}
	config, err := os.UserConfigDir()
	return filepath.Join(config, "docker", "daemon.json"), err
}

// ConfigureGVisor returns how the configuration at the path has to change, so that the engine knows
// gVisor and starts it as the runtime gvisor needs it. Everything else in it stays.
func ConfigureGVisor(folders *hostpath.Folders, path string) (*EngineConfig, error) {
	c := &EngineConfig{Path: path, folders: folders}
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		c.Path = real
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = folders.Check(c.Path)
	}
	if err == nil {
		if c.Was, err = os.ReadFile(c.Path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the engine's configuration: %w", err)
	}
	engine, runtimes, gvisor := map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]json.RawMessage{}
	args, program := []string{}, ""
	err = errors.Join(
		decode(c.Was, &engine), decode(engine["runtimes"], &runtimes), decode(runtimes[runsc], &gvisor),
		decode(gvisor["runtimeArgs"], &args), decode(gvisor["path"], &program))
	if err == nil && gvisor["runtimeType"] != nil {
		err = fmt.Errorf("the runtime %s has a runtimeType: remove that, and run this again", runsc)
	}
	if err != nil {
		return nil, fmt.Errorf("read the engine's configuration %s: %w", c.Path, err)
	}
	named := program != ""
	if program, err = folders.Program(cmp.Or(program, runsc), hostpath.Root); err != nil {
		return nil, fmt.Errorf("find gVisor: %w: apt install runsc", err)
	}
	was := slices.Clone(args)
	for _, needed := range gvisorArguments {
		name, _, _ := strings.Cut(needed, "=")
		args = slices.DeleteFunc(args, func(a string) bool {
			flag, _, _ := strings.Cut(a, "=")
			return strings.TrimLeft(flag, "-") == strings.TrimLeft(name, "-") && a != needed
		})
		if !slices.Contains(args, needed) {
			args = append(args, needed)
		}
	}
	if c.Content = c.Was; named && slices.Equal(was, args) {
		return c, nil
	}
	if !named {
		gvisor["path"] = encode(program)
	}
	gvisor["runtimeArgs"] = encode(args)
	runtimes[runsc] = encode(gvisor)
	engine["runtimes"] = encode(runtimes)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, encode(engine), "", "  "); err != nil {
		return nil, err
	}
	c.Content = append(pretty.Bytes(), '\n')
	return c, nil
}

// decode reads a value, if there is one: null is none.
func decode(text []byte, into any) error {
	if text = bytes.TrimSpace(text); len(text) == 0 || string(text) == "null" {
		return nil
	}
	return json.Unmarshal(text, into)
}

// encode writes a value of texts and lists, which is always possible.
func encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(value)
	return bytes.TrimSpace(b.Bytes())
}

// Write makes the change, whole or not at all, if the file is still as it was, and no agent may
// write there by now.
func (c *EngineConfig) Write() error {
	if err := c.folders.Check(c.Path); err != nil {
		return fmt.Errorf("write the engine's configuration: %w", err)
	}
	perm := fs.FileMode(0o644)
	now, err := os.ReadFile(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(filepath.Dir(c.Path), 0o755) //nolint:gosec // others read it, as where Docker is installed
	} else if info, statErr := os.Stat(c.Path); statErr == nil {
		perm = info.Mode().Perm()
	}
	if err == nil && !bytes.Equal(now, c.Was) {
		err = errors.New("it has changed meanwhile: run this again")
	}
	if err == nil {
		err = atomicfile.Write(c.Path, c.Content, perm)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: run this as root", err)
	}
	if err != nil {
		return fmt.Errorf("write the engine's configuration %s: %w", c.Path, err)
	}
	return nil
}
