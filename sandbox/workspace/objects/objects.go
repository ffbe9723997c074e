// Package objects knows by their names the files in which git keeps objects, and whether an object
// has the content that its name says. Git computes names when it takes objects from elsewhere, and
// believes what is in its own folder.
package objects

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's names
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is what git has in a file, or would have.
type Kind int

// The kinds of files. In any folder called objects a file of such a name counts, whether git uses
// that folder now or not: a file next to it is enough for git to use it.
const (
	// None is nothing of git's objects.
	None Kind = iota
	// Folder is the folder of all objects, or one in there. Other programs have folders of such
	// names.
	Folder
	// Loose is one object.
	Loose
	// Pack has many objects, and Index says where in the pack with the same name they are.
	Pack
	Index
	// Alternates names other folders with objects.
	Alternates
	// Large is what Git LFS has in the place of an object, by the SHA-256 of its content.
	Large
	// Derived is what git makes from objects, and believes.
	Derived
	// Common leads a worktree's folder to the repository that it is in, if it has what git writes.
	Common
)

// File is a file of git's.
type File struct {
	Kind Kind
	// Repository is the path of git's folder, and Name is what an object's content must have.
	Repository, Name string
}

// Of returns what git has at the path. Case does not count: on some file systems it does not count
// for git either.
func Of(at string) File {
	steps := strings.Split(at, "/")
	lower := strings.Split(strings.ToLower(at), "/")
	if last := len(lower) - 1; lower[last] == "commondir" {
		kind := Alternates
		if last >= 2 && lower[last-2] == "worktrees" {
			kind = Common
		}
		return File{Kind: kind, Repository: path.Dir(at)}
	}
	for n := range min(4, len(steps)) {
		i := len(steps) - 1 - n
		if lower[i] != "objects" {
			continue
		}
		if kind, name := below(lower[i+1:]); kind != None {
			return File{Kind: kind, Repository: path.Join(append([]string{"."}, steps[:i]...)...), Name: name}
		}
	}
	return File{}
}

// below returns what git has at the path below its folder of objects.
func below(at []string) (Kind, string) {
	var dir, name string
	if len(at) > 1 {
		dir, name = at[0], at[1]
	}
	switch ext := path.Ext(name); {
	case len(at) == 0, len(at) == 1 && (isHex(at[0], 2) || at[0] == "pack" || at[0] == "info"):
		return Folder, ""
	case len(at) == 1 && at[0] == "loose-object-idx":
		return Derived, ""
	case len(at) == 2 && isHex(dir, 2) && (isHex(name, 2*sha1.Size-2) || isHex(name, 2*sha256.Size-2)):
		return Loose, dir + name
	case len(at) == 3 && isHex(dir, 2) && isHex(name, 2) && isHex(at[2], 2*sha256.Size):
		return Large, at[2]
	case len(at) == 2 && dir == "info" && (name == "alternates" || name == "http-alternates"):
		return Alternates, ""
	case dir == "info" && (name == "commit-graph" || name == "commit-graphs"),
		dir == "pack" && strings.HasPrefix(name, "multi-pack-index"),
		len(at) == 2 && dir == "pack" && slices.Contains(derived, ext):
		return Derived, ""
	case len(at) == 2 && dir == "pack" && ext == ".pack":
		return Pack, ""
	case len(at) == 2 && dir == "pack" && ext == ".idx":
		return Index, ""
	}
	return None, ""
}

// derived are what files next to a pack end with: git makes some itself, and others have it keep a
// pack, or believe that a server has what is not there.
var derived = []string{".rev", ".bitmap", ".mtimes", ".keep", ".promisor"}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// ErrForged means that an object has not the content that its name says: somebody wrote other
// content under the name, or the file is damaged.
var ErrForged = errors.New("it has not the content that its name says")

// ErrLarge means that an object is larger than the limit.
var ErrLarge = errors.New("the object is larger than the limit")

// maxHeader is the longest start of an object, "commit" and a size, in bytes.
const maxHeader = 32

// Check reads an object as git writes it to a file, and compares its name. It keeps no more than
// some KiB, and reads at most limit bytes of content. It returns how many it has read.
func Check(file io.Reader, name string, limit int64) (read int64, err error) {
	sum := hash.Hash(sha1.New()) //nolint:gosec // git's names
	if len(name) == 2*sha256.Size {
		sum = sha256.New()
	}
	packed := bufio.NewReader(file) // a bufio.Reader is not read beyond the end of the stream
	stream, err := zlib.NewReader(packed)
	if err != nil {
		return 0, forged(err)
	}
	content := bufio.NewReaderSize(stream, maxHeader)
	header, err := content.Peek(maxHeader)
	start, _, ok := bytes.Cut(header, []byte{0})
	if !ok || err != nil && !errors.Is(err, io.EOF) {
		return 0, forged(err)
	}
	kind, digits, _ := strings.Cut(string(start), " ")
	size, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil, strconv.FormatInt(size, 10) != digits, size < 0,
		!slices.Contains([]string{"blob", "commit", "tag", "tree"}, kind):
		return 0, forged(err)
	case size > limit:
		return 0, ErrLarge
	}
	whole := int64(len(start)) + 1 + size
	read, err = io.Copy(sum, io.LimitReader(content, whole))
	if err == nil && read == whole {
		// The end says whether the stream is whole.
		if _, err = content.ReadByte(); errors.Is(err, io.EOF) {
			if _, err = packed.ReadByte(); errors.Is(err, io.EOF) && hex.EncodeToString(sum.Sum(nil)) == name {
				return read, nil
			}
		}
	}
	return read, forged(err)
}

// CheckLarge is [Check] for [Large].
func CheckLarge(file io.Reader, name string, limit int64) (read int64, err error) {
	sum := sha256.New()
	read, err = io.Copy(sum, io.LimitReader(file, limit+1))
	switch {
	case err != nil:
		return read, err
	case read > limit:
		return read, ErrLarge
	case hex.EncodeToString(sum.Sum(nil)) != name:
		return read, ErrForged
	}
	return read, nil
}

func forged(why error) error {
	if why == nil || errors.Is(why, io.EOF) {
		return ErrForged
	}
	return fmt.Errorf("%w: %w", ErrForged, why)
}
