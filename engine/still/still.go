// Package still keeps a library from talking to the terminal before main.
//
// Pulumi's SDK links Bubble Tea, which asks the terminal for its background
// colour when it is initialized. One that does not answer costs five seconds,
// and the question stays on the screen. It does not ask if CI is set.
//
// That it works rests on the order of initialization: this package needs
// nothing but os, so it comes first (TestEngineLeavesTheTerminalAlone).
package still

import "os"

var given = os.Getenv("CI")

func init() {
	if given == "" {
		os.Setenv("CI", "true") //nolint:errcheck // the name is a valid one
	}
}

// Restore makes the environment what it was. Call it first in main.
func Restore() {
	if given == "" {
		os.Unsetenv("CI") //nolint:errcheck // the name is a valid one
	}
}
