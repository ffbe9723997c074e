package tool

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// What makes git's commands show another state than there is.
const (
	otherHistory = "git shows another history or other contents because of it"
	otherFiles   = "git does not show some files, or what changes in them, because of it"
)

// MayDeceive reports whether [Deceives] has something to say about files of that name.
func MayDeceive(at string) bool { return deceiver(at) != "" }

// deceiver returns what a file in a git folder is, if it may deceive, or "".
func deceiver(at string) string {
	_, in, ok := strings.Cut("/"+strings.ToLower(at), "/.git/")
	name := path.Base(in)
	switch {
	case !ok:
	case strings.Contains("/"+in, "/refs/replace/"):
		return "replace"
	case name == "index", strings.HasPrefix(name, "sharedindex."):
		return "index"
	case name == "packed-refs", name == "shallow":
		return name
	case strings.HasSuffix("/"+in, "/info/grafts"), strings.HasSuffix("/"+in, "/info/exclude"),
		strings.HasSuffix("/"+in, "/info/sparse-checkout"):
		return name
	}
	return ""
}

// Deceives says how git's commands deceive whoever reviews a repository, because of the file at the
// path there, or "". The state is what tells that from another deception. An agent may have written
// the content. What git cannot read either deceives nobody.
func Deceives(at string, content io.Reader) (who, state string) {
	sum := sha256.New()
	switch deceiver(at) {
	case "index":
		whole, err := io.ReadAll(content)
		if err != nil {
			return "", ""
		}
		if !bytes.HasPrefix(whole, []byte(indexMagic)) {
			return "", "" // git does not read it either
		}
		for _, id := range []int{20, 32} { // SHA-1, SHA-256
			n, err := flagged(whole, id, sum)
			if err == nil && n > 0 {
				return otherFiles, fmt.Sprintf("%x", sum.Sum(nil))
			}
			if err == nil {
				return "", ""
			}
			sum.Reset()
		}
		// Git may read what we cannot, or what was not read.
		return otherFiles, fmt.Sprintf("%x", sha256.Sum256(whole))
	case "packed-refs":
		return effective(content, otherHistory, func(line string) bool {
			return strings.Contains(line, "refs/replace/")
		})
	case "exclude", "sparse-checkout":
		return effective(content, otherFiles, func(line string) bool { return !strings.HasPrefix(line, "#") })
	case "replace", "grafts", "shallow":
		return effective(content, otherHistory, func(string) bool { return true })
	}
	return "", ""
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
			break
		}
	}
	if !any {
		return "", ""
	}
	return who, fmt.Sprintf("%x", sum.Sum(nil))
}

// indexMagic begins an index of git.
const indexMagic = "DIRC"

var errNoIndex = errors.New("no index of git")

// Flags of an entry of git's index: see gitformat-index(5).
const (
	assumeValid  = 0x8000
	extended     = 0x4000
	nameLength   = 0x0fff
	skipWorktree = 0x4000 // of the second flags
	// longestName bounds the name of an entry.
	longestName = 4096
)

// untracked begins the part of an index in which git keeps which folders have no new files.
const untracked = "UNTR"

// flagged counts the entries of an index of which git does not look at the file, and writes their
// names. It counts and writes the part of untracked, too. Each object's name has id bytes.
func flagged(index []byte, id int, names io.Writer) (n int, err error) {
	const header, stat = 12, 40
	if len(index) < header || !bytes.HasPrefix(index, []byte(indexMagic)) {
		return 0, errNoIndex
	}
	version, entries := binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:])
	if version < 2 || version > 4 {
		return 0, errNoIndex
	}
	rest := index[header:]
	var name []byte
	for range entries {
		if len(rest) < stat+id+4 {
			return 0, errNoIndex
		}
		begin := len(rest)
		if mode := binary.BigEndian.Uint32(rest[24:]) >> 12; mode != 4 && mode != 8 && mode != 10 && mode != 14 {
			return 0, errNoIndex
		}
		flags := binary.BigEndian.Uint16(rest[stat+id:])
		rest = rest[stat+id+2:]
		var more uint16
		if flags&extended != 0 {
			more = binary.BigEndian.Uint16(rest)
			rest = rest[2:]
		}
		strip := len(name)
		if version == 4 {
			if strip, rest, err = varint(rest); err != nil || strip > len(name) {
				return 0, errNoIndex
			}
		}
		end := bytes.IndexByte(rest, 0)
		if end < 0 || len(name)-strip+end > longestName {
			return 0, errNoIndex
		}
		name = append(name[:len(name)-strip], rest[:end]...)
		rest = rest[end+1:]
		if length := int(flags & nameLength); length != nameLength && length != len(name) {
			return 0, errNoIndex
		}
		if version < 4 {
			padding := (8 - (begin-len(rest))%8) % 8
			if len(rest) < padding {
				return 0, errNoIndex
			}
			rest = rest[padding:]
		}
		if flags&assumeValid != 0 || more&skipWorktree != 0 {
			n++
			fmt.Fprintf(names, "%q\n", name)
		}
	}
	const head = 8 // of a part: its name and its size
	for len(rest) > id+head {
		size := binary.BigEndian.Uint32(rest[4:])
		if uint64(size) > uint64(len(rest)-id-head) {
			return 0, errNoIndex
		}
		if bytes.HasPrefix(rest, []byte(untracked)) {
			n++
			fmt.Fprintf(names, "%q\n", rest[:head+size])
		}
		rest = rest[head+size:]
	}
	return n, nil
}

// varint reads a number of git's, at most four bytes long.
func varint(b []byte) (int, []byte, error) {
	n := 0
	for i := 0; i < min(len(b), 4); i++ {
		n = n<<7 | int(b[i]&0x7f)
		if b[i]&0x80 == 0 {
			return n, b[i+1:], nil
		}
		n++
	}
	return 0, nil, errNoIndex
}
