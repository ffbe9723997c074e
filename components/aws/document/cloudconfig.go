package document

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
)

// CloudConfig is the user data of a machine (cloud-init, "cloud-config"). It installs nothing,
// fetches nothing and makes no user, because the machine image has all of that. It contains no
// secret, because everything on the machine can read it.
type CloudConfig struct {
	Users          []string   `yaml:"users"`
	DisableRoot    bool       `yaml:"disable_root"`
	SSHPasswords   bool       `yaml:"ssh_pwauth"`
	PackageUpdate  bool       `yaml:"package_update"`
	PackageUpgrade bool       `yaml:"package_upgrade"`
	WriteFiles     []File     `yaml:"write_files"`
	RunCommands    [][]string `yaml:"runcmd"`
}

// File is a file that is written when the machine boots for the first time.
type File struct {
	Path        string `yaml:"path"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Content     string `yaml:"content"`
}

// newCloudConfig writes settings to a file and starts a service of the image.
func newCloudConfig(path string, settings any, service string) CloudConfig {
	b, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("document: %v", err))
	}
	return CloudConfig{
		Users: []string{}, DisableRoot: true,
		WriteFiles:  []File{{Path: path, Owner: "root:root", Permissions: "0444", Content: string(b) + "\n"}},
		RunCommands: [][]string{{"systemctl", "start", service}},
	}
}

// Text returns the cloud-config as YAML, with the first line that identifies it.
func (c CloudConfig) Text() string {
	b, err := yaml.MarshalWithOptions(c, yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		panic(fmt.Sprintf("document: %v", err))
	}
	return "#cloud-config\n" + string(b)
}

// Base64 returns Text in the form that launch templates take.
func (c CloudConfig) Base64() string { return base64.StdEncoding.EncodeToString([]byte(c.Text())) }

// AgentMachine holds the settings of an agent's machine. If the metadata service is off, they are
// part of the machine image instead.
type AgentMachine struct {
	Stack   string   `json:"stack"`
	Agent   string   `json:"agent"`
	Runtime string   `json:"runtime"`
	Image   string   `json:"image"`
	Command []string `json:"command,omitempty"`
	// Gates are the gates, address:port, one in each zone.
	Gates []string `json:"gates"`
	// CA is the certificate of the agents' authority, in PEM.
	CA string `json:"ca,omitempty"`
}

// CloudConfig returns the user data of the machine.
func (m AgentMachine) CloudConfig() CloudConfig {
	return newCloudConfig("/etc/postern/agent.json", m, "postern-agent.service")
}

// ProxyMachine holds the settings of a proxy's machine.
type ProxyMachine struct {
	Stack   string `json:"stack"`
	Region  string `json:"region"`
	Control string `json:"control"` // host:port
	// Token is the name of the secret with the join token, not its value.
	Token ARN `json:"token"`
	// Group is the log group of the events.
	Group     string `json:"group"`
	FleetCA   string `json:"fleet_ca"`
	ReadyPort int    `json:"ready_port"`
}

// CloudConfig returns the user data of the machine.
func (m ProxyMachine) CloudConfig() CloudConfig {
	return newCloudConfig("/etc/postern/node.json", m, "postern-node.service")
}

// ControlAddress returns the address at which nodes find the control plane of that name.
func ControlAddress(host string) string { return hostPort(host, XDSPort) }
