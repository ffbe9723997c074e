package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// startsPrograms are the files that may call exec.Command, and why the program is not one that an agent wrote.
var startsPrograms = map[string]string{
	"hostpath/program.go":               "it is what finds programs",
	"envoy/binary/version.go":           "the path that Find has found",
	"sandbox/bubblewrap/subordinate.go": "bwrap, which Spec.Bubblewrap names; it never runs",
	"sandbox/bwrap.go":                  "Spec.Bubblewrap is found by package hostpath, and absolute",
	"engine/cli.go":                     "FindCLI asks package hostpath",
	"daemon/daemon.go":                  "posternd is found by package hostpath, and absolute",
	"node/node.go":                      "Envoy is found by package hostpath, and absolute",
	"xds/secret/helper.go":              "a sealed copy in memory, of the digest that was published",
	"checkout/checkout.go":              "Go, and what it has built, are found by package hostpath",
	"cmd/postern/become.go":             "postern-cloud is found by package checkout",
	"cmd/postern/prove/sign.go":         "the program of the cloud is found by package checkout",
	"setup/show.go":                     "postern itself; postern-stack is found by package checkout",
	"demo/demo.go":                      "postern itself",
	"sandbox/inside/launch.go":          "it runs in the sandbox",
	"sandbox/inside/join.go":            "it runs in the container",
	"sandbox/run/doctor.go":             "bwrap, which package hostpath has found",
	"sandbox/vm/find.go":                "QEMU, which package hostpath has found",
	"sandbox/vm/unpack.go":              "root's, which package hostpath has found",
	"sandbox/container/start.go":        "postern-sandbox itself, from the view",
}

// readsEnvironment are the files that may take the environment as a whole, which an agent may lead
// to its folder, and what for.
var readsEnvironment = map[string]string{
	"hostpath/environ.go":       "it is what cleans an environment",
	"checkout/checkout.go":      "Go's settings are judged; our own programs clean theirs first",
	"cmd/postern/become.go":     "postern-cloud cleans its environment first",
	"cmd/postern-stack/main.go": "main has cleaned it",
	"provider/provider.go":      "cleaned for the control plane",
	"sandbox/run/run.go":        "what the agent sees of it is chosen by package view",
}

// begins are the programs of ours that run outside of the sandbox, and whether they start programs
// by name, or link what does: all keep the descriptors of their caller to themselves, and those
// clean their environment.
var begins = map[string]bool{
	"main.go": false, "cmd/postern/main.go": true, "cmd/postern-stack/main.go": true, "cmd/posternd/main.go": false,
	"cmd/pulumi-resource-postern/main.go": true,
}

// elsewhere are the mains that run in the sandbox, in Envoy, or for people who work on Postern.
var elsewhere = []string{
	"cmd/postern-sandbox/main.go", "cmd/libguard/main.go", "sandbox/leak/take/main.go", "examples/main.go",
}

// TestProgramsBeginAlone: before it does anything else, each program of ours keeps what its caller
// left open from the programs that it starts, and what its caller's variables name.
func TestProgramsBeginAlone(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	seen := 0
	for _, p := range all {
		if p.Name != "main" || within(p.short(), "tests") || strings.Contains(p.short(), "testdata") {
			continue
		}
		path := filepath.Join(p.short(), "main.go")
		if slices.Contains(elsewhere, path) {
			continue
		}
		cleans, known := begins[path]
		require.True(t, known, "%s is a new program: say in begins whether it starts others", path)
		seen++
		content, err := os.ReadFile(filepath.Join(p.Dir, "main.go"))
		require.NoError(t, err)
		_, body, _ := strings.Cut(string(content), "\nfunc main() {\n")
		body, _, _ = strings.Cut(body, "\n}\n")
		first := strings.Split(strings.TrimPrefix(body, "\tstill.Restore()\n"), "\n")[0]
		require.Equal(t, "\thostpath.KeepDescriptors()", first, path)
		require.Equal(t, cleans, strings.Contains(body, "hostpath.CleanEnvironment()"), path)
	}
	require.Len(t, begins, seen)
}

// TestProgramsOfTheHost: a program is looked up by package hostpath and by nothing else, and no file starts one that
// does not say where the program comes from.
func TestProgramsOfTheHost(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, p := range all {
		if within(p.short(), "tests") {
			continue
		}
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			path := filepath.Join(p.short(), name)
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := call.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch pkg.Name + "." + call.Sel.Name {
				case "os.Environ":
					if readsEnvironment[path] == "" {
						t.Errorf("%s takes the whole environment: use hostpath.Folders.Environ, or say what for", path)
					}
				case "exec.LookPath":
					t.Errorf("%s calls exec.LookPath: whoever writes in a folder of PATH would decide what runs; ask package hostpath", path)
				case "exec.Command", "exec.CommandContext", "os.StartProcess", "syscall.Exec", "unix.Exec", "syscall.ForkExec":
					if seen[path] = true; startsPrograms[path] == "" {
						t.Errorf("%s starts a program: use hostpath.Folders.Command, or say in startsPrograms where the program comes from", path)
					}
				}
				return true
			})
			for _, call := range bareCommands(file) {
				t.Errorf("%s starts the program %s by its name: exec.Command looks it up in PATH; ask package hostpath", path, call)
			}
		}
	}
	for path := range startsPrograms {
		if !seen[path] {
			t.Errorf("%s may start programs, but does not: take it off the list", path)
		}
	}
}

// bareCommands returns the names without a slash that the file gives to exec.Command.
func bareCommands(file *ast.File) []string {
	var bare []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		i := len(call.Args)
		switch pkg, is := sel.X.(*ast.Ident); {
		case !is || pkg.Name != "exec":
		case sel.Sel.Name == "Command":
			i = 0
		case sel.Sel.Name == "CommandContext":
			i = 1
		}
		if i >= len(call.Args) {
			return true
		}
		if lit, ok := call.Args[i].(*ast.BasicLit); ok && lit.Kind == token.STRING && !strings.Contains(lit.Value, "/") {
			bare = append(bare, lit.Value)
		}
		return true
	})
	return bare
}
