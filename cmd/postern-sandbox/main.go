// Command postern-sandbox is the inside of a sandbox: its first process, which `postern run`
// starts. It is a separate program because each command waits for what it links, and an agent can
// attack what it links: no control plane, no cloud's SDK.
package main

import (
	"os"

	"github.com/postern/postern/sandbox/inside"
)

func main() { os.Exit(inside.Main()) }
