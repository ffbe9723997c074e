package places

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
)

// Named is what the owner's settings name by a relative path: it is in each folder where the owner
// uses the tool, or in the repository there.
type Named struct {
	// Name is what names it, as that of a [Place].
	Name string
	// Path is clean, and may begin with "..". Nothing need be there.
	Path string
	// Folder is true if a folder counts, too, with all that is in it. Otherwise it is a program.
	Folder bool
	// Word is true if it may also be no path at all: nothing but the name of a file says so.
	Word bool
}

// loaded are those of the variables whose value is a file or folder that is nobody's project.
var loaded = []string{
	"BASH_ENV", "LD_PRELOAD", "PYTHONSTARTUP", "ZDOTDIR", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM",
	"GIT_TEMPLATE_DIR", "GIT_EXEC_PATH", "CURL_HOME", "npm_config_userconfig", "npm_config_globalconfig",
	"XDG_CONFIG_HOME",
}

// InEach returns what the settings of the owner of a home name in each folder, in an order that is
// always the same: see [Of].
func InEach(home string, environ map[string]string, read func(path string) ([]byte, error)) []Named {
	return sorted(of(home, environ, read).relative)
}

// InRepository returns what the settings in a file of git's name in the repository: see [Of].
func InRepository(file, home string, read func(path string) ([]byte, error)) []Named {
	p := &places{home: home}
	p.git(file, read, mostIncluded)
	return sorted(p.relative)
}

func sorted(all []Named) []Named {
	slices.SortFunc(all, func(a, b Named) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Name, b.Name))
	})
	return slices.CompactFunc(all, func(a, b Named) bool { return a == b })
}

// named adds a relative path.
func (p *places) named(said, path string, folder, word bool) {
	clean := filepath.Clean(path)
	if path != "" && (folder || clean != ".") && !filepath.IsAbs(path) && path[0] != '-' {
		p.relative = append(p.relative, Named{said, clean, folder, word})
	}
}
