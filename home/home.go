// Package home is the layout of the state folders: where each stack of this user
// keeps what outlives a command, and which stack file a folder belongs to.
package home

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
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// Folder is the private state folder of one stack of one checkout. Two checkouts, or two stacks,
// never share one.
//
//	stack.json             the stack's name, and its file
//	pulumi/                the engine's own state (backend, home)
//	ca/ca.pem ca/ca.key    the agents' authority (key 0600)
//	operator/              the key that signs publications (ed25519, 0600), and the trusted public keys (trusted.pem)
//	bundle/                the blob store of the publications
//	control/               the control plane: control.sock (operators), xds.sock (nodes), log, and its memory
//	nodes/<id>/            one node: bootstrap, admin.sock, log, agents/<agent>/proxy.sock
//	workspaces/<run>/      what an agent wrote in an overlay workspace
//	graph.json             what was brought up last in a cloud
//	audit/<id>/*.jsonl     the events of one node, in segments; outlives destroy, as stack.json does
type Folder struct {
	Root string
	// name and file are set if the stack file is known.
	name, file string
	// seen is what the record said when the folder was found: see [Folder.Claim].
	seen string
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

// Owner is the stack file that a state folder belongs to. The folder's stack.json holds it.
type Owner struct {
	// Name is the name of the stack.
	Name string `json:"name"`
	// File is the absolute path of the stack file, without symbolic links.
	File string `json:"file"`
	// Folder identifies the file's folder, because editors replace the file itself.
	Folder Identity `json:"folder"`
}

// Identity tells a folder from another one at the same path.
type Identity struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Born is when the folder was made, in nanoseconds since 1970, or 0 if the file system does not
	// say. File systems use the number of a removed inode again.
	Born int64 `json:"born,omitempty"`
}

// Same reports whether both are the same folder, now or after a restart of the
// machine: file systems without a device of their own (major number 0, such as
// btrfs, NFS and overlays) may then have another device number.
func (i Identity) Same(o Identity) bool {
	stable := unix.Major(i.Device) != 0 && unix.Major(o.Device) != 0
	known := i.Born != 0 && o.Born != 0
	return i.Inode == o.Inode && (!stable || i.Device == o.Device) && (!known || i.Born == o.Born)
}

// IdentityOf returns the identity of an open folder.
func IdentityOf(f *os.File) (Identity, error) {
	var s unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return Identity{}, err
	}
	i := Identity{Device: unix.Mkdev(s.Dev_major, s.Dev_minor), Inode: s.Ino}
	if s.Mask&unix.STATX_BTIME != 0 {
		i.Born = s.Btime.Sec*1e9 + int64(s.Btime.Nsec)
	}
	return i, nil
}

// at is where the owner's state folder is, whether or not there is one.
func at(o Owner) (Folder, error) {
	base, err := hostpath.StateFolder()
	h := Folder{Root: filepath.Join(base, o.Name+"-"+hashed(o.File)), name: o.Name, file: o.File}
	h.seen = h.recorded()
	return h, err
}

// recorded returns what the record says, or "" if there is none that can be read.
func (h Folder) recorded() string {
	data, _ := hostpath.ReadFile(h.RecordFile(), maxFile)
	return string(data)
}

// Of returns the state folder of the owner's stack: [hostpath.StateFolder]/<stack>-<hash
// of the file's path>. It creates nothing, and there may be none yet. A folder
// that belongs to another file is refused, and so is one that does not say whose
// it is: the error is then [ErrUnclaimed].
func Of(o Owner) (Folder, error) {
	h, err := at(o)
	if err != nil {
		return h, err
	}
	if _, err := os.Lstat(h.Root); errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	r, err := h.owner()
	if err != nil {
		return h, fmt.Errorf("%w: run `%s`, which writes it again", err, h.Command("up"))
	}
	return h, h.belongs(r, o)
}

// ErrUnclaimed means that a state folder has lost the record of its stack file.
var ErrUnclaimed = errors.New("does not say to which stack file it belongs")

func (h Folder) belongs(r *Owner, o Owner) error {
	if r.File != o.File || r.Name != o.Name {
		return fmt.Errorf("the state folder %s belongs to the stack %s of %s, not to %s: move the folder away", h.Root, r.Name, r.File, o.File)
	}
	return nil
}

// Claim makes the owner's state folder if there is none, and writes down whose it
// is: see [Folder.Claim].
func Claim(o Owner) (Folder, error) {
	h, err := at(o)
	if err != nil {
		return h, err
	}
	err = h.Claim(o)
	h.seen = h.recorded()
	return h, err
}

// ErrClaimed means that another command has claimed the state folder for another folder of stack
// files.
var ErrClaimed = errors.New("another command has claimed it meanwhile, for a stack file that was in another folder")

// Claim makes the folder if there is none, and writes down that it belongs to the owner, with the
// identity of the file's folder as it is now. A folder that belongs to another file is refused.
// The caller has made sure that a person means this file: see package publish. What the caller has
// seen of the record counts: if the record no longer says what it said when [Of] or [Claim]
// returned h, the error is [ErrClaimed].
func (h Folder) Claim(o Owner) error {
	if err := os.MkdirAll(h.Root, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	held, err := lock(h.Root)
	if err != nil {
		return fmt.Errorf("claim the state folder: %w", err)
	}
	defer held.Close()
	if r, err := h.owner(); err == nil {
		if err := h.belongs(r, o); err != nil {
			return err
		}
		if *r == o {
			return nil
		}
	}
	if h.recorded() != h.seen {
		return fmt.Errorf("the state folder %s: %w: run this again", h.Root, ErrClaimed)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("record to which stack file %s belongs: %w", h.Root, err)
	}
	return atomicfile.Write(h.RecordFile(), append(data, '\n'), 0o644)
}

// lockFor bounds the wait for another command that claims the folder.
const lockFor = 5 * time.Second

// lock takes the lock on the folder. The kernel drops the lock when the folder is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockFor); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(until) {
			f.Close()
			return nil, fmt.Errorf("lock %s, which `lslocks` names the holder of: %w", dir, err)
		}
	}
}

// Replaced reports whether the folder of the owner's file is another one than when
// the state folder was claimed: somebody has put it into the place of the first.
// Without a state folder it is false.
func (h Folder) Replaced(o Owner) (bool, error) {
	if _, err := os.Lstat(h.Root); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	r, err := h.owner()
	return err == nil && !r.Folder.Same(o.Folder), err
}

// All returns the state folders of the stacks called name, or of all stacks if name is "", that
// have an operator's key, nodes or a control plane: who lost the key must still find the stack. It
// needs no stack file, and reads only what the folder records.
func All(name string) ([]Folder, error) {
	base, err := hostpath.StateFolder()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for stacks: %w", err)
	}
	var homes []Folder
	for _, e := range entries {
		h := Folder{Root: filepath.Join(base, e.Name())}
		there := slices.ContainsFunc([]string{h.OperatorKey(), h.NodesDir(), h.ControlDir()}, func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		})
		if there && (name == "" || h.Stack() == name) {
			homes = append(homes, h)
		}
	}
	return homes, nil
}

// RecordFile returns the file that says to which stack file the folder belongs. It stays as long as
// the audit log.
func (h Folder) RecordFile() string { return filepath.Join(h.Root, "stack.json") }

// maxFile bounds what is read of a file that says something about the stack.
const maxFile = 64 << 10

// owner reads whose the folder is.
func (h Folder) owner() (*Owner, error) {
	data, err := hostpath.ReadFile(h.RecordFile(), maxFile)
	var r Owner
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

// CADir holds ca.pem and ca.key.
func (h Folder) CADir() string { return filepath.Join(h.Root, "ca") }

// CACert is the PEM file of the certificate authority that agents trust.
func (h Folder) CACert() string { return filepath.Join(h.CADir(), "ca.pem") }

// CAKey is the PEM file of the authority's key. Of the daemons, only the control plane reads it.
func (h Folder) CAKey() string { return filepath.Join(h.CADir(), "ca.key") }

// Stack returns the name of the stack, as the folder records it: see [Claim]. If no stack file
// claims the folder, e.g. that of a control plane on another machine, the folder's name is the
// stack's.
func (h Folder) Stack() string {
	if h.name != "" {
		return h.name
	}
	if r, err := h.owner(); err == nil {
		return r.Name
	}
	return filepath.Base(h.Root)
}

// File returns the absolute path of the stack file, or "" if the folder does not say it.
func (h Folder) File() string {
	if r, err := h.owner(); h.file == "" && err == nil {
		return r.File
	}
	return h.file
}

// Command returns the command line of postern with these arguments that is about the stack, from
// any folder.
func (h Folder) Command(args ...string) string {
	file := h.File()
	if file == "" {
		return advice.Command(args...) + " --stack " + hostpath.Quote(h.Stack())
	}
	return advice.About(file, args...)
}

// OperatorDir holds what only the operator needs.
func (h Folder) OperatorDir() string { return filepath.Join(h.Root, "operator") }

// OperatorKey returns the PEM file of the Ed25519 key that signs publications.
func (h Folder) OperatorKey() string { return filepath.Join(h.OperatorDir(), "ed25519") }

// Trusted is the PEM file of the operators' public keys: the control plane
// serves what one of them has signed.
func (h Folder) Trusted() string { return filepath.Join(h.OperatorDir(), "trusted.pem") }

// StoreFile may hold the URL of another bundle store than the folder bundle/.
func (h Folder) StoreFile() string { return filepath.Join(h.OperatorDir(), "store") }

// BundleURL returns the URL of the bundle store: the one in [Folder.StoreFile], or the folder
// bundle/ if there is no such file.
func (h Folder) BundleURL() string {
	if content, err := hostpath.ReadFile(h.StoreFile(), maxFile); err == nil {
		return strings.TrimSpace(string(content))
	}
	return (&url.URL{Scheme: "file", Path: filepath.Join(h.Root, "bundle")}).String()
}

// ControlDir is the working folder of the control plane.
func (h Folder) ControlDir() string { return filepath.Join(h.Root, "control") }

// ControlSocket returns the socket at which operators and the provider reach the control plane.
func (h Folder) ControlSocket() string { return filepath.Join(h.ControlDir(), "control.sock") }

// KeptBundles returns the files in which the control plane keeps the publication that it serves.
func (h Folder) KeptBundles() []string {
	return []string{filepath.Join(h.ControlDir(), "good.bundle"), filepath.Join(h.ControlDir(), "kill.bundle")}
}

// XDSSocket returns the socket at which nodes reach the control plane.
func (h Folder) XDSSocket() string { return filepath.Join(h.ControlDir(), "xds.sock") }

// NodesDir holds a folder for each node.
func (h Folder) NodesDir() string { return filepath.Join(h.Root, "nodes") }

// NodeDir is the working folder of one node.
func (h Folder) NodeDir(id string) string { return filepath.Join(h.NodesDir(), id) }

// AgentDir is the folder, in one node, of the sockets that an agent may use:
// the only part of a node that is mounted into that agent's sandbox.
func (h Folder) AgentDir(node, agent string) string {
	return filepath.Join(h.NodeDir(node), "agents", agent)
}

// AuditDir holds one folder of events per node.
func (h Folder) AuditDir() string { return filepath.Join(h.Root, "audit") }

// WorkspacesDir holds a folder for each overlay workspace that was neither applied nor discarded.
// An agent wrote what is in its layer.
func (h Folder) WorkspacesDir() string { return filepath.Join(h.Root, "workspaces") }

// KeptDir holds the homes and volumes that agents keep: see package workspace. An agent wrote what
// is in one.
func (h Folder) KeptDir() string { return filepath.Join(h.Root, "kept") }

// ToolsDir has the sockets of the tools that commands have outside their sandboxes.
func (h Folder) ToolsDir() string { return filepath.Join(h.Root, "tools") }

// KilledFile says who was killed when the stack was taken down: the next first publication kills
// them again.
func (h Folder) KilledFile() string { return filepath.Join(h.Root, "killed.json") }

// GraphFile is the plan that was brought up last, as package graph writes it.
// Only stacks in a cloud have one.
func (h Folder) GraphFile() string { return filepath.Join(h.Root, "graph.json") }

// GuardrailsFile is what the stack file said of guardrails when the stack was brought up last.
func (h Folder) GuardrailsFile() string { return filepath.Join(h.Root, "guardrails.json") }

// PulumiDir holds the engine's state when Postern drives it.
func (h Folder) PulumiDir() string { return filepath.Join(h.Root, "pulumi") }

// maxSocketPath is the longest path of a Unix socket (sun_path of unix(7),
// less its terminating zero).
const maxSocketPath = 107

// CheckSockets returns an error if the paths of the stack's sockets do not fit into a socket
// address.
func (h Folder) CheckSockets() error {
	if p := h.ControlSocket(); len(p) > maxSocketPath {
		return fmt.Errorf("%s: a socket's path may have %d bytes, this has %d: set POSTERN_HOME to a shorter folder", p, maxSocketPath, len(p))
	}
	return nil
}
