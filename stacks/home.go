package stacks

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Home is the private state folder of one stack of one checkout. Two
// checkouts, or two stacks, never share one.
//
//	pulumi/                the engine's own state (backend, home)
//	ca/ca.pem ca/ca.key    the certificate authority (key 0600)
//	operator/              the key that signs what is published (ed25519, 0600), and those that are trusted (trusted.pem)
//	bundle/                the blob store that holds the published plan
//	control/               the control plane: control.sock (operators), xds.sock (nodes), log, what it must remember
//	nodes/<id>/            one node: bootstrap, admin.sock, log, agents/<agent>/proxy.sock
//	graph.json             what was brought up last in a cloud
//	audit/<id>.jsonl       the events of one node; outlives destroy
type Home struct{ Root string }

// hashLength is how many hexadecimal digits tell the folders of two checkouts.
const hashLength = 8

// HomeOf is the state folder of the stack file at path:
// $POSTERN_HOME/<stack>-<hash of the file's absolute path>, or the same below
// $XDG_STATE_HOME/postern, or below ~/.local/state/postern. It creates nothing.
func HomeOf(path string) (Home, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Home{}, fmt.Errorf("find state folder of %s: %w", path, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	base := os.Getenv("POSTERN_HOME")
	if base == "" {
		if xdg := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(xdg) {
			base = filepath.Join(xdg, "postern")
		} else {
			home, err := os.UserHomeDir()
			if err != nil {
				return Home{}, fmt.Errorf("find state folder of %s: %w; set POSTERN_HOME", path, err)
			}
			base = filepath.Join(home, ".local", "state", "postern")
		}
	}
	if base, err = filepath.Abs(base); err != nil {
		return Home{}, fmt.Errorf("find state folder of %s: %w", path, err)
	}
	sum := sha256.Sum256([]byte(abs))
	return Home{Root: filepath.Join(base, NameOf(path)+"-"+hex.EncodeToString(sum[:hashLength/2]))}, nil
}

// NameOf is the name of the stack that the file at path describes: its base
// name without the extension.
func NameOf(path string) string {
	base := filepath.Base(path)
	return base[:len(base)-len(filepath.Ext(base))]
}

// CADir holds ca.pem and ca.key.
func (h Home) CADir() string { return filepath.Join(h.Root, "ca") }

// CACert is the PEM file of the certificate authority that agents trust.
func (h Home) CACert() string { return filepath.Join(h.CADir(), "ca.pem") }

// CAKey is the PEM file of the authority's key. Only the control plane reads it.
func (h Home) CAKey() string { return filepath.Join(h.CADir(), "ca.key") }

// Stack is the name of the stack: that of the folder, without the hash that
// [HomeOf] gives it.
func (h Home) Stack() string {
	base := filepath.Base(h.Root)
	if i := len(base) - hashLength - 1; i > 0 && base[i] == '-' {
		if _, err := hex.DecodeString(base[i+1:]); err == nil {
			return base[:i]
		}
	}
	return base
}

// OperatorDir holds what only the operator needs.
func (h Home) OperatorDir() string { return filepath.Join(h.Root, "operator") }

// OperatorKey is the PEM file of the Ed25519 key that signs what is published.
func (h Home) OperatorKey() string { return filepath.Join(h.OperatorDir(), "ed25519") }

// Trusted is the PEM file of the operators' public keys: the control plane
// serves what one of them has signed.
func (h Home) Trusted() string { return filepath.Join(h.OperatorDir(), "trusted.pem") }

// StoreFile may hold the URL of another bundle store than the folder bundle/.
func (h Home) StoreFile() string { return filepath.Join(h.OperatorDir(), "store") }

// BundleURL is the blob store that holds the published plan: the URL in
// [Home.StoreFile], or the folder bundle/ if there is no such file.
func (h Home) BundleURL() string {
	if content, err := os.ReadFile(h.StoreFile()); err == nil {
		return strings.TrimSpace(string(content))
	}
	return (&url.URL{Scheme: "file", Path: filepath.Join(h.Root, "bundle")}).String()
}

// ControlDir is the working folder of the control plane.
func (h Home) ControlDir() string { return filepath.Join(h.Root, "control") }

// ControlSocket is where operators and the provider talk to the control plane.
func (h Home) ControlSocket() string { return filepath.Join(h.ControlDir(), "control.sock") }

// XDSSocket is where nodes talk to the control plane.
func (h Home) XDSSocket() string { return filepath.Join(h.ControlDir(), "xds.sock") }

// NodesDir holds a folder for each node.
func (h Home) NodesDir() string { return filepath.Join(h.Root, "nodes") }

// NodeDir is the working folder of one node.
func (h Home) NodeDir(id string) string { return filepath.Join(h.NodesDir(), id) }

// AgentDir is the folder, in one node, of the sockets that an agent may use:
// the only part of a node that is mounted into that agent's sandbox.
func (h Home) AgentDir(node, agent string) string {
	return filepath.Join(h.NodeDir(node), "agents", agent)
}

// AuditDir holds one file of events per node.
func (h Home) AuditDir() string { return filepath.Join(h.Root, "audit") }

// GraphFile is the plan that was brought up last, as package graph writes it.
// Only stacks in a cloud have one.
func (h Home) GraphFile() string { return filepath.Join(h.Root, "graph.json") }

// PulumiDir holds the engine's state when Postern drives it.
func (h Home) PulumiDir() string { return filepath.Join(h.Root, "pulumi") }

// maxSocketPath is the longest path of a Unix socket (sun_path of unix(7),
// less its terminating zero).
const maxSocketPath = 107

// CheckSockets reports whether the paths of the stack's sockets fit into a
// socket address.
func (h Home) CheckSockets() error {
	if p := h.ControlSocket(); len(p) > maxSocketPath {
		return fmt.Errorf("%s: a socket's path may have %d bytes, this has %d: set POSTERN_HOME to a shorter folder", p, maxSocketPath, len(p))
	}
	return nil
}
