// Package svid issues and verifies the identities of a fleet's machines: X.509 certificates in the
// form of SPIFFE's X.509-SVID. With them a node and a control plane on different machines
// authenticate each other. A new node gets its certificate by a join.
//
// The fleet's authority signs the certificates. It is not the agents' authority: neither can speak
// for the other.
package svid

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// trustDomain is the trust domain of every identity. The stack is part of the path.
const trustDomain = "postern"

// ServerName is the DNS name in every control plane's certificate, next to [ControlURI], whatever
// the control plane's address is. Nobody resolves it.
const ServerName = "control.postern.internal"

// name matches the valid names of stacks, nodes and replicas, which are parts of a URI and of
// paths.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// IsName reports whether s is a valid name of a stack or a replica.
func IsName(s string) bool { return name.MatchString(s) }

// IsNode reports whether s is a valid name of a node. "control" is not: the control plane's own
// events use it (audit.ControlPlane).
func IsNode(s string) bool { return IsName(s) && s != "control" }

// IsJoined reports whether s is a node's name in the form that [Joined] makes.
func IsJoined(s string) bool {
	i := strings.LastIndexByte(s, '-')
	return i >= 0 && isJoining(s[:i]) && len(s)-i-1 == hashLength && strings.Trim(s[i+1:], base32Digits) == ""
}

// isJoining reports whether a node may join under that name.
func isJoining(node string) bool { return len(node) <= maxName && IsName(node) }

// ID identifies a node.
type ID struct{ Stack, Node string }

// URI returns the node's SPIFFE ID.
func (id ID) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/" + id.Stack + "/node/" + id.Node}
}

// ControlURI returns the SPIFFE ID of the control plane of a stack. All replicas share it.
func ControlURI(stack string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/" + stack + "/control"}
}

// Of returns the node that a certificate names. It does not verify the certificate. It accepts
// exactly one URI (X.509-SVID, section 2).
func Of(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, fmt.Errorf("the certificate names %d identities, not one", len(cert.URIs))
	}
	uri := cert.URIs[0]
	parts := strings.Split(uri.Path, "/")
	if len(parts) != 4 || parts[2] != "node" {
		return ID{}, fmt.Errorf("%.128q is not the identity of a node", uri)
	}
	id := ID{Stack: parts[1], Node: parts[3]}
	// Compared in full, so that a user, a port or an escape hides nothing.
	if !IsName(id.Stack) || !IsName(id.Node) || id.URI().String() != uri.String() {
		return ID{}, fmt.Errorf("%.128q is not the identity of a node", uri)
	}
	return id, nil
}

// maxName leaves room in a node's ID for the hash of its key.
const maxName = 63 - 1 - hashLength

// hashLength is in characters of 5 bits: 80 bits.
const hashLength = 16

const base32Digits = "abcdefghijklmnopqrstuvwxyz234567"

var lower = base32.NewEncoding(base32Digits).WithPadding(base32.NoPadding)

// Joined returns the ID of a node that joined under a name with a key: the name, a dash, and a hash
// of the key. So nobody can join as another node without that node's key, at any replica, whether
// or not that node is connected.
func Joined(node string, key crypto.PublicKey) (string, error) {
	if !isJoining(node) {
		return "", fmt.Errorf("%.64q is not a valid node name: use up to %d lower-case letters, digits and dashes", node, maxName)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode the key of node %s: %w", node, err)
	}
	sum := sha256.Sum256(der)
	return node + "-" + lower.EncodeToString(sum[:])[:hashLength], nil
}

// Read returns the content of the environment variable of env://NAME, or of the file at that path.
// Errors name the place and never quote the content.
func Read(from string) ([]byte, error) {
	variable, ok := strings.CutPrefix(from, "env://")
	if !ok {
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return nil, fmt.Errorf("%s is empty", from)
		}
		return b, nil
	}
	v := os.Getenv(variable)
	if v == "" {
		return nil, fmt.Errorf("the environment variable %s is empty", variable)
	}
	return []byte(v), nil
}
