package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/pki"
)

// The kinds of signed objects. The kind is part of what is signed, so that no object can stand for
// another.
const (
	kindBundle = "bundle/1"
	kindProven = "proven/1"
	kindTry    = "try/1"
	kindReport = "report/1"
	kindProof  = "proof/1"
)

// header is the first line of a signed object; the payload follows, byte for
// byte as it was hashed and signed (RFC 8032, Ed25519).
type header struct {
	Kind  string `json:"postern"`
	Stack string `json:"stack"`
	Seq   uint64 `json:"seq"`
	// Key is the fingerprint of the public key: a hint, nothing is decided by it.
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
	// Certificate, in DER, is the certificate of a report's key.
	Certificate []byte `json:"certificate,omitempty"`
}

// message returns the signed bytes. No part of them can be swapped for another object's. A stack's
// name has no newline.
func (h header) message(payload []byte) []byte {
	// Ed25519 goes over a message twice, and not as fast as SHA-256 does once.
	return fmt.Appendf(nil, "postern %s\n%s\n%d\n%x\n", h.Kind, h.Stack, h.Seq, sha256.Sum256(payload))
}

func seal(key ed25519.PrivateKey, kind, stack string, seq uint64, payload []byte) ([]byte, error) {
	h := header{Kind: kind, Stack: stack, Seq: seq, Key: fingerprint(key.Public().(ed25519.PublicKey))}
	h.Signature = ed25519.Sign(key, h.message(payload))
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode signature: %w", err)
	}
	return append(append(line, '\n'), payload...), nil
}

// unseal returns the payload of a signed object if one of the keys has signed
// it, as that kind of object, for that stack, under that number.
func unseal(trusted []ed25519.PublicKey, kind, stack string, seq uint64, object []byte) ([]byte, error) {
	line, payload, found := bytes.Cut(object, []byte("\n"))
	var h header
	if err := json.Unmarshal(line, &h); err != nil || !found || h.Kind == "" {
		return nil, errors.New("it is torn, or no publication at all")
	}
	if h.Kind != kind || h.Stack != stack || h.Seq != seq {
		return nil, fmt.Errorf("it says that it is %.64q number %d of stack %.64q, but it is in the place of %s number %d of stack %q",
			h.Kind, h.Seq, h.Stack, kind, seq, stack)
	}
	message := h.message(payload)
	for _, key := range trusted {
		if ed25519.Verify(key, message, h.Signature) {
			return payload, nil
		}
	}
	known := false
	for _, key := range trusted {
		known = known || fingerprint(key) == h.Key
	}
	if known {
		return nil, errors.New("its signature is wrong: it was changed, or is torn")
	}
	return nil, fmt.Errorf("it is signed by the key %.16q, which is not one of the operators' keys that are trusted", h.Key)
}

func fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// maxKeys bounds the files of keys.
const maxKeys = 1 << 20

// ReadTrusted reads the public keys whose signatures count: PEM blocks of type
// PUBLIC KEY (RFC 7468), at least one, all of them Ed25519.
func ReadTrusted(file string) ([]ed25519.PublicKey, error) {
	rest, err := hostpath.ReadFile(file, maxKeys)
	if err != nil {
		return nil, fmt.Errorf("read the operators' public keys: %w", err)
	}
	var keys []ed25519.PublicKey
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(ed25519.PublicKey)
		if err != nil || !ok || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("read the operators' public keys: %s has something that is not an Ed25519 public key", file)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("read the operators' public keys: %s has none", file)
	}
	return keys, nil
}

// readKey reads the operator's key. It refuses a key that others may read, because such a key
// proves nothing.
func readKey(file string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the operator's key, which signs publications: %w; `postern up` makes one", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read the operator's key: others may read %s: remove it, and its line in trusted.pem, and make a new one with `postern up`", file)
	}
	content, err := hostpath.ReadFile(file, maxKeys)
	if err != nil {
		return nil, fmt.Errorf("read the operator's key: %w", err)
	}
	// The file's content is not repeated in an error.
	if block, _ := pem.Decode(content); block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("read the operator's key: %s is not an Ed25519 key in PEM", file)
}

// HasKey reports whether the operator has a usable key that is trusted.
func HasKey(keyFile, trustedFile string) bool {
	key, err := readKey(keyFile)
	if err != nil {
		return false
	}
	trusted, err := ReadTrusted(trustedFile)
	if err != nil {
		return false
	}
	for _, t := range trusted {
		if t.Equal(key.Public()) {
			return true
		}
	}
	return false
}

// MakeKey makes the operator's key unless there is one, and adds its public key
// to the trusted keys. Keys that were trusted before stay trusted.
func MakeKey(keyFile, trustedFile string) error {
	if HasKey(keyFile, trustedFile) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return fmt.Errorf("make the operator's folder: %w", err)
	}
	trusted, err := hostpath.ReadFile(trustedFile, maxKeys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the operators' public keys: %w", err)
	}
	key, err := readKey(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return fmt.Errorf("make the operator's key: %w", err)
		}
		content, err := pki.KeyPEM(key)
		if err != nil {
			return fmt.Errorf("the operator's key: %w", err)
		}
		if err := atomicfile.Write(keyFile, content, 0o600); err != nil {
			return fmt.Errorf("write the operator's key: %w", err)
		}
	case err != nil:
		return err
	}
	public, err := publicPEM(key)
	if err != nil {
		return err
	}
	if len(trusted) > 0 && trusted[len(trusted)-1] != '\n' {
		trusted = append(trusted, '\n')
	}
	trusted = append(trusted, public...)
	if err := atomicfile.Write(trustedFile, trusted, 0o644); err != nil {
		return fmt.Errorf("write the operators' public keys: %w", err)
	}
	return nil
}

// PublicKey is the public half, PEM, of the operator's key.
func PublicKey(keyFile string) ([]byte, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return publicPEM(key)
}

func publicPEM(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the operator's public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
