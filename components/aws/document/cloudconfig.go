package document

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
)

// CloudConfig is the user data of a machine (cloud-init, "cloud-config"). It
// installs nothing, fetches nothing, makes no user: all of that is in the
// machine image. It has no secret, since everything on the machine can read it.
type CloudConfig struct {
	Users          []string   `yaml:"users"`
	DisableRoot    bool       `yaml:"disable_root"`
	SSHPasswords   bool       `yaml:"ssh_pwauth"`
	PackageUpdate  bool       `yaml:"package_update"`
	PackageUpgrade bool       `yaml:"package_upgrade"`
	WriteFiles     []File     `yaml:"write_files"`
	RunCommands    [][]string `yaml:"runcmd"`
}

// File is written when the machine boots for the first time.
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

// Text is the cloud-config as YAML, with the line that says what it is.
func (c CloudConfig) Text() string {
	b, err := yaml.MarshalWithOptions(c, yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		panic(fmt.Sprintf("document: %v", err))
	}
	return "#cloud-config\n" + string(b)
}

// Base64 is Text as launch templates have it.
func (c CloudConfig) Base64() string { return base64.StdEncoding.EncodeToString([]byte(c.Text())) }

// AgentMachine is what the machine of an agent has to know. Where the metadata
// service is off, it is a part of the machine image instead.
type AgentMachine struct {
	Stack   string   `json:"stack"`
	Agent   string   `json:"agent"`
	Runtime string   `json:"runtime"`
	Image   string   `json:"image"`
	Command []string `json:"command,omitempty"`
	// Gates are where the proxies are, address:port, that of each zone.
	Gates []string `json:"gates"`
	// CA is the certificate, PEM, of the authority that the agent trusts.
	CA string `json:"ca,omitempty"`
}

// CloudConfig of the machine.
func (m AgentMachine) CloudConfig() CloudConfig {
	return newCloudConfig("/etc/postern/agent.json", m, "postern-agent.service")
}

// ProxyMachine is what the machine of a proxy has to know.
type ProxyMachine struct {
	Stack   string `json:"stack"`
	Region  string `json:"region"`
	Control string `json:"control"` // host:port
	// Token is the secret with the join token, not its value.
	Token ARN `json:"token"`
	// Group is the log group of the events.
	Group     string `json:"group"`
	FleetCA   string `json:"fleet_ca"`
	ReadyPort int    `json:"ready_port"`
}

// CloudConfig of the machine.
func (m ProxyMachine) CloudConfig() CloudConfig {
	return newCloudConfig("/etc/postern/node.json", m, "postern-node.service")
}

// ControlAddress is where nodes find the control plane of that name.
func ControlAddress(host string) string { return hostPort(host, XDSPort) }
