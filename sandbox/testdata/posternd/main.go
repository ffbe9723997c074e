// Command posternd is the in-sandbox side alone, for the tests of package sandbox.
package main

import (
	"os"

	"github.com/postern/postern/sandbox/inside"
)

func main() { os.Exit(inside.Main()) }
