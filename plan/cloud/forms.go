package cloud

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// The forms of names in AWS, for those who read settings and for [AWS.Validate].
var (
	IsAccount = plan.Matching(`^[0-9]{12}$`)
	IsRegion  = plan.Matching(`^(af|ap|ca|eu|il|me|mx|sa|us|us-gov)-(central|north|south|east|west|northeast|northwest|southeast|southwest)-[1-9]$`)
	// IsImage admits images by digest only: a tag can be moved.
	IsImage    = plan.Matching(`^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$`)
	IsAMI      = plan.Matching(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)
	IsInstance = plan.Matching(`^[a-z][a-z0-9-]*\.(nano|micro|small|medium|large|[0-9]*xlarge|metal(-[0-9]+xl)?)$`)
	IsEmail    = plan.Matching(`^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+$`)
	// IsStack admits names that fit into the names of roles and log groups.
	IsStack = plan.Matching(`^[a-z][a-z0-9-]{0,31}$`)
	isTag   = plan.Matching(`^[A-Za-z0-9_.:/=+@ -]{1,128}$`)
)

// IsTag reports whether a person may put a tag of this name on resources in AWS.
func IsTag(name string) bool { return isTag(name) && !strings.HasPrefix(strings.ToLower(name), "aws:") }

// OwnTag reports whether a tag of this name is Postern's own.
func OwnTag(name string) bool {
	return name == "Name" || strings.HasPrefix(strings.ToLower(name), "postern:")
}

// MaxTag is the length of a tag's longest value, in bytes.
const MaxTag = 256

// LogDays are the retentions of CloudWatch Logs, sorted (CloudWatch Logs API, PutRetentionPolicy).
var LogDays = []int{
	1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731,
	1096, 1827, 2192, 2557, 2922, 3288, 3653,
}

// FargateSizes are the MiB of memory that Fargate has with so much CPU (1024 is
// one processor): from, to, step.
var FargateSizes = map[int][3]int{
	256: {512, 2048, 512}, 512: {1024, 4096, 1024}, 1024: {2048, 8192, 1024}, 2048: {4096, 16384, 1024},
	4096: {8192, 30720, 1024}, 8192: {16384, 61440, 4096}, 16384: {32768, 122880, 8192},
}

// fargate reports whether Fargate has the size.
func fargate(cpu, memory int) bool {
	s, ok := FargateSizes[cpu]
	return ok && memory >= s[0] && memory <= s[1] && memory%s[2] == 0
}

// The limits of a stack.
const (
	// MaxAgents is less than the number of rules that a security group can have.
	MaxAgents = 50
	// MaxTargets is the most targets that a load balancer across zones has. Every
	// proxy is a target of every agent.
	MaxTargets = 500
	// MaxFargatePorts is the most target groups that a service on ECS can
	// have, and each agent has one.
	MaxFargatePorts = 5
	// MaxCount is the most machines or tasks of an agent.
	MaxCount = 1000
	// MinDisk and MaxDisk are the sizes of a machine's disk, in GiB.
	MinDisk, MaxDisk = 8, 16384
	// MaxReplicas is the most replicas of the control plane.
	MaxReplicas = 6
	// MaxLeast and MaxProxies are the most proxies that there must be, and that there may be.
	MaxLeast, MaxProxies = 100, 200
)

// Runtimes are the ways in which a machine runs an agent's container.
var Runtimes = []string{"container", "gvisor", "vm"}

// notInAWS are sources of secrets that the control plane does not have, or may not use, in AWS.
var notInAWS = []string{plan.SourceEnv, plan.SourceFile, plan.SourceExec, plan.SourceAWSParamStore}

// ReadsSecretsOf reports whether the control plane in AWS reads secrets of the source.
func ReadsSecretsOf(source string) bool { return !slices.Contains(notInAWS, source) }
