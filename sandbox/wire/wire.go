// Package wire is the protocol between `postern run` on the host and `postern-sandbox` in the
// sandbox: JSON values over one socket pair.
//
// The host sends a [Setup] and then any number of [Signal]; the inside sends [Event] values. Either
// side ends the sandbox by closing its end. The agent's command never holds a descriptor of this
// connection.
package wire

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Bytes is a string of the operating system's, which need not be UTF-8 as
// JSON's must.
type Bytes string

// MarshalJSON encodes b as base64.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(b)) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var raw []byte
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("decode bytes: %w", err)
	}
	*b = Bytes(raw)
	return nil
}

// Strings converts a list of Bytes to strings.
func Strings(list []Bytes) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// Raw is the inverse of Strings.
func Raw(list []string) []Bytes {
	out := make([]Bytes, len(list))
	for i, s := range list {
		out[i] = Bytes(s)
	}
	return out
}

// The descriptors that `postern-sandbox` finds open. Its own standard streams are not the agent's:
// output of posternd or bubblewrap must not mix with the agent's.
const (
	StdinFD   = 3
	StdoutFD  = 4
	StderrFD  = 5
	ControlFD = 6
)

// The fixed paths of the sandbox.
const (
	// Dir holds all of our files that are visible inside.
	Dir = "/run/postern"
	// Inside is the program that serves the sandbox.
	Inside = Dir + "/postern-sandbox"
	// NodesDir holds one folder of sockets per node, named 0, 1, ... Beside it is the
	// node's lease, by the same name and Lease.
	NodesDir = Dir + "/nodes"
	Lease    = ".lease"
	// CA is the certificate of the proxy's authority alone.
	CA = Dir + "/ca.pem"
	// Bundle is the system's roots and the proxy's authority.
	Bundle = Dir + "/bundle.pem"
	// Java is the same as Bundle, as a Java key store.
	Java = Dir + "/cacerts"
	// Layers holds the layers of an overlay workspace until they are mounted.
	Layers = Dir + "/layers"
	// ToolsDir is the folder with the socket, ToolsSocket, of the tools that run outside.
	ToolsDir    = Dir + "/tools"
	ToolsSocket = "tools.sock"
	// Home is the home of an agent that keeps it. No path of the host's is there or below.
	Home = "/agent"
	// Ephemeral is the working directory of a command that sees no folder of the host's.
	Ephemeral = "/workspace"
)

// The folders in Layers.
const (
	// Upper takes what the command writes.
	Upper = "upper"
	// Work is the kernel's.
	Work = "work"
	// Hidden has a device 0/0 in place of each file that the command must not see.
	Hidden = "hidden"
)

// What is there in a container only.
const (
	// HostDir, in a container, is the folder in which `postern run` listens on HostSocket for the
	// first process.
	HostDir    = Dir + "/host"
	HostSocket = HostDir + "/control.sock"
)

// Join is the argument with which `postern-sandbox` is started in a container: it gets its
// descriptors from HostSocket, and makes the namespaces that bubblewrap makes elsewhere.
const Join = "join"

// Foreign follows Join if the container has a kernel of its own, as in gVisor.
const Foreign = "foreign"

// End is the argument with which `postern-sandbox` is started on the host, to remove a container when
// `postern run` has ended. The engine's socket and the container's path in its API follow.
const End = "end"

// MCP is the argument with which a client inside starts `postern-sandbox` as its MCP server. The
// path of the tools' URL follows, without its slash.
const MCP = "mcp"

// The fixed addresses of the sandbox.
const (
	// ProxyPort is the loopback port at which the agent's proxy answers.
	ProxyPort = 3128
	// ToolsPort is the loopback port at which the tools answer that run outside.
	ToolsPort = 3129
	// Resolver is the only DNS server that answers.
	Resolver = "127.0.0.53"
)

// Setup is what the inside needs to know to start.
type Setup struct {
	// Argv is the agent's command; Env all of its environment.
	Argv []Bytes `json:"argv"`
	Env  []Bytes `json:"env"`
	Dir  Bytes   `json:"dir"`
	// Device and Inode identify Dir: the folder that the host has checked.
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Mounts are the mounts that the host has made below Dir, each as "DEVICE ROOT" of
	// proc_pid_mountinfo(5).
	Mounts []string `json:"mounts,omitempty"`
	// Overlay means that the layers at [Layers] go over Dir.
	Overlay bool `json:"overlay,omitempty"`
	// ReadOnly means that the layers only hide, and take nothing.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Protected are paths in Dir that the command cannot write.
	Protected []Bytes `json:"protected,omitempty"`
	// Git are folders besides Dir that the host has checked.
	Git []Folder `json:"git,omitempty"`
	// NoExec means that Dir is in memory, and that nothing in it can be executed. It has no Device
	// and Inode then.
	NoExec bool `json:"noExec,omitempty"`
	// UID and GID are the IDs that the agent's command sees as its own.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Nodes are the folders, inside, of the nodes' sockets.
	Nodes []string `json:"nodes"`
	// Gateways are the loopback ports that reach the proxy as they are.
	Gateways []int `json:"gateways,omitempty"`
	// Tools means that ToolsPort leads to the socket in ToolsDir.
	Tools bool `json:"tools,omitempty"`
	// Ports are captured for every address.
	Ports []int `json:"ports"`
	// Streams has, for each standard stream, the number of the first that is the same; -1 is
	// /dev/null. In a machine, each number has a stream of the channel, in order, after that of the
	// Setup.
	Streams [3]int `json:"streams"`
	// Terminal is the number of the standard stream, from 0, that is a terminal
	// which the command shall control; -1 if none is.
	Terminal int `json:"terminal"`
	// Raw means that the terminal passes on text unchanged. Rows and Columns are its size. A sandbox
	// with a kernel of its own makes a terminal like it: the host's passes on everything as it is.
	Raw     bool   `json:"raw,omitempty"`
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`
	// Filter and GateFilter are the programs (struct sock_filter) that decide
	// the system calls of the command and of the inside itself.
	Filter     Bytes `json:"filter"`
	GateFilter Bytes `json:"gateFilter"`
	// Processes is the number of processes and threads that the command may have in all.
	Processes uint64 `json:"processes"`
	// Files are written into the home before the command starts, unless there are such files.
	Files []File `json:"files,omitempty"`
	// Foreign is true if the sandbox has a kernel of its own. Its numbers of devices and inodes are
	// not the host's. It does not ask anybody about a call, so Filter denies Unix sockets.
	Foreign bool `json:"foreign,omitempty"`
	// Machine, if set, is the virtual machine in which the command starts. The first process of the
	// sandbox starts it, and sends the rest of the Setup to the machine's own first process, with
	// Guest in place of Machine.
	Machine *Machine `json:"machine,omitempty"`
	Guest   *Guest   `json:"guest,omitempty"`
	// Arranged means that Dir needs neither a check nor a mount.
	Arranged bool `json:"arranged,omitempty"`
}

// Folder is one that the host has checked, with the names in it that the command cannot write.
type Folder struct {
	Path      Bytes   `json:"path"`
	Device    uint64  `json:"device"`
	Inode     uint64  `json:"inode"`
	Protected []Bytes `json:"protected,omitempty"`
}

// Machine is a virtual machine, as the sandbox outside of it needs to know it.
type Machine struct {
	// Argv is QEMU and its arguments. Its standard input is a socket, the machine's only channel;
	// its standard output takes what the machine's kernel says.
	Argv []Bytes `json:"argv"`
	// Workdir is the folder of [ShareWork] that the machine has as its working directory, if any.
	Workdir Bytes `json:"workdir,omitempty"`
	// Guest is for the machine.
	Guest Guest `json:"guest"`
}

// Guest is what the first process of a virtual machine needs to know.
type Guest struct {
	Hostname string `json:"hostname"`
	// Places are made in this order in an empty root folder.
	Places []Place `json:"places"`
	// ReadOnly are files and folders of /proc that nobody may write, and in place of Masked there is
	// an empty file.
	ReadOnly []string `json:"readOnly,omitempty"`
	Masked   []string `json:"masked,omitempty"`
	// Shared is the size of /dev/shm, in bytes.
	Shared uint64 `json:"shared"`
}

// Place is one thing that a guest sees.
type Place struct {
	// Share is the file or folder, of [ShareView] or [ShareWork], that is shown at the target.
	Share Bytes `json:"share,omitempty"`
	// Link is where a symbolic link leads.
	Link   Bytes `json:"link,omitempty"`
	Target Bytes `json:"target"`
	// Writable is true for the agent's own folders only.
	Writable bool `json:"writable,omitempty"`
	// Without Share and Link, the place is a folder in memory.
	Mode   uint32 `json:"mode,omitempty"`
	Size   uint64 `json:"size,omitempty"`
	NoExec bool   `json:"noExec,omitempty"`
}

// What a virtual machine is made of, in the sandbox around it, and what it shares.
const (
	Kernel    = Dir + "/kernel"
	Initramfs = Dir + "/initramfs"
	// ShareWork holds the agent's own folders, and ShareView everything else.
	ShareView = "/view"
	ShareWork = "/work"
	// Init is the name by which a guest's kernel starts `postern-sandbox`, and Modules the folder
	// with the kernel's modules, in the order of their names.
	Init    = "/init"
	Modules = "/modules"
	// Trial on the kernel's command line has Init print Ready and power off.
	Trial = "postern.trial"
	Ready = "postern: the machine works"
)

// Variable returns the value of a variable of the command.
func (s *Setup) Variable(name string) string {
	for _, kv := range s.Env {
		if value, ok := strings.CutPrefix(string(kv), name+"="); ok {
			return value
		}
	}
	return ""
}

// File is a file in the home, whose path is relative to it.
type File struct {
	Path    Bytes `json:"path"`
	Content Bytes `json:"content"`
}

// Signal asks for a signal to be passed to the command, or, if Port is not 0, for the connection
// that comes with the message to be joined with that port of loopback.
type Signal struct {
	Number int `json:"number,omitempty"`
	Port   int `json:"port,omitempty"`
	// Rows and Columns are, with SIGWINCH, the new size of a terminal that the inside has made.
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`
}

// Event says what happened inside: one of Started, Exited, Refused and Broken.
type Event struct {
	// Started is true when the command runs.
	Started bool `json:"started,omitempty"`
	// Exited is the command's exit status, 128+n if signal n ended it.
	Exited *int `json:"exited,omitempty"`
	// Connections is, with Exited, how many the proxy was asked for.
	Connections uint64 `json:"connections,omitempty"`
	// Refused says why the command could not be started. Status is the exit status that a shell
	// would have (126, 127).
	Refused string `json:"refused,omitempty"`
	Status  int    `json:"status,omitempty"`
	// Broken says why the sandbox could not be set up.
	Broken string `json:"broken,omitempty"`
}
