// Package tool has the tools of an operator's own: programs of this machine that agents may have
// run outside their sandboxes. A plan contains them.
package tool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
)

// Tool is a program of this machine that an agent may have run outside its sandbox. The agent
// chooses the arguments alone, which the program reads as one JSON object.
type Tool struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Command is the absolute path of the program, and what it is started with.
	Command []string `json:"command"`
	// Arguments is the JSON Schema of the object.
	Arguments string `json:"arguments"`
	// Env are the variables of whoever started the run that the program has, too. They are sorted.
	Env []string `json:"env,omitempty"`
	// Seconds, Output and Concurrent bound the time of a call, the bytes that it says, and the
	// calls of one run at a time.
	Seconds    int    `json:"seconds"`
	Output     uint64 `json:"output"`
	Concurrent int    `json:"concurrent"`
}

// Digest identifies the tool with all that it is.
func (t *Tool) Digest() string {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // it has nothing but text and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// shells run what they read, or start another program that may be one, so what an agent writes must
// not reach them.
var shells = []string{
	"sh", "bash", "rbash", "dash", "ash", "yash", "posh", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "elvish", "pwsh",
	"busybox", "toybox", "env", "xargs", "parallel", "sudo", "doas", "su", "ssh", "timeout", "nice", "ionice", "nohup",
	"setsid", "stdbuf", "chroot", "unshare", "nsenter", "script", "watch",
}

// IsShell reports whether the program, or a word of a command, runs commands that it reads or is
// given.
func IsShell(program string) bool { return slices.Contains(shells, path.Base(program)) }

// String says all that the tool is.
func (t *Tool) String() string {
	return fmt.Sprintf(
		"tool %s outside: %q (%s), with the variables %q, for %d s, %d bytes, %d at a time, arguments %s",
		t.Name, t.Command, t.About, t.Env, t.Seconds, t.Output, t.Concurrent, t.Arguments)
}
