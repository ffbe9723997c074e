package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/tests/terminal"
)

// onTerminal is the script command `terminal STATUS ANSWER COMMAND...`: the command
// on a terminal, whose question is answered. What the terminal shows is then in the
// file terminal.txt.
func onTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: terminal STATUS ANSWER COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[2], args[3:]...)
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, args[2]); cmd.Err != nil {
			if _, err := os.Stat(path); err == nil {
				cmd = exec.CommandContext(ctx, path, args[3:]...)
			}
		}
	}
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "POSTERN_HOME", "XDG_CONFIG_HOME"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	said, err := terminal.Run(cmd, terminal.Consent, args[1], nil)
	ts.Check(os.WriteFile(ts.MkAbs("terminal.txt"), []byte(said), 0o600))
	ts.Logf("%s", said)
	status := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if status != want {
		ts.Fatalf("the exit status is %d, not %d", status, want)
	}
}

// agentIn is the script command `agent FOLDER`: an agent works there, or has.
func agentIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agent FOLDER")
	}
	ts.Check(hostpath.In(ts.Getenv("POSTERN_HOME")).Record(ts.MkAbs(args[0])))
}

// status is the script command `status N COMMAND...`: the command ends with that
// exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("the exit status is %d, not %s", got, args[0])
	}
}

// lose is the script command `lose STACK FILE [CONTENT]`: the file of the stack's state folder is gone, or has that
// content.
func lose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: lose STACK FILE [CONTENT]")
	}
	folders, err := filepath.Glob(filepath.Join(ts.Getenv("POSTERN_HOME"), args[0]+"-*"))
	ts.Check(err)
	if len(folders) != 1 {
		ts.Fatalf("there are %d stacks %s", len(folders), args[0])
	}
	file := filepath.Join(folders[0], args[1])
	if len(args) == 2 {
		ts.Check(os.RemoveAll(file))
	} else {
		ts.Check(os.WriteFile(file, []byte(args[2]+"\n"), 0o600))
	}
}
