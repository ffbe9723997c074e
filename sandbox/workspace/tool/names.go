package tool

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what is read of a repository's settings: an agent may have written them.
const (
	maxIncluded = 20
	maxNames    = 10_000
)

// Names are the paths in a folder that the settings of the folder's repository name, such as that
// of hooks, of a file that they include, with what that names, or of a filter's program. A path
// stands for all that is below it.
type Names struct {
	paths map[string]bool
	// More is set if the settings name more paths than are kept.
	More bool
}

// NamedByGit returns the paths that the settings in git's folder, which is at the path git in the
// folder root, name in root, which is a real path. read returns the content of the file at a path
// in root, or what can be had of it.
func NamedByGit(root, home, git string, read func(at string) string) Names {
	n := Names{paths: map[string]bool{}}
	files := []string{path.Join(git, "config"), path.Join(git, "config.worktree")}
	own, tree := len(files), path.Dir(git)
	for _, file := range files {
		for line := range strings.Lines(read(file)) {
			if key, value, _ := strings.Cut(line, "="); isWorktree(key) {
				tree = path.Join(git, unquoted(value))
			}
		}
	}
	for i := 0; i < len(files); i++ {
		for line := range strings.Lines(read(files[i])) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") {
				_, line, _ = strings.Cut(line, "]")
			}
			key, value, _ := strings.Cut(line, "=")
			if isWorktree(key) {
				continue // what is in there is not git's
			}
			includes := i < own && strings.EqualFold(strings.TrimSpace(key), "path")
			for _, word := range append(strings.FieldsFunc(line, between), unquoted(value)) {
				if word == "" {
					continue
				}
				if below, ok := strings.CutPrefix(word, "~/"); ok {
					word = path.Join(home, below)
				}
				word = strings.TrimPrefix(word, root+"/")
				for _, base := range []string{path.Dir(git), tree, path.Dir(files[i])} {
					p := path.Join(base, word)
					if p == "." || !filepath.IsLocal(p) || n.paths[p] {
						continue
					}
					if includes {
						files = append(files, p)
					}
					// What is in .git is named by itself, and what git writes is no hook.
					in, own := strings.CutPrefix(p, git+"/")
					if includes || !own || path.Base(git) != ".git" && formOf(in) == nil {
						n.paths[p] = true
					}
					if len(n.paths) > maxNames || len(files) > maxIncluded {
						n.More = true
						return n
					}
				}
			}
		}
	}
	return n
}

// isWorktree reports whether the key of a setting is that of the folder in which a submodule's
// hooks run.
func isWorktree(key string) bool { return strings.EqualFold(strings.TrimSpace(key), "worktree") }

// unquoted is a value as git reads it, but for comments: a path may have blanks, and quotes may be
// anywhere in it.
func unquoted(value string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `"`, "").Replace(strings.TrimSpace(value))
}

// between reports whether the character ends a word of a line of settings.
func between(r rune) bool { return strings.ContainsRune(" \t\r\n\"'=;|&()!<>", r) }

// Paths returns the paths that the settings name, in their order.
func (n Names) Paths() []string { return slices.Sorted(maps.Keys(n.paths)) }

// Has reports whether the settings name the path itself.
func (n Names) Has(at string) bool { return n.paths[at] }

// Unsearched reports whether only names decide about a file: package managers put thousands there,
// which are nobody's own, or a list of hashes.
func Unsearched(at string) bool {
	in, name := path.Split(at)
	if slices.Contains(hashLists, name) {
		return true
	}
	return slices.ContainsFunc(strings.Split(in, "/"), func(step string) bool {
		return slices.Contains(packages, step) || slices.Contains(foreign, step)
	})
}

// foreign are further folders of packages, and hashLists are the files in which package managers
// list hashes.
var (
	foreign   = []string{"vendor", "bower_components", "site-packages", "dist-packages"}
	hashLists = []string{
		"go.sum", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "deno.lock", "bun.lock",
		"poetry.lock", "Pipfile.lock", "uv.lock", "Cargo.lock", "composer.lock", "Gemfile.lock", "flake.lock",
	}
)
