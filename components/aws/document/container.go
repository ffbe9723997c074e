package document

import (
	"strconv"
	"strings"

	"github.com/postern/postern/plan/cloud"
)

// Container is a container definition of ECS (Amazon ECS API Reference, ContainerDefinition), with
// the elements that are used here.
type Container struct {
	Name                   string          `json:"name"`
	Image                  string          `json:"image"`
	Essential              bool            `json:"essential"`
	Command                []string        `json:"command,omitempty"`
	User                   string          `json:"user"`
	Privileged             bool            `json:"privileged"`
	ReadonlyRootFilesystem bool            `json:"readonlyRootFilesystem"`
	LinuxParameters        LinuxParameters `json:"linuxParameters"`
	Environment            []Variable      `json:"environment,omitempty"`
	Secrets                []SecretValue   `json:"secrets,omitempty"`
	PortMappings           []PortMapping   `json:"portMappings,omitempty"`
	MountPoints            []MountPoint    `json:"mountPoints,omitempty"`
	Ulimits                []Ulimit        `json:"ulimits,omitempty"`
	StopTimeout            int             `json:"stopTimeout,omitempty"` // seconds
	HealthCheck            *HealthCheck    `json:"healthCheck,omitempty"`
	LogConfiguration       Logs            `json:"logConfiguration"`
}

// LinuxParameters are the Linux parameters of a container.
type LinuxParameters struct {
	Capabilities       Capabilities `json:"capabilities"`
	InitProcessEnabled bool         `json:"initProcessEnabled"`
}

// Capabilities are the capabilities that a container loses.
type Capabilities struct {
	Drop []string `json:"drop"`
}

// Variable is an environment variable.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// SecretValue is a variable whose value the platform reads when the task starts.
type SecretValue struct {
	Name      string `json:"name"`
	ValueFrom ARN    `json:"valueFrom"`
}

// PortMapping is a port that the task serves.
type PortMapping struct {
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// MountPoint is a writable folder of the task.
type MountPoint struct {
	SourceVolume  string `json:"sourceVolume"`
	ContainerPath string `json:"containerPath"`
	ReadOnly      bool   `json:"readOnly"`
}

// Ulimit is a limit of the process.
type Ulimit struct {
	Name      string `json:"name"`
	SoftLimit int    `json:"softLimit"`
	HardLimit int    `json:"hardLimit"`
}

// HealthCheck is a command in the container. The platform replaces a task whose command fails too
// often.
type HealthCheck struct {
	Command     []string `json:"command"`
	Interval    int      `json:"interval"` // seconds
	Timeout     int      `json:"timeout"`
	Retries     int      `json:"retries"`
	StartPeriod int      `json:"startPeriod"`
}

// Logs says where standard output and standard error go.
type Logs struct {
	LogDriver string     `json:"logDriver"`
	Options   LogOptions `json:"options"`
}

// LogOptions are the options of the driver awslogs.
type LogOptions struct {
	Group  string `json:"awslogs-group"`
	Region string `json:"awslogs-region"`
	Prefix string `json:"awslogs-stream-prefix"`
	// Mode is "blocking": it stops the process rather than lose one of its events.
	Mode string `json:"mode"`
}

// The volumes of every task.
const (
	VolumeState = "state"
	VolumeTmp   = "tmp"
)

// StateDir is the mount point of VolumeState.
const StateDir = "/var/lib/postern"

// WorkDir is the workspace of an agent, on Fargate as on a machine.
const WorkDir = "/work"

// nobody is the user of the images (distroless "nonroot").
const nobody = "65532"

// Hardened returns a container that can only compute, write to its two volumes and use the network.
func Hardened(p Place, name, image, group string) Container {
	return Container{
		Name: name, Image: image, Essential: true, User: nobody, ReadonlyRootFilesystem: true,
		LinuxParameters: LinuxParameters{Capabilities: Capabilities{Drop: []string{"ALL"}}, InitProcessEnabled: true},
		MountPoints:     []MountPoint{{SourceVolume: VolumeState, ContainerPath: StateDir}, {SourceVolume: VolumeTmp, ContainerPath: "/tmp"}},
		LogConfiguration: Logs{LogDriver: "awslogs", Options: LogOptions{
			Group: group, Region: p.Region, Prefix: name, Mode: "blocking",
		}},
	}
}

// Text returns the definition of a task with this one container, as JSON.
func (c Container) Text() string { return text([]Container{c}) }

// Ports makes the container serve them.
func (c *Container) ports(ports ...uint16) {
	for _, p := range ports {
		c.PortMappings = append(c.PortMappings, PortMapping{ContainerPort: p, Protocol: "tcp"})
	}
}

const (
	// XDSPort is the control plane's port for nodes.
	XDSPort = cloud.XDSPort
	// ReadyPort is the port at which a node says whether it serves its first whole configuration.
	ReadyPort = cloud.ReadyPort
)

// Proxy is the task of a proxy.
type Proxy struct {
	Place   Place
	Stack   string
	Image   string
	Group   string
	Ports   []uint16
	Control string // host name
	FleetCA string // PEM
	Token   ARN    // the secret with the join token
}

// Container returns the container of the task.
func (x Proxy) Container() Container {
	c := Hardened(x.Place, "proxy", x.Image, x.Group)
	c.Command = []string{
		"node", "--control", hostPort(x.Control, XDSPort), "--stack", x.Stack, "--id", "fargate", "--dir", StateDir,
		"--fleet-ca", "env://POSTERN_FLEET_CA", "--join-token-file", "env://POSTERN_JOIN_TOKEN", "--envoy", "/usr/local/bin/envoy",
		"--audit-stdout", "--metrics-listen", hostPort("0.0.0.0", ReadyPort),
	}
	c.Environment = []Variable{{"POSTERN_FLEET_CA", x.FleetCA}}
	c.Secrets = []SecretValue{{"POSTERN_JOIN_TOKEN", x.Token}}
	c.ports(append(append([]uint16{}, x.Ports...), ReadyPort)...)
	// Every connection of an agent is two; Fargate's own limit is 65535.
	c.Ulimits = []Ulimit{{Name: "nofile", SoftLimit: 65535, HardLimit: 65535}}
	c.StopTimeout = 120 // the most that Fargate waits: tunnels drain
	return c
}

// Controller is the task of the control plane.
type Controller struct {
	Place                     Place
	Stack                     string
	Image                     string
	Group                     string
	Store                     string // URL of the bundles
	CA, FleetCA, Operators    string // PEM
	CAKey, FleetCAKey, Tokens ARN    // secrets
}

// Container returns the container of the task.
func (x Controller) Container() Container {
	c := Hardened(x.Place, "control", x.Image, x.Group)
	home := StateDir + "/" + x.Stack
	// CMD, not CMD-SHELL, because the image has no shell.
	c.HealthCheck = &HealthCheck{Command: []string{"CMD", "/usr/local/bin/posternd", "health", "--home", home}, Interval: 15, Timeout: 5, Retries: 3, StartPeriod: 60}
	c.Command = []string{
		"control", "--home", home, "--from-environment", "--audit-stdout", "--xds-listen", hostPort("0.0.0.0", XDSPort),
		"--fleet-ca", "env://POSTERN_FLEET_CA", "--fleet-ca-key", "env://POSTERN_FLEET_CA_KEY", "--join-tokens", "env://POSTERN_JOIN_TOKENS", "--stack", x.Stack,
	}
	c.Environment = []Variable{{"POSTERN_CA", x.CA}, {"POSTERN_FLEET_CA", x.FleetCA}, {"POSTERN_OPERATORS", x.Operators}, {"POSTERN_STORE", x.Store}}
	c.Secrets = []SecretValue{{"POSTERN_CA_KEY", x.CAKey}, {"POSTERN_FLEET_CA_KEY", x.FleetCAKey}, {"POSTERN_JOIN_TOKENS", x.Tokens}}
	c.ports(XDSPort)
	c.StopTimeout = 30
	return c
}

// Task is an agent on Fargate.
type Task struct {
	Place   Place
	Name    string
	Image   string
	Command []string
	Group   string
	Gate    string // URL of the proxies
	CA      string // PEM of the authority that it trusts
}

// Container returns the container of the task.
func (x Task) Container() Container {
	c := Hardened(x.Place, x.Name, x.Image, x.Group)
	c.MountPoints[0].ContainerPath = WorkDir
	c.Command = x.Command
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"} {
		c.Environment = append(c.Environment, Variable{name, x.Gate})
	}
	// The certificate itself, because nothing could write it into a file.
	c.Environment = append(c.Environment, Variable{"NODE_USE_ENV_PROXY", "1"}, Variable{"POSTERN_CA", x.CA})
	c.StopTimeout = 30
	return c
}

func hostPort(host string, port int) string {
	return strings.Join([]string{host, strconv.Itoa(port)}, ":")
}
