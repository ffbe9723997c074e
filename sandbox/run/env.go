package run

import (
	"fmt"
	"os"
	"strings"

	"github.com/postern/postern/sandbox/view"
)

// Env makes NAME=VALUE of what --env was given: NAME has the value that this process has. dropped
// are the names of which the command does not get the value: see [view.Required].
func Env(flags []string) (env, dropped []string, err error) {
	for _, f := range flags {
		name, _, hasValue := strings.Cut(f, "=")
		if name == "" || strings.ContainsAny(name, " \t\n\x00") {
			return nil, nil, fmt.Errorf("--env %q: a variable needs a name", f)
		}
		if !hasValue {
			value, ok := os.LookupEnv(name)
			if !ok {
				return nil, nil, fmt.Errorf("--env %s: there is no such variable here: set it, or use --env %s=VALUE",
					name, name)
			}
			f = name + "=" + value
		}
		if view.Required(name) {
			dropped = append(dropped, name)
			continue
		}
		env = append(env, f)
	}
	return env, dropped, nil
}
