package tool

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // git's names
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

// What makes git's commands show another state than there is.
const (
	otherHistory = "git shows another history or other contents because of it"
	otherFiles   = "git does not show some files, or what changes in them, because of it"
)

// TooLarge says what a file does that git reads into memory, and that is larger than [MaxWhole].
const TooLarge = "git reads all of it, and it is larger than 1 MiB"

// MaxWhole is the size, in bytes, of the largest such file that nobody is told of.
const MaxWhole = 1 << 20

// IsReadWhole reports whether git, or its commit, reads all of the file at the path, on which
// nobody else acts.
func IsReadWhole(at string) bool {
	name, in := strings.ToLower(path.Base(at)), inGit(at)
	return in == "" && (name == ".gitignore" || name == ".mailmap") || strings.HasSuffix(in, "_MSG") ||
		strings.HasSuffix(in, "_EDITMSG")
}

// MayDeceive reports whether [Deceives] has something to say about files of that name.
func MayDeceive(at string) bool { return deceiver(at) != "" || checked(at) != nil }

// deceiver returns what a file in a git folder is, if it may deceive, or "".
func deceiver(at string) string {
	in := "/" + strings.ToLower(inGit(at))
	name := path.Base(in)
	switch {
	case strings.Contains(in, "/refs/replace/"):
		return "replace"
	case name == "index", strings.HasPrefix(name, "sharedindex."):
		return "index"
	case name == "packed-refs", name == "shallow":
		return name
	case strings.HasSuffix(in, "/info/grafts"), strings.HasSuffix(in, "/info/exclude"),
		strings.HasSuffix(in, "/info/sparse-checkout"):
		return name
	}
	return ""
}

// checked returns what says of the content of the file whether git writes that there, or nil.
func checked(at string) func(io.Reader) bool {
	if f := formOf(inGit(at)); f != nil {
		return f.content
	}
	return nil
}

// IsIndex reports whether the file in a git folder is an index.
func IsIndex(at string) bool { return deceiver(at) == "index" }

// Bounds of what is read of a file in git's folder, and of settings, in bytes.
const maxContent, maxConfig = 64 << 20, 1 << 20

// over is what a file has beyond the bound of what is read of it.
type over struct{ io.Reader }

func (o over) Read([]byte) (int, error) {
	n, err := o.Reader.Read(make([]byte, 1))
	if n > 0 {
		err = errors.New("it is larger than what is read of it")
	}
	return 0, err
}

// IDSize returns how many bytes the names of objects have in the repository with the index at the
// path: its settings say so, which an agent cannot write unnoticed. open opens those at a path, or
// returns nil.
func IDSize(index string, open func(at string) io.ReadCloser) int {
	git := path.Dir(index)
	if in := path.Dir(git); path.Base(in) == "worktrees" {
		git = path.Dir(in)
	}
	f := open(path.Join(git, "config"))
	if f == nil {
		return sha1.Size
	}
	defer f.Close()
	content, _ := io.ReadAll(io.LimitReader(f, maxConfig)) // what is not read says nothing
	if ofSHA256.Match(content) {
		return sha256.Size
	}
	return sha1.Size
}

// ofSHA256 matches the setting of a repository with such names.
var ofSHA256 = regexp.MustCompile(`(?i)objectformat\s*=\s*"?sha256`)

// Deceives says how git's commands deceive whoever reviews a repository, or what else they do,
// because of the content of the file at the path there, or "". The state is what tells that from
// another content. An agent may have written it. What git cannot read either deceives nobody. Each
// object's name in an index has idSize bytes.
func Deceives(at string, idSize int, file io.Reader) (who, state string) {
	content := io.MultiReader(io.LimitReader(file, maxContent), over{file})
	switch deceiver(at) {
	case "index":
		return ofIndex(content, idSize)
	case "packed-refs":
		return effective(content, otherHistory, func(line string) bool {
			_, ref, _ := strings.Cut(line, " ")
			return strings.Contains(line, "refs/replace/") || !strings.ContainsAny(line[:1], "#^") && !isRefName(ref)
		})
	case "exclude", "sparse-checkout":
		return effective(content, otherFiles, func(line string) bool { return !strings.HasPrefix(line, "#") })
	case "replace", "grafts", "shallow":
		return effective(content, otherHistory, func(string) bool { return true })
	}
	check, sum := checked(at), sha256.New()
	if whole := io.TeeReader(content, sum); check == nil || check(whole) {
		return "", ""
	} else if _, err := io.Copy(io.Discard, whole); err != nil {
		return acted, err.Error()
	}
	return acted, fmt.Sprintf("%x", sum.Sum(nil))
}

func ofIndex(content io.Reader, idSize int) (who, state string) {
	start := bufio.NewReader(content)
	if magic, _ := start.Peek(len(indexMagic)); string(magic) != indexMagic {
		return "", "" // git does not read it either
	}
	whole, err := io.ReadAll(start)
	x, wrong := readIndex(whole, idSize)
	sum := sha256.New()
	switch {
	case err != nil, wrong != nil: // git may read what we cannot, or what was not read
		who = otherFiles
		sum.Write(whole)
	case x.hidden.any:
		who = otherFiles
	}
	if x.outside.any {
		who = outside
	}
	if who == "" {
		return "", ""
	}
	return who, fmt.Sprintf("%x", x.hidden.Sum(x.outside.Sum(sum.Sum(nil))))
}

// effective returns who, and the sum of the lines that have an effect, if there are any.
func effective(content io.Reader, who string, has func(line string) bool) (string, string) {
	sum, any := sha256.New(), false
	lines := bufio.NewReader(content)
	for {
		line, err := lines.ReadString('\n')
		if text := strings.TrimSpace(line); text != "" && has(text) {
			any = true
			fmt.Fprintln(sum, text)
		}
		if err != nil {
			any = any || err != io.EOF // what was not read may have one
			break
		}
	}
	if !any {
		return "", ""
	}
	return who, fmt.Sprintf("%x", sum.Sum(nil))
}
