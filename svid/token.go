package svid

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// NewToken returns a bootstrap token, with which nodes join, and its hash. A control plane keeps
// only the hash.
func NewToken() (token, hash string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails: crypto/rand
	token = "pjt_" + base64.RawURLEncoding.EncodeToString(b)
	return token, hashToken(token)
}

// hashToken is a plain hash: 256 random bits cannot be guessed from it.
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Tokens are the hashes of the tokens with which a node may join.
type Tokens struct{ hashes [][]byte }

// ParseTokens reads one hash from each line. The text after a # is for people.
func ParseTokens(b []byte) (Tokens, error) {
	var t Tokens
	n := 0
	for line := range bytes.Lines(b) {
		n++
		text, _, _ := bytes.Cut(line, []byte("#"))
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		h := make([]byte, sha256.Size)
		if len(text) != hex.EncodedLen(len(h)) {
			return Tokens{}, fmt.Errorf("line %d is not the hash of a token: make one with `posternd token`", n)
		}
		if _, err := hex.Decode(h, text); err != nil {
			// Not the error: somebody may have put the token itself there.
			return Tokens{}, fmt.Errorf("line %d is not the hash of a token: make one with `posternd token`", n)
		}
		t.hashes = append(t.hashes, h)
	}
	return t, nil
}

// match takes the same time whichever hash it is, and whether it is one.
func (t Tokens) match(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, h := range t.hashes {
		found |= subtle.ConstantTimeCompare(h, sum[:])
	}
	return found == 1
}
