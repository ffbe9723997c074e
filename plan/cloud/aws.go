// Package cloud is the compiled form of what a stack file says about the cloud
// that its stack runs in: sizes, places and addresses, nothing that decides
// about a request (that is package plan). It is pure data with the arithmetic
// of addresses, and imports the standard library only.
package cloud

import (
	"net/netip"
	"strings"
)

// AWS is the `aws` section of a stack file with `target: aws`, with every
// default filled in. The loader has checked it: see package stacks.
type AWS struct {
	// Account is the 12 digits of the account that the stack may be in.
	Account string `json:"account"`
	// Region such as eu-west-1.
	Region string `json:"region"`
	// Mode is ModeIsolated or ModeShared.
	Mode string `json:"mode"`
	// Zones are names of availability zones, such as eu-west-1a: one to six, in
	// the order of the file. A zone's place decides its addresses.
	Zones []string `json:"zones"`
	// Agents' and Egress are the address ranges of the two networks. In
	// ModeShared they are the halves of the one network, VPC.
	AgentsCIDR netip.Prefix `json:"agents_cidr"`
	EgressCIDR netip.Prefix `json:"egress_cidr"`
	// VPC is the whole range in ModeShared; the zero value in ModeIsolated.
	VPC netip.Prefix `json:"vpc,omitzero"`
	// NATPerZone gives every zone its own NAT gateway; otherwise there is one.
	NATPerZone bool `json:"nat_per_zone"`
	// Image has posternd and Envoy, by digest.
	Image string `json:"image"`
	// CA and FleetCA are certificates in PEM: the authority that agents trust,
	// and the one that proxies and control plane trust.
	CA      string `json:"ca,omitempty"`
	FleetCA string `json:"fleet_ca,omitempty"`
	// Operators are the public keys, PEM, of those who may publish.
	Operators string `json:"operators,omitempty"`

	// Agents are sorted by name: all agents of the plan, and no other.
	Agents  []Agent `json:"agents"`
	Proxies Proxies `json:"proxies"`
	Control Control `json:"control"`
	Audit   Audit   `json:"audit"`
	// Singletons lets the stack own settings of the whole account and region
	// that other stacks share: VPC Block Public Access.
	Singletons bool `json:"singletons,omitempty"`
	// Protect refuses that load balancer, authority and audit log are deleted.
	Protect bool `json:"protect"`
	// Tags are put on every resource, beside Postern's own.
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
)

// The settings of the instance metadata service of an agent's machine.
const (
	// MetadataDisabled needs a machine image that has the agent's settings in
	// it, since user data comes from the metadata service.
	MetadataDisabled = "disabled"
	// MetadataV2 admits sessions (IMDSv2) from the machine itself, hop limit 1.
	MetadataV2 = "v2"
)

// Agent is where the machines of one agent run, and what they run.
type Agent struct {
	Name string `json:"name"`
	// Port at the proxies is the agent's identity: only its security group
	// reaches it. 10000 to 19999, unique in the stack.
	Port uint16 `json:"port"`
	// Compute is ComputeEC2 or ComputeFargate.
	Compute string `json:"compute"`
	// Runtime that the container runs under on ComputeEC2: container, gvisor or vm.
	Runtime string `json:"runtime,omitempty"`
	// Image by digest, and the command in it (none: the image's own).
	Image   string   `json:"image"`
	Command []string `json:"command,omitempty"`
	// Count of machines or tasks; may be 0.
	Count int `json:"count"`
	// AMI, Instance (its type), Disk (GiB) and Metadata are of ComputeEC2.
	AMI      string `json:"ami,omitempty"`
	Instance string `json:"instance,omitempty"`
	Disk     int    `json:"disk,omitempty"`
	Metadata string `json:"metadata,omitempty"`
	// CPU (1024 is one) and Memory (MiB) are of ComputeFargate.
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
}

// Proxies are the fleet of Envoys.
type Proxies struct {
	// Compute is ComputeFargate or ComputeEC2.
	Compute string `json:"compute"`
	Min     int    `json:"min"`
	Max     int    `json:"max"`
	// CPU (1024 is one) and Memory (MiB) are of ComputeFargate.
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
	// AMI and Instance (its type) are of ComputeEC2.
	AMI      string `json:"ami,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// Control is the control plane, always on Fargate.
type Control struct {
	Replicas int `json:"replicas"`
	// CPU (1024 is one) and Memory in MiB.
	CPU    int `json:"cpu"`
	Memory int `json:"memory"`
}

// Audit is how long the log is kept.
type Audit struct {
	// Retention is days in CloudWatch Logs, one of the values that it has.
	Retention int `json:"retention"`
	// Lock is days in the locked bucket, in compliance mode: nobody, not even
	// the account's root, can delete an object earlier. 0 means not locked.
	Lock int `json:"lock"`
	// Expire is days after which objects are removed from the bucket; never
	// less than Lock.
	Expire int `json:"expire"`
	// Email gets the alarms, or "".
	Email string `json:"email,omitempty"`
}

// FargateAgents reports whether some agent runs on Fargate: its platform then
// needs DNS and endpoints in the agents' network.
func (a *AWS) FargateAgents() bool {
	for _, agent := range a.Agents {
		if agent.Compute == ComputeFargate {
			return true
		}
	}
	return false
}

// FirstPort and LastPort bound the ports of agents at the proxies.
const (
	FirstPort = 10000
	LastPort  = 19999
)

// Registry is the container registry of the account and region.
func (a *AWS) Registry() string { return a.Account + ".dkr.ecr." + a.Region + ".amazonaws.com" }

// Partition is the first part of every ARN in the region.
func (a *AWS) Partition() string {
	if strings.HasPrefix(a.Region, "us-gov-") {
		return "aws-us-gov"
	}
	return "aws"
}
