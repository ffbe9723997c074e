// Package link has the lines of the chain of an audit log, and the keys that sign them.
package link

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/postern/postern/atomicfile"
)

// Kinds of links.
const (
	// Closed: the segment is closed.
	Closed = "closed"
	// Digest: the segment is replaced by its digest.
	Digest = "digest"
	// Removed: every segment before First is removed, because the log has its greatest size.
	Removed = "removed"
	// Open is a checkpoint: what the segment that is written to contains so far. The next link
	// takes its place in the chain.
	Open = "open"
)

// Link is one line of a chain.
type Link struct {
	// N counts the links of a chain from 1.
	N    uint64    `json:"n"`
	Kind string    `json:"kind"`
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	// First and Last are the numbers of the segment's first event, by which the segment is named,
	// and its last.
	First uint64 `json:"first"`
	Last  uint64 `json:"last,omitempty"`
	// Bytes and SHA256 are the segment's size and digest (FIPS 180-4, in hex).
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"`
	// Previous is the digest of the link before, empty for the first.
	Previous string `json:"previous,omitempty"`
	// Key is the public key, and Signature an Ed25519 signature (RFC 8032) over the other fields,
	// both in base64.
	Key       string `json:"key"`
	Signature string `json:"signature,omitempty"`
}

// message is what is signed: the link as JSON without its signature, after a prefix by which no
// other signature is one of a link.
func (l Link) message() []byte {
	l.Signature = ""
	b, _ := json.Marshal(l) // such a struct cannot fail
	return append([]byte("postern audit link\n"), b...)
}

// Digest identifies the link, and so all links before it.
func (l Link) Digest() string {
	sum := sha256.Sum256(l.message())
	return hex.EncodeToString(sum[:])
}

// Line is the link as it is in the file.
func (l Link) Line() []byte {
	b, _ := json.Marshal(l)
	return append(b, '\n')
}

// ErrLine says that a line is not a link.
var ErrLine = errors.New("this line is not a link: it was changed, or is torn")

// Parse reads a line, without its end. Only the bytes that were written are a link: not another
// JSON of the same meaning.
func Parse(b []byte) (Link, error) {
	var l Link
	if json.Unmarshal(b, &l) != nil || !bytes.Equal(append(b[:len(b):len(b)], '\n'), l.Line()) {
		return Link{}, ErrLine
	}
	key, err := base64.StdEncoding.DecodeString(l.Key)
	signature, failed := base64.StdEncoding.DecodeString(l.Signature)
	if err != nil || failed != nil || len(key) != ed25519.PublicKeySize {
		return Link{}, ErrLine
	}
	if !ed25519.Verify(key, l.message(), signature) {
		return Link{}, errors.New("the signature of this link is wrong: it was changed")
	}
	return l, nil
}

// Fingerprint names a public key, which is in base64.
func Fingerprint(key string) string {
	b, _ := base64.StdEncoding.DecodeString(key)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Sign signs the link.
func (l *Link) Sign(key ed25519.PrivateKey) {
	l.Key = base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	l.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, l.message()))
}

// Key reads the key with which a node signs its log from the file at path, or makes one there.
func Key(path string) (ed25519.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key that signs the audit log: %w", err)
	}
	// The file's content is not repeated in an error.
	if block, _ := pem.Decode(content); block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("read the key that signs the audit log: %s is not an Ed25519 key in PEM: move it away, "+
		"and a new key is made; `postern audit verify` then says so", path)
}

func makeKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key that signs the audit log: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("make the key that signs the audit log: %w", err)
	}
	return key, nil
}
