package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/postern/postern/tests/golden"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": main})
}

// TestScripts runs the command line as people do. What goes wrong says so on
// standard error, and says nothing on standard output.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *golden.Update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"control": control(t), "terminal": onTerminal, "agent": agentIn, "status": status, "lose": lose,
		},
		Setup: func(env *testscript.Env) error {
			// Short: sockets are below it.
			home, err := os.MkdirTemp("", "ph")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(home) })
			env.Setenv("POSTERN_HOME", home)
			env.Setenv("HOME", env.WorkDir) // so that advised paths begin with ~
			return nil
		},
	})
}
