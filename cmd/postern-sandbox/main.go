// Command postern-sandbox is the inside of a sandbox: the first process in
// there, which `postern run` starts. It is a program of its own because what it
// links is what each command waits for, and what an agent can attack: no control
// plane, no cloud's SDK.
package main

import (
	"os"

	"github.com/postern/postern/sandbox/inside"
)

func main() { os.Exit(inside.Main()) }
