package binary

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Version is the release of Envoy for which the configurations of package envoy are written and
// tested; see docs/envoy-advisories.md.
const Version = "1.40"

// reported matches what `envoy --version` prints: commit/version/...
var reported = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+\.[0-9]+)(\.[0-9a-z.-]+)/`)

// CheckVersion runs the program at path, which must be an Envoy of [Version], and returns an error
// if it is not. Another version would refuse its configuration with a message of its own.
func CheckVersion(ctx context.Context, path string) error {
	const remedy = "unset ENVOY and run `make deps`, which gets Envoy " + Version + ", or set ENVOY to the path of one"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.Output()
	m := reported.FindSubmatch(out)
	switch {
	case m != nil && string(m[1]) == Version:
		return nil
	case m != nil:
		return fmt.Errorf("%s is Envoy %s%s, and Postern needs %s: %s", path, m[1], m[2], Version, remedy)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s does not say its version within 10 s: %s", path, remedy)
	case err != nil:
		return fmt.Errorf("%s does not say its version (%w): %s", path, err, remedy)
	}
	return fmt.Errorf("%s is not an Envoy, it says %.80q: %s", path, strings.TrimSpace(string(out)), remedy)
}
