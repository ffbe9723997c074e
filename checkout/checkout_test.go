package checkout

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// tree is a source tree with one program.
type tree struct {
	t       *testing.T
	root    string
	folders *hostpath.Folders
}

const source = `package main

import "fmt"

func main() { fmt.Println("one") }
`

func newTree(t *testing.T) *tree {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	c := &tree{t: t, root: filepath.Join(dir, "tree")}
	c.write("go.mod", "module example.test/tree\n\ngo 1.26\n")
	c.write("cmd/program/main.go", source)
	c.folders, err = hostpath.In(filepath.Join(dir, "state")).Folders()
	require.NoError(t, err)
	return c
}

func (c *tree) write(name, content string) {
	c.t.Helper()
	path := filepath.Join(c.root, name)
	require.NoError(c.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(c.t, os.WriteFile(path, []byte(content), 0o600))
}

var program = Program{"called", "program", "", "an hour"}

// build returns what the program prints, what was said, and the error.
func (c *tree) build() (printed, said string, err error) {
	c.t.Helper()
	var w bytes.Buffer
	path, err := program.Build(c.t.Context(), c.folders, c.root, &w)
	if err != nil {
		return "", w.String(), err
	}
	require.Equal(c.t, filepath.Join(c.root, "bin", "called"), path)
	out, err := exec.CommandContext(c.t.Context(), path).Output()
	return string(out), w.String(), err
}

func TestBuild(t *testing.T) {
	t.Parallel()
	c := newTree(t)
	printed, said, err := c.build()
	require.NoError(t, err)
	require.Equal(t, "one\n", printed)
	require.Equal(t, "building bin/called: the first time this takes an hour\n", said)
	settings, err := exec.CommandContext(t.Context(), "go", "version", "-m", filepath.Join(c.root, "bin", "called")).Output()
	require.NoError(t, err)
	require.Contains(t, string(settings), "CGO_ENABLED=0")
	require.Contains(t, string(settings), "-trimpath=true")

	before, err := os.Stat(filepath.Join(c.root, "bin", "called"))
	require.NoError(t, err)
	_, said, err = c.build()
	require.NoError(t, err)
	require.Empty(t, said)
	after, err := os.Stat(filepath.Join(c.root, "bin", "called"))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "it was up to date")

	c.write("cmd/program/main.go", "package main\n\nfunc main() { println(undeclared) }\n")
	_, said, err = c.build()
	require.ErrorContains(t, err, "cmd/program/main.go:3:23: undefined: undeclared")
	require.NotContains(t, err.Error(), "\nexample.test", "names of packages are no news")
	require.Empty(t, said)

	c.write("cmd/program/main.go", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"two\") }\n")
	printed, _, err = c.build()
	require.NoError(t, err)
	require.Equal(t, "two\n", printed)
}

// TestBuildTrustsNoAgent: a program that an agent may write is not started, whatever it says of how it was built.
func TestBuildTrustsNoAgent(t *testing.T) {
	t.Parallel()
	c := newTree(t)
	_, _, err := c.build()
	require.NoError(t, err)
	registry := hostpath.In(filepath.Join(filepath.Dir(c.root), "state"))
	require.NoError(t, registry.Record(filepath.Join(c.root, "bin")))
	c.folders, err = registry.Folders()
	require.NoError(t, err)
	_, _, err = c.build()
	require.ErrorContains(t, err, "where an agent may write")
}

func TestBuildTrustsNoOtherUser(t *testing.T) {
	t.Parallel()
	c := newTree(t)
	_, _, err := c.build()
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Join(c.root, "bin", "called"), 0o777))
	_, _, err = c.build()
	require.ErrorContains(t, err, "others may write")
}

func TestOf(t *testing.T) {
	t.Parallel()
	c := newTree(t)
	program := filepath.Join(c.root, "bin", "postern")
	_, ok := Of(program)
	require.False(t, ok, "it is another module")
	c.write("go.mod", "module github.com/postern/postern\n")
	root, ok := Of(program)
	require.True(t, ok)
	require.Equal(t, c.root, root)
	_, ok = Of(filepath.Join(c.root, "postern"))
	require.False(t, ok)
	_, ok = Of("/usr/bin/postern")
	require.False(t, ok)
}

// TestSettings: what tools/build.sh has compiled is used here.
func TestSettings(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("..", "tools", "build.sh"))
	require.NoError(t, err)
	require.Contains(t, string(script), `CGO_ENABLED=0 go build -v -trimpath -ldflags="-s -w" "$@"`)
	for _, p := range []Program{CLI, Daemon, Stack("aws")} {
		require.Contains(t, string(script), "\t"+p.Name+" "+p.Command+" "+p.Tags+"\n")
	}
}

// The agent of the demo works below .cache/ of the source tree.
func TestCheckSources(t *testing.T) {
	t.Parallel()
	for agent, refused := range map[string]bool{
		".cache/demo/work": false, "": true, "..": true, "cmd/program": true, "cmd": true, "work": true,
	} {
		c := newTree(t)
		dir := filepath.Join(c.root, agent)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		registry := hostpath.In(filepath.Join(filepath.Dir(c.root), "state"))
		require.NoError(t, registry.Record(dir))
		folders, err := registry.Folders()
		require.NoError(t, err)
		var writable *hostpath.WritableError
		require.Equal(t, refused, errors.As(CheckSources(folders, c.root), &writable), agent)
	}
}

// TestBuildCompilesNothingOfAnAgents: the Go tool is not started if a variable, or what `go env -w`
// has written, says that it compiles what an agent may write. The refusal names the variable.
func TestBuildCompilesNothingOfAnAgents(t *testing.T) { //nolint:paralleltest // it sets variables
	c := newTree(t)
	dir := filepath.Dir(c.root)
	agent := filepath.Join(dir, "agent")
	require.NoError(t, os.MkdirAll(filepath.Join(agent, "cache"), 0o700))
	registry := hostpath.In(filepath.Join(dir, "state"))
	require.NoError(t, registry.Record(agent))
	var err error
	c.folders, err = registry.Folders()
	require.NoError(t, err)
	file := filepath.Join(dir, "env")
	t.Setenv("GOENV", file)
	for name, path := range map[string]string{
		"GOMODCACHE": agent + "/cache", "GOCACHE": agent, "GOPATH": agent + "/none", "GOROOT": dir, "GOBIN": agent + "/cache",
	} {
		require.NoError(t, os.WriteFile(file, []byte(name+"="+path+"\n"), 0o600))
		_, _, err := c.build()
		require.ErrorContains(t, err, name+" in "+file+": ", name)
		require.ErrorContains(t, err, agent+", where an agent may write", name)
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, path)
			_, _, err := c.build()
			require.ErrorContains(t, err, name+": ", name)
			require.ErrorContains(t, err, "where an agent may write", name)
		})
	}
	require.NoFileExists(t, filepath.Join(c.root, "bin", "called"))
}

// TestBuildUsesNoWorkspace: a go.work of a folder above names modules whose replace directives count for ours.
func TestBuildUsesNoWorkspace(t *testing.T) {
	t.Parallel()
	c := newTree(t)
	c.write("go.mod", "module example.test/tree\n\ngo 1.26\n\nrequire example.test/dep v1.0.0\n\nreplace example.test/dep => ./dep\n")
	c.write("dep/go.mod", "module example.test/dep\n\ngo 1.26\n")
	c.write("dep/dep.go", "package dep\n\nconst Says = \"one\"\n")
	c.write("cmd/program/main.go", "package main\n\nimport (\n\t\"fmt\"\n\n\t\"example.test/dep\"\n)\n\nfunc main() { fmt.Println(dep.Says) }\n")
	c.write("../go.work", "go 1.26\n\nuse (\n\t./tree\n\t./agent\n)\n\nreplace example.test/dep => ./agent/dep\n")
	c.write("../agent/go.mod", "module example.test/agent\n\ngo 1.26\n")
	c.write("../agent/dep/go.mod", "module example.test/dep\n\ngo 1.26\n")
	c.write("../agent/dep/dep.go", "package dep\n\nconst Says = \"an agent's\"\n")
	printed, _, err := c.build()
	require.NoError(t, err)
	require.Equal(t, "one\n", printed)
}

// TestBuildStartsNothingOfAnAgents: whatever PATH and Go's settings name, the Go tool starts no program where an agent
// may write: a newer Go, what wraps the compiler, what keeps the cache.
func TestBuildStartsNothingOfAnAgents(t *testing.T) { //nolint:paralleltest // it sets variables
	c := newTree(t)
	dir := filepath.Dir(c.root)
	bin, canary, settings := filepath.Join(dir, "agent", "venv", "bin"), filepath.Join(dir, "canary"), filepath.Join(dir, "env")
	require.NoError(t, os.MkdirAll(bin, 0o700))
	for _, name := range []string{"go1.99.0", "git", "gcc", "sh", "wrap"} {
		program := "#!/bin/sh\necho " + name + " >> " + canary + "\nexit 1\n"
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte(program), 0o700))
	}
	registry := hostpath.In(filepath.Join(dir, "state"))
	require.NoError(t, registry.Record(filepath.Join(dir, "agent")))
	var err error
	c.folders, err = registry.Folders()
	require.NoError(t, err)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("GOENV", settings)
	wrap := filepath.Join(bin, "wrap")
	for name, value := range map[string]string{"GOFLAGS": "-toolexec=" + wrap, "GOCACHEPROG": wrap + " -x"} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // it sets variables
			t.Setenv(name, value)
			if printed, _, err := c.build(); err != nil {
				require.ErrorContains(t, err, name+": "+wrap+" is in ")
			} else {
				require.Equal(t, "one\n", printed)
			}
		})
		require.NoError(t, os.WriteFile(settings, []byte(name+"="+value+"\n"), 0o600))
		_, _, err := c.build()
		require.NoError(t, err)
		require.NoError(t, os.Remove(settings))
		require.NoFileExists(t, canary, name)
	}
	c.write("go.mod", "module example.test/tree\n\ngo 1.99.0\n")
	t.Setenv("GOTOOLCHAIN", "path")
	_, _, err = c.build()
	require.ErrorContains(t, err, "go1.99.0")
	require.NoFileExists(t, canary)
}

// TestSettingsOfAnAgents: what an agent may write as the settings of Go is not read.
func TestSettingsOfAnAgents(t *testing.T) { //nolint:paralleltest // it sets variables
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	registry := hostpath.In(filepath.Join(dir, "state"))
	for _, name := range []string{"mine", "agent"} {
		telemetry := filepath.Join(dir, name, "go", "telemetry")
		require.NoError(t, os.MkdirAll(telemetry, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "go", "env"), []byte("GOPRIVATE=set.test\n"), 0o600))
	}
	require.NoError(t, registry.Record(filepath.Join(dir, "agent")))
	folders, err := registry.Folders()
	require.NoError(t, err)
	for name, read := range map[string]bool{"mine": true, "agent": false} {
		t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, name))
		env, err := goSettings(t.Context(), folders)
		require.NoError(t, err)
		require.Equal(t, read, slices.Contains(env, "GOPRIVATE=set.test"), name)
	}
}
