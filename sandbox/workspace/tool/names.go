package tool

import (
	"iter"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/hostpath/places"
)

// Bounds of what is read of a repository's settings: an agent may have written them.
const (
	maxIncluded  = 20
	maxNames     = 10_000
	maxWorktrees = 5
)

// Repository is where git finds the settings of a repository, and what these name. The paths are
// absolute, and not clean: a name of them may be a link.
type Repository struct {
	// Top is the folder in which git runs commands.
	Top string
	// Settings are its files of settings.
	Settings []string
}

// Named calls each with the paths that the settings name, such as that of hooks, of a file that
// they include, with what that names, or of a filter's program. A path stands for all that is below
// it, and need not exist. read returns the content of a file, or what can be had of it. Named
// returns false if there are more paths than are looked at: an agent may have written the settings.
func (r Repository) Named(home string, read func(at string) string, each func(at string, included bool)) bool {
	seen := map[string]bool{}
	files := slices.Clone(r.Settings)
	tops := []string{r.Top}
	for _, file := range files {
		for _, line := range lines(read(file)) {
			if key, value, _ := strings.Cut(line, "="); isWorktree(key) {
				to, _ := places.GitValue(value)
				if top := from(above(file), to); slices.Contains(tops, top) {
					continue
				} else if tops = append(tops, top); len(tops) > maxWorktrees {
					return false
				}
			}
		}
	}
	for i := 0; i < len(files); i++ {
		for section, line := range lines(read(files[i])) {
			key, value, _ := strings.Cut(line, "=")
			if isWorktree(key) {
				continue // what is in there is not git's
			}
			includes := strings.HasPrefix(section, "include") && strings.EqualFold(strings.TrimSpace(key), "path")
			whole, _ := places.GitValue(value)
			for _, word := range append(strings.FieldsFunc(line, between), whole) {
				if below, ok := strings.CutPrefix(word, "~/"); ok {
					word = home + "/" + below
				}
				if word == "" {
					continue
				}
				for _, in := range append(tops, above(files[i])) {
					at := from(in, word)
					if includes && word == whole && in == above(files[i]) && !slices.Contains(files, at) {
						files = append(files, at)
					} else if seen[at] {
						continue
					}
					seen[at] = true
					if each(at, includes); len(seen) > len(tops)*2*maxNames || len(files) > len(tops)*2*maxIncluded {
						return false
					}
				}
			}
		}
	}
	return true
}

// isWorktree reports whether the key of a setting is that of the folder in which a submodule's
// hooks run.
func isWorktree(key string) bool { return strings.EqualFold(strings.TrimSpace(key), "worktree") }

// from returns the path, which may be relative to the folder in. It is not clean.
func from(in, to string) string {
	if path.IsAbs(to) {
		return to
	}
	return in + "/" + to
}

// above returns the folder of an absolute path that is not clean.
func above(at string) string { return at[:strings.LastIndex(at, "/")] }

// header matches the name of a section and of a subsection, which may have any character.
var header = regexp.MustCompile(`^\[[^\]"]*("(\\.|[^"\\])*"[^\]"]*)?\]`)

// lines are those of a file of settings, and those of which a backslash makes one. Each comes with
// the section that it is in, in lower case, and without the name of that.
func lines(text string) iter.Seq2[string, string] {
	text = places.WithoutMark(text)
	return func(yield func(section, line string) bool) {
		section := ""
		for line := range strings.Lines(text + "\n" + strings.ReplaceAll(text, "\\\n", "")) {
			line = strings.TrimSpace(line)
			if head := header.FindString(line); head != "" {
				section, line = strings.ToLower(strings.TrimLeft(head, "[ \t")), line[len(head):]
			}
			if !yield(section, strings.TrimSpace(line)) {
				return
			}
		}
	}
}

// between reports whether the character ends a word of a line of settings.
func between(r rune) bool { return strings.ContainsRune(" \t\r\n\"'=;|&()!<>", r) }

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
