package stacks

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// Home is the private state folder of one stack of one checkout. Two checkouts, or two stacks,
// never share one.
//
//	stack.json             the stack's name, and its file
//	pulumi/                the engine's own state (backend, home)
//	ca/ca.pem ca/ca.key    the agents' authority (key 0600)
//	operator/              the key that signs publications (ed25519, 0600), and the trusted public keys (trusted.pem)
//	bundle/                the blob store of the publications
//	control/               the control plane: control.sock (operators), xds.sock (nodes), log, and its memory
//	nodes/<id>/            one node: bootstrap, admin.sock, log, agents/<agent>/proxy.sock
//	graph.json             what was brought up last in a cloud
//	audit/<id>/*.jsonl     the events of one node, in segments; outlives destroy, as stack.json does
type Home struct {
	Root string
	// name is set if the stack file is known.
	name string
}

// ControlUser and NodeUser are the users that the control plane and the nodes run
// as when root brings a stack up on this machine. packaging/sysusers.d/postern.conf
// makes both, each with a group of its own name.
const (
	ControlUser = "postern-control"
	NodeUser    = "postern-node"
)

// hashed is 128 bits of a hash of the path, in 26 characters.
func hashed(path string) string {
	sum := sha256.Sum256([]byte(path))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// home returns the file's state folder, whether or not it exists.
func (f *File) home() (Home, error) {
	base, err := hostpath.StateFolder()
	return Home{Root: filepath.Join(base, f.Name()+"-"+hashed(f.Real)), name: f.Name()}, err
}

// Home returns the state folder of the file's stack: [hostpath.StateFolder]/<stack>-<hash
// of the file's path>. It creates nothing, and there may be none yet. A folder
// that belongs to another file is refused, and so is one that does not say whose
// it is: the error is then [ErrUnclaimed].
func (f *File) Home() (Home, error) {
	h, err := f.home()
	if err != nil {
		return h, err
	}
	if _, err := os.Lstat(h.Root); errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	r, err := h.record()
	if err != nil {
		return h, fmt.Errorf("%w: run `go run . up %s`, which writes it again", err, f.Name())
	}
	return h, f.belongs(h, r)
}

// ErrUnclaimed means that a state folder has lost the record of its stack file.
var ErrUnclaimed = errors.New("does not say to which stack file it belongs")

func (f *File) belongs(h Home, r *record) error {
	if r.File != f.Real || r.Name != f.Name() {
		return fmt.Errorf("the state folder %s belongs to the stack %s of %s, not to %s: move the folder away", h.Root, r.Name, r.File, f.Real)
	}
	return nil
}

// Claim makes the file's state folder if there is none, and writes down whose it
// is: see [Home.Claim].
func (f *File) Claim() (Home, error) {
	h, err := f.home()
	if err != nil {
		return h, err
	}
	return h, h.Claim(f)
}

// Claim makes the folder if there is none, and writes down that it belongs to the
// file, with the identity of the file's folder as it is now. A folder that
// belongs to another file is refused. The caller has made sure that a person
// means this file: see package publish.
func (h Home) Claim(f *File) error {
	if err := os.MkdirAll(h.Root, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	now := &record{Name: f.Name(), File: f.Real, Folder: f.folder}
	if r, err := h.record(); err == nil {
		if err := f.belongs(h, r); err != nil {
			return err
		}
		if *r == *now {
			return nil
		}
	}
	return now.write(h)
}

// Replaced reports whether the file's folder is another one than when the state
// folder was claimed: somebody has put it into the place of the first. Without a
// state folder it is false.
func (f *File) Replaced(h Home) (bool, error) {
	if _, err := os.Lstat(h.Root); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	r, err := h.record()
	return err == nil && !r.Folder.same(f.folder), err
}

// Homes returns the state folders of the stacks called name, or of all stacks if
// name is "", that have an operator's key. No stack file is needed, and what a
// folder does not say of itself is not asked.
func Homes(name string) ([]Home, error) {
	base, err := hostpath.StateFolder()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for stacks: %w", err)
	}
	var homes []Home
	for _, e := range entries {
		h := Home{Root: filepath.Join(base, e.Name())}
		if _, err := os.Stat(h.OperatorKey()); err == nil && (name == "" || h.Stack() == name) {
			homes = append(homes, h)
		}
	}
	return homes, nil
}

// HomeOf is [File.Home] of the stack file at path.
func HomeOf(path string) (Home, error) {
	f, err := Open(path)
	if err != nil {
		return Home{}, err
	}
	return f.Home()
}

// record is the content of stack.json.
type record struct {
	Name string `json:"name"`
	// File is [File.Real].
	File string `json:"file"`
	// Folder is that of the file: editors replace the file itself.
	Folder identity `json:"folder"`
}

// RecordFile returns the file that says to which stack file the folder belongs. It stays as long as
// the audit log.
func (h Home) RecordFile() string { return filepath.Join(h.Root, "stack.json") }

func (h Home) record() (*record, error) {
	data, err := os.ReadFile(h.RecordFile())
	var r record
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && (r.Name == "" || r.File == "") {
		err = errors.New("it is not whole")
	}
	if err != nil {
		return nil, fmt.Errorf("the state folder %s %w: %w", h.Root, ErrUnclaimed, err)
	}
	return &r, nil
}

func (r *record) write(h Home) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record to which stack file %s belongs: %w", h.Root, err)
	}
	return atomicfile.Write(h.RecordFile(), append(data, '\n'), 0o644)
}

// CADir holds ca.pem and ca.key.
func (h Home) CADir() string { return filepath.Join(h.Root, "ca") }

// CACert is the PEM file of the certificate authority that agents trust.
func (h Home) CACert() string { return filepath.Join(h.CADir(), "ca.pem") }

// CAKey is the PEM file of the authority's key. Only the control plane reads it.
func (h Home) CAKey() string { return filepath.Join(h.CADir(), "ca.key") }

// Stack returns the name of the stack, as the folder records it: see [File.Claim]. If no stack file
// claims the folder, e.g. that of a control plane on another machine, the folder's name is the
// stack's.
func (h Home) Stack() string {
	if h.name != "" {
		return h.name
	}
	if r, err := h.record(); err == nil {
		return r.Name
	}
	return filepath.Base(h.Root)
}

// OperatorDir holds what only the operator needs.
func (h Home) OperatorDir() string { return filepath.Join(h.Root, "operator") }

// OperatorKey returns the PEM file of the Ed25519 key that signs publications.
func (h Home) OperatorKey() string { return filepath.Join(h.OperatorDir(), "ed25519") }

// Trusted is the PEM file of the operators' public keys: the control plane
// serves what one of them has signed.
func (h Home) Trusted() string { return filepath.Join(h.OperatorDir(), "trusted.pem") }

// StoreFile may hold the URL of another bundle store than the folder bundle/.
func (h Home) StoreFile() string { return filepath.Join(h.OperatorDir(), "store") }

// BundleURL returns the URL of the bundle store: the one in [Home.StoreFile], or the folder bundle/
// if there is no such file.
func (h Home) BundleURL() string {
	if content, err := os.ReadFile(h.StoreFile()); err == nil {
		return strings.TrimSpace(string(content))
	}
	return (&url.URL{Scheme: "file", Path: filepath.Join(h.Root, "bundle")}).String()
}

// ControlDir is the working folder of the control plane.
func (h Home) ControlDir() string { return filepath.Join(h.Root, "control") }

// ControlSocket returns the socket at which operators and the provider reach the control plane.
func (h Home) ControlSocket() string { return filepath.Join(h.ControlDir(), "control.sock") }

// KeptBundles returns the files in which the control plane keeps what it serves.
func (h Home) KeptBundles() []string {
	return []string{filepath.Join(h.ControlDir(), "good.bundle"), filepath.Join(h.ControlDir(), "kill.bundle")}
}

// XDSSocket returns the socket at which nodes reach the control plane.
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

// AuditDir holds one folder of events per node.
func (h Home) AuditDir() string { return filepath.Join(h.Root, "audit") }

// GraphFile is the plan that was brought up last, as package graph writes it.
// Only stacks in a cloud have one.
func (h Home) GraphFile() string { return filepath.Join(h.Root, "graph.json") }

// PulumiDir holds the engine's state when Postern drives it.
func (h Home) PulumiDir() string { return filepath.Join(h.Root, "pulumi") }

// maxSocketPath is the longest path of a Unix socket (sun_path of unix(7),
// less its terminating zero).
const maxSocketPath = 107

// CheckSockets returns an error if the paths of the stack's sockets do not fit into a socket
// address.
func (h Home) CheckSockets() error {
	if p := h.ControlSocket(); len(p) > maxSocketPath {
		return fmt.Errorf("%s: a socket's path may have %d bytes, this has %d: set POSTERN_HOME to a shorter folder", p, maxSocketPath, len(p))
	}
	return nil
}
