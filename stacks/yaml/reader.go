package yaml

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/hostpath"
)

// Reader reads the values of one file. Its methods record problems and carry on.
type Reader struct {
	*Problems
	// Dir is the absolute folder of the file, from which its paths are.
	Dir string
}

// Mapping reports whether n is a mapping, all of whose keys are among those
// given. Without keys every key is welcome.
func (r *Reader) Mapping(n *Node, what string, keys ...string) bool {
	if n.Kind != KindMap {
		r.At(n, "write key: value pairs, or {} for none", "%s is %s, not a mapping", what, n.Describe())
		return false
	}
	for _, f := range n.Fields {
		if len(keys) > 0 && !slices.Contains(keys, f.Key.Text) {
			r.At(f.Key, Nearest(f.Key.Text, keys), "unknown key %q in %s", f.Key.Text, what)
		}
	}
	return true
}

// Useless refuses the keys that mean nothing here.
func (r *Reader) Useless(n *Node, what string, keys ...string) {
	for _, f := range n.Fields {
		if slices.Contains(keys, f.Key.Text) {
			r.At(f.Key, "remove it", "%s has no %s", what, f.Key.Text)
		}
	}
}

// Text returns the text of a scalar. It never quotes the value of another type.
func (r *Reader) Text(n *Node, what string) (string, bool) {
	if n.Kind != KindText {
		hint := "write text"
		if n.Kind == KindInteger || n.Kind == KindOther {
			hint = "write it in quotes"
		}
		r.At(n, hint, "%s is %s, not text", what, n.Kind)
		return "", false
	}
	if n.Text == "" {
		r.At(n, "write it, or remove the key", "%s is empty", what)
		return "", false
	}
	return n.Text, true
}

// Texts returns the items of a list that has some, without duplicates.
func (r *Reader) Texts(n *Node, what, empty string, each func(item *Node, text string)) {
	if n.Kind != KindList {
		r.At(n, "write a list, such as [a, b]", "%s is %s, not a list", what, n.Describe())
		return
	}
	if len(n.Items) == 0 {
		r.At(n, empty, "%s is an empty list", what)
		return
	}
	seen := map[string]bool{}
	for _, item := range n.Items {
		t, ok := r.Text(item, "an item of "+what)
		if !ok {
			continue
		}
		if seen[t] {
			r.At(item, "remove one of them", "%q is in %s already", t, what)
			continue
		}
		seen[t] = true
		each(item, t)
	}
}

// Integer returns a whole number between low and high, or 0.
func (r *Reader) Integer(n *Node, what string, low, high int) int {
	v, _ := strconv.Atoi(n.Text) // what cannot be read is not written out the same again
	if n.Kind != KindInteger || v < low || v > high || strconv.Itoa(v) != n.Text {
		r.At(n, fmt.Sprintf("write a number from %d to %d", low, high), "%s is not a valid number", what)
		return 0
	}
	return v
}

// Boolean reads true or false, and records anything else.
func (r *Reader) Boolean(n *Node, what string) bool {
	if n.Kind != KindOther || n.Text != "true" && n.Text != "false" {
		r.At(n, "write true or false", "%s is %s", what, n.Describe())
	}
	return n.Text == "true"
}

// OneOf reads one of several words; the first one if it is none.
func (r *Reader) OneOf(n *Node, what string, words ...string) string {
	t, ok := r.Text(n, what)
	if !ok {
		return words[0]
	}
	if !slices.Contains(words, t) {
		r.At(n, Nearest(t, words), "%s %q is not known", what, t)
		return words[0]
	}
	return t
}

// Required reads a text that must be there and valid, or "".
func (r *Reader) Required(n *Node, what, key, hint string, valid func(string) bool) string {
	m := n.Get(key)
	if m == nil {
		r.At(n, hint, "%s has no %s", what, key)
		return ""
	}
	if m.Kind == KindInteger && key == "account" {
		r.At(m, "write it in quotes: it may begin with 0", "account is an integer, not text")
		return ""
	}
	t, ok := r.Text(m, key)
	if !ok {
		return ""
	}
	if !valid(t) {
		r.At(m, hint, "%s is not valid", key)
		return ""
	}
	return t
}

var (
	sizePattern = regexp.MustCompile(`^([1-9][0-9]{0,11})(B|KiB|MiB|GiB)$`)
	units       = map[string]uint64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
)

// Size reads a number of bytes, per the unit in the suffix.
func (r *Reader) Size(n *Node, what, suffix string) uint64 {
	text, per := strings.CutSuffix(n.Text, suffix)
	m := sizePattern.FindStringSubmatch(text)
	if n.Kind != KindText || !per || m == nil {
		r.At(n, "write a number of B, KiB, MiB or GiB, such as 10MiB"+suffix, "%s is not a valid number of bytes%s", what, suffix)
		return 0
	}
	count, _ := strconv.ParseUint(m[1], 10, 64) // twelve digits
	if count > math.MaxInt64/units[m[2]] {
		r.At(n, "write less", "%s is more than can be counted", what)
		return 0
	}
	if suffix != "" && count*units[m[2]] < 1<<10 {
		r.At(n, "write at least 1KiB/s", "%s is less than the proxies can count", what)
	}
	return count * units[m[2]]
}

// SizeText is the shortest way to write a number of bytes.
func SizeText(n uint64) string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if n%units[unit] == 0 {
			return strconv.FormatUint(n/units[unit], 10) + unit
		}
	}
	return strconv.FormatUint(n, 10) + "B"
}

// Resolve returns the absolute form of a path that is relative to the stack file.
func (r *Reader) Resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(r.Dir, path)
}

// maxCA bounds what goes into a plan.
const maxCA = 256 << 10

// Certificates returns the PEM file at path, which must have certificates and
// nothing else: a key in it would go into the plan.
func (r *Reader) Certificates(n *Node, path string) string {
	data, err := hostpath.ReadFile(path, maxCA)
	if errors.Is(err, fs.ErrNotExist) {
		r.At(n, "create it, or for the demo run `bin/postern demo --prepare`", "%s does not exist", path)
		return ""
	}
	if err != nil {
		r.Unreadable(n, "name a PEM file with only the authorities of this destination", path, err)
		return ""
	}
	var out []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			r.At(n, "name a file that has only certificates", "%s has a block of type %s", path, block.Type)
			return ""
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			r.At(n, "", "%s has a certificate that cannot be parsed", path)
			return ""
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(out) == 0 {
		r.At(n, "name a PEM file", "%s has no certificate", path)
	}
	return string(out)
}

// Unreadable records that the file at path, which n names, was not read.
func (r *Reader) Unreadable(n *Node, hint, path string, err error) {
	if unfit := (*hostpath.UnfitError)(nil); errors.As(err, &unfit) {
		r.At(n, hint, "%s", unfit)
		return
	}
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	r.At(n, hint, "%s cannot be read: %s", path, err)
}
