package main

import (
	"flag"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite what testdata/script compares with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": main})
}

// TestScripts runs the command line as people do. What goes wrong says so on
// standard error, and says nothing on standard output.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"control": control(t), "terminal": onTerminal, "agent": agentIn, "status": status,
		},
		Setup: func(env *testscript.Env) error {
			// Short: sockets are below it.
			home, err := os.MkdirTemp("", "ph")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(home) })
			env.Setenv("POSTERN_HOME", home)
			return nil
		},
	})
}
