// Package cloud holds the compiled cloud settings of a stack file: sizes, places and addresses.
// Nothing in it decides about a request; package plan does. It is pure data with the arithmetic of
// addresses.
package cloud

import (
	"net/netip"
	"strings"
)

// AWS is the `aws` section of a stack file with `target: aws`, with every
// default filled in. The loader has checked it: see package stacks.
type AWS struct {
	// Account is the account that the stack may be in: 12 digits.
	Account string `json:"account"`
	// Region is a name such as eu-west-1.
	Region string `json:"region"`
	// State is the URL of the Pulumi backend that has the stack's state, or "" for the backend of
	// whoever runs Pulumi.
	State string `json:"state,omitempty"`
	// Mode is ModeIsolated or ModeShared.
	Mode string `json:"mode"`
	// Zones are names of availability zones, such as eu-west-1a: one to six, in
	// the order of the file. A zone's letter, a to f, decides its addresses.
	Zones []string `json:"zones"`
	// AgentsCIDR and EgressCIDR are the address ranges of the two networks. In ModeShared they are
	// the halves of the one network, VPC.
	AgentsCIDR netip.Prefix `json:"agents_cidr"`
	EgressCIDR netip.Prefix `json:"egress_cidr"`
	// VPC is the whole range in ModeShared; the zero value in ModeIsolated.
	VPC netip.Prefix `json:"vpc,omitzero"`
	// NATPerZone gives every zone its own NAT gateway; otherwise there is one.
	NATPerZone bool `json:"nat_per_zone"`
	// Image has posternd and Envoy, by digest.
	Image string `json:"image"`
	// CA and FleetCA are certificates in PEM: of the authority that agents trust, and of the
	// authority that proxies and control plane trust.
	CA      string `json:"ca,omitempty"`
	FleetCA string `json:"fleet_ca,omitempty"`
	// Operators are the public keys, in PEM, of the operators who may publish.
	Operators string `json:"operators,omitempty"`

	// Agents are sorted by name: exactly the agents of the plan.
	Agents  []Agent `json:"agents"`
	Proxies Proxies `json:"proxies"`
	Control Control `json:"control"`
	Audit   Audit   `json:"audit"`
	// Singletons lets the stack own settings of the whole account and region
	// that other stacks share: VPC Block Public Access.
	Singletons bool `json:"singletons,omitempty"`
	// Protect refuses that load balancer, authority and audit log are deleted.
	Protect bool `json:"protect"`
	// Tags are put on every resource, in addition to Postern's own tags.
	Tags map[string]string `json:"tags,omitempty"`
}

// The modes of the network.
const (
	// ModeIsolated has two VPCs, joined by PrivateLink only.
	ModeIsolated = "isolated"
	// ModeShared has one VPC with tiers.
	ModeShared = "shared"
)

// The ways to run a container.
const (
	ComputeFargate = "fargate"
	ComputeEC2     = "ec2"
	// ComputeElsewhere is for agents that a program of its own starts, with the agent's security
	// group. No stack file has it.
	ComputeElsewhere = "elsewhere"
)

// The settings of the instance metadata service of an agent's machine.
const (
	// MetadataDisabled needs a machine image that has the agent's settings in
	// it, since user data comes from the metadata service.
	MetadataDisabled = "disabled"
	// MetadataV2 admits sessions (IMDSv2) from the machine itself, hop limit 1.
	MetadataV2 = "v2"
)

// Agent says where the machines of one agent run, and what they run.
type Agent struct {
	Name string `json:"name"`
	// Port is the agent's port at the proxies, 10000 to 19999, unique in the stack. The port is the
	// agent's identity: only the agent's security group reaches it.
	Port uint16 `json:"port"`
	// Compute is ComputeEC2, ComputeFargate, or ComputeElsewhere, for which
	// only Name and Port count.
	Compute string `json:"compute"`
	// Runtime runs the container on ComputeEC2: container, gvisor or vm.
	Runtime string `json:"runtime,omitempty"`
	// Image is named by digest. Command runs in it; if empty, the image's own command does.
	Image   string   `json:"image"`
	Command []string `json:"command,omitempty"`
	// Count is the number of machines or tasks. It may be 0.
	Count int `json:"count"`
	// AMI, Instance (its type), Disk (GiB) and Metadata apply to ComputeEC2.
	AMI      string `json:"ami,omitempty"`
	Instance string `json:"instance,omitempty"`
	Disk     int    `json:"disk,omitempty"`
	Metadata string `json:"metadata,omitempty"`
	// CPU (1024 is one processor) and Memory (MiB) apply to ComputeFargate.
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
}

// Proxies are the fleet of Envoys.
type Proxies struct {
	// Compute is ComputeFargate or ComputeEC2.
	Compute string `json:"compute"`
	Min     int    `json:"min"`
	Max     int    `json:"max"`
	// CPU (1024 is one processor) and Memory (MiB) apply to ComputeFargate.
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
	// AMI and Instance (its type) apply to ComputeEC2.
	AMI      string `json:"ami,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// Control is the control plane, always on Fargate.
type Control struct {
	Replicas int `json:"replicas"`
	// CPU (1024 is one processor) and Memory (MiB) are the size of one task.
	CPU    int `json:"cpu"`
	Memory int `json:"memory"`
}

// Audit says how long the log is kept.
type Audit struct {
	// Retention is the number of days in CloudWatch Logs. CloudWatch accepts certain numbers only.
	Retention int `json:"retention"`
	// Lock is the number of days in the locked bucket, in compliance mode: nobody, not even the
	// account's root, can delete an object earlier. 0 means not locked.
	Lock int `json:"lock"`
	// Expire is the number of days after which objects are removed from the bucket. It is never
	// less than Lock.
	Expire int `json:"expire"`
	// Email gets the alarms. It may be "".
	Email string `json:"email,omitempty"`
}

// FargateAgents reports whether any agent runs on Fargate. Fargate then needs DNS and endpoints in
// the agents' network.
func (a *AWS) FargateAgents() bool {
	for _, agent := range a.Agents {
		if agent.Compute == ComputeFargate {
			return true
		}
	}
	return false
}

const (
	// FirstPort and LastPort bound the ports of agents at the proxies.
	FirstPort = 10000
	LastPort  = 19999
	// XDSPort is the control plane's port for nodes.
	XDSPort = 18000
	// ReadyPort is the port at which a node says whether it serves its first whole
	// configuration, and shows its metrics.
	ReadyPort = 18080
)

// AgentPort reports whether an agent may have the port at the proxies. The ports of the proxies and
// of the control plane themselves are nobody's identity.
func AgentPort(port uint16) bool {
	return port >= FirstPort && port <= LastPort && port != XDSPort && port != ReadyPort
}

// Registry returns the host of the container registry of the account and region.
func (a *AWS) Registry() string { return a.Account + ".dkr.ecr." + a.Region + ".amazonaws.com" }

// Partition returns the first part of every ARN in the region.
func (a *AWS) Partition() string {
	if strings.HasPrefix(a.Region, "us-gov-") {
		return "aws-us-gov"
	}
	return "aws"
}
