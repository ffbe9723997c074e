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
)

// The fixed addresses of the sandbox.
const (
	// ProxyPort is the loopback port at which the agent's proxy answers.
	ProxyPort = 3128
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
	// UID and GID are the IDs that the agent's command sees as its own.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Nodes are the folders, inside, of the nodes' sockets.
	Nodes []string `json:"nodes"`
	// Gateways are the loopback ports that reach the proxy as they are.
	Gateways []int `json:"gateways,omitempty"`
	// Ports are captured for every address.
	Ports []int `json:"ports"`
	// Terminal is the number of the standard stream, from 0, that is a terminal
	// which the command shall control; -1 if none is.
	Terminal int `json:"terminal"`
	// Filter and GateFilter are the programs (struct sock_filter) that decide
	// the system calls of the command and of the inside itself.
	Filter     Bytes `json:"filter"`
	GateFilter Bytes `json:"gateFilter"`
	// Processes is the number of processes and threads that the command may have in all.
	Processes uint64 `json:"processes"`
}

// Signal asks for a signal to be passed to the command.
type Signal struct {
	Number int `json:"number"`
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
