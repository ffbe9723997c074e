package protect

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/visible"
)

// Mounts returns the folders mounted in the host's folder at the real path that a command could
// write, and in which files may have names elsewhere. The error names a mount by which the command
// could write what is protected at another path, or a file that has another name.
func Mounts(folder string, files Files) (points []string, err error) {
	mounts, err := hostpath.MountsIn(folder)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		var st unix.Stat_t
		if err := unix.Lstat(m.Point, &st); err != nil {
			return nil, fmt.Errorf("look at what is mounted at %s: %w", visible.Quote(m.Point), err)
		}
		again := slices.IndexFunc(m.Also, func(at string) bool {
			return files.overlap(strings.TrimPrefix(strings.TrimPrefix(at, folder), "/"))
		})
		isFile := st.Mode&unix.S_IFMT != unix.S_IFDIR
		switch {
		case again >= 0:
			return nil, fmt.Errorf("at %s is mounted what is also at %s, where programs of this machine run some "+
				"files: unmount it, or start the agent with --overlay", visible.Quote(m.Point),
				visible.Quote(m.Also[again]))
		case isFile && st.Nlink > 1:
			return nil, fmt.Errorf("the file that is mounted at %s has another name (a hard link), and an agent would "+
				"write it by both: mount a copy of it", visible.Quote(m.Point))
		case !isFile && !m.Whole:
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// overlap reports whether the path is, is in, or leads to one of the files. "" is the folder.
func (f Files) overlap(at string) bool {
	return at == "" || f.Has(at) || slices.ContainsFunc(f, func(of struct{ path, instead string }) bool {
		return strings.HasPrefix(of.path, at+"/")
	})
}
