package tool

import (
	"bufio"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/postern/postern/visible"
)

// What git, or a prompt that asks it, does with a file in git's folder that has no form of [forms].
const (
	acted   = "git, or a shell's prompt, acts on it"
	outside = "git reads or writes files elsewhere because of it"
	follows = "git writes where this link leads"
)

// form is a kind of files that git itself writes into its folder, and by which it runs nothing.
type form struct {
	at *regexp.Regexp
	// content reports whether the content is what git writes there. Without it, git only shows the
	// content, computes its name, or [Deceives] reads it.
	content func(io.Reader) bool
}

// forms are all that a normal command of git leaves in its folder. Whatever else is there is
// named: what an unknown file has git do, nobody has looked at.
var forms = func() (all []form) {
	const hex = `([0-9a-f]{40}|[0-9a-f]{64})`
	for _, f := range []struct {
		at      string
		content func(io.Reader) bool
	}{
		{`objects/[0-9a-f]{2}/([0-9a-f]{38}|[0-9a-f]{62}|tmp_obj_\w+)`, nil},
		{`objects/pack/(pack-` + hex + `\.(pack|idx|rev|bitmap|mtimes|keep|promisor)|tmp_\w+)`, nil},
		{`objects/pack/multi-pack-index(-` + hex + `\.(bitmap|rev))?`, nil},
		{`objects/info/(packs|commit-graph|commit-graphs/(commit-graph-chain|graph-` + hex + `\.graph))`, nil},
		{`lfs/objects/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}`, nil},
		{`index|sharedindex\.` + hex + `|packed-refs|shallow|info/(grafts|exclude|sparse-checkout)`, nil},
		{`(COMMIT_EDIT|MERGE_|SQUASH_|TAG_EDIT)MSG|MERGE_MODE|(EDIT_)?DESCRIPTION|description|gitk\.cache`, nil},
		{`HEAD|refs/.+`, isRef},
		// Git goes on from MERGE_HEAD, MERGE_AUTOSTASH and others at the next commit.
		// The agent opencode names the project there, by its first commit.
		{`(ORIG|REBASE)_HEAD|AUTO_MERGE|opencode`, eachLine(isID)},
		{`FETCH_HEAD`, eachLine(regexp.MustCompile(`^` + hex + "\t(not-for-merge)?\t[^\t]+$").MatchString)},
		{`info/refs`, eachLine(func(line string) bool {
			id, ref, _ := strings.Cut(line, "\t")
			return isID(id) && isRefName(strings.TrimSuffix(ref, "^{}"))
		})},
		{`logs/(HEAD|refs/.+)|gc\.(log|pid)|worktrees/[^/]+/locked`, eachLine(func(string) bool { return true })},
	} {
		all = append(all, form{regexp.MustCompile(`^(?:` + f.at + `)$`), f.content})
	}
	return all
}()

// formOf returns the form of the file at the path in git's folder, or nil. Case counts: by another
// name it is another file, or nobody's.
func formOf(in string) *form {
	if name, refs := strings.CutPrefix(in, "logs/"); strings.HasPrefix(in, "refs/") || refs && name != "HEAD" {
		if !isRefName(name) {
			return nil
		}
	}
	for i := range forms {
		if forms[i].at.MatchString(in) {
			return &forms[i]
		}
	}
	// What git has of a linked worktree, and of a submodule, whose name may have slashes, is as its
	// own.
	top, rest, _ := strings.Cut(in, "/")
	if top != "modules" && top != "worktrees" || strings.Contains(strings.ToLower("/"+in), "/.git/") {
		return nil
	}
	for {
		var more bool
		if _, rest, more = strings.Cut(rest, "/"); !more {
			return nil
		}
		if f := formOf(rest); f != nil || top == "worktrees" {
			return f
		}
	}
}

// HasForm reports whether git's usual commands leave a file at the path in git's folder.
func HasForm(in string) bool { return formOf(in) != nil }

// inGit returns where in git's folder the path is, or "".
func inGit(at string) string {
	i := strings.Index(strings.ToLower("/"+at), "/.git/")
	if i < 0 {
		return ""
	}
	return at[min(i+len(".git/"), len(at)):]
}

// unknown says who may act on the file in git's folder of the type, or "": its content may have
// more to say.
func unknown(in string, kind fs.FileMode) string {
	switch {
	case kind&fs.ModeSymlink != 0:
		return follows
	case kind.Type() != 0 || formOf(in) == nil:
		return acted
	}
	return ""
}

// Why a file of git's folder is not applied.
const (
	staysIndex = "git takes its word for what is in the files: `git reset` makes yours from the last commit"
	staysState = "git, or a prompt, goes on from there: make it yourself if you want it"
)

// unended is a state in which git runs the rest of what was asked of it.
var unended = regexp.MustCompile(`(?i)(^|/)(sequencer|rebase-merge|rebase-apply)/`)

// Stays says why the file of the type at the path in git's folder, on which who acts, is not
// applied, or "". What git's settings and hooks are is applied, if somebody wants it.
func Stays(at, who string, kind fs.FileMode) string {
	in := inGit(at)
	switch {
	case in == "" || kind.IsDir():
		return ""
	case IsIndex(at):
		return staysIndex
	case strings.Contains(strings.ToLower(in+"/"), "/.git/"), // a repository in git's folder
		formOf(in) == nil && (who == "" || unended.MatchString(in)),
		who == acted, who == outside, who == follows:
		return staysState
	}
	return ""
}

// eachLine returns whether each line of a file is as line says, and none acts on a terminal: git
// and prompts print them as they are.
func eachLine(is func(line string) bool) func(io.Reader) bool {
	return func(content io.Reader) bool {
		lines := bufio.NewReader(content)
		for {
			line, err := lines.ReadString('\n')
			line = strings.TrimSuffix(line, "\n")
			if hides(line) || (err == nil || line != "") && !is(line) {
				return false
			}
			if err != nil {
				return err == io.EOF
			}
		}
	}
}

// hides reports whether a terminal acts on something in the line, or nobody sees it. What joins or
// chooses signs of other scripts, after one of them, is no more than a part of that.
func hides(line string) bool {
	var last rune
	for _, r := range line {
		joins := last > unicode.MaxLatin1 && (r == '\u200c' || r == '\u200d' || r == '\ufe0f')
		if visible.Hides(r) && r != '\t' && !joins {
			return true
		}
		last = r
	}
	return false
}

// isRef reports whether git writes the content into a reference.
func isRef(content io.Reader) bool {
	const longest = 4096
	text, err := io.ReadAll(io.LimitReader(content, longest+1))
	line := strings.TrimSuffix(string(text), "\n")
	ref, symbolic := strings.CutPrefix(line, "ref: ")
	return err == nil && len(text) <= longest && (isID(line) || symbolic && isRefName(ref))
}

var id = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func isID(text string) bool { return id.MatchString(text) }

// isRefName reports whether the text is the whole name of a reference, as git allows it, and a
// shell reads it as one word: prompts and scripts have it evaluated.
func isRefName(text string) bool {
	steps := strings.Split(text, "/")
	return len(steps) > 1 && steps[0] == "refs" && !slices.ContainsFunc(steps, func(step string) bool {
		return step == "" || strings.HasPrefix(step, ".") || strings.HasPrefix(step, "-") ||
			strings.HasSuffix(step, ".") || strings.HasSuffix(step, ".lock") || strings.Contains(step, "..") ||
			strings.ContainsFunc(step, func(r rune) bool {
				return visible.Hides(r) || !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Digit) &&
					!strings.ContainsRune("._-+@#=,%", r)
			})
	})
}
