// Package still keeps a library from talking to the terminal before main.
//
// Pulumi's SDK links Bubble Tea, which asks the terminal for its background colour during
// initialization. A terminal that does not answer costs five seconds, and the question stays on the
// screen. If CI is set, Bubble Tea does not ask.
//
// The package depends on the order of initialization: it imports only os, so it is initialized
// first (TestEngineLeavesTheTerminalAlone).
package still

import "os"

var given = os.Getenv("CI")

func init() {
	if given == "" {
		os.Setenv("CI", "true") //nolint:errcheck // the name is a valid one
	}
}

// Restore restores the environment. Call it first in main.
func Restore() {
	if given == "" {
		os.Unsetenv("CI") //nolint:errcheck // the name is a valid one
	}
}
