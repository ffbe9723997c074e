package mounts

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/postern/postern/sandbox/wire"
)

// Check makes sure that nothing is mounted in the working directory but what the host has mounted
// there, and, if made is true, that what is protected is mounted as it should be.
func Check(setup *wire.Setup, made bool) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("check working directory: %w", err)
	}
	if at := strange(string(content), setup, made); at != "" {
		return fmt.Errorf("check working directory: %s is no longer the folder that was checked: run this again", at)
	}
	return nil
}

// escaped is the kernel's spelling of a path in mountinfo.
var escaped = strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)

// strange returns a place in the working directory of a mount that the host has not made, or of
// none where one should be, or "".
func strange(mountinfo string, setup *wire.Setup, made bool) string {
	var dir []string
	var below [][]string
	at := escaped.Replace(string(setup.Dir))
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line) // ID, parent, device, root, mount point, options and more
		switch {
		case len(fields) < 6:
		case fields[4] == at:
			dir = fields
		case strings.HasPrefix(fields[4], at+"/"):
			below = append(below, fields)
		}
	}
	if dir == nil {
		return at
	}
	missing := map[string]bool{}
	ways := map[string]bool{}
	for _, p := range setup.Protected {
		missing[string(p)], ways[path.Dir(string(p))] = made, made
	}
	for _, m := range below {
		in := strings.TrimPrefix(m[4], at+"/")
		protected, own := missing[in], m[2] == dir[2] && m[3] == path.Join(dir[3], in)
		switch {
		case protected && own && slices.Contains(strings.Split(m[5], ","), "ro"):
			missing[in] = false
		case !protected && (own && ways[in] || slices.Contains(setup.Mounts, m[2]+" "+m[3])):
		default:
			return m[4]
		}
	}
	for in, is := range missing {
		if is {
			return path.Join(at, in)
		}
	}
	return ""
}
