package guardrail

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/postern/postern/graph"
)

// machineTypes are the types whose metadata service answers with a machine's credentials.
var machineTypes = []string{"aws:ec2/launchTemplate", "aws:ec2/instance"}

var computeRails = []Rail{
	{
		ID: "IMD-01", Severity: Error, Says: "A machine's metadata service takes sessions only.",
		Fix:    `write httpTokens: "required"`,
		Others: []string{"CKV_AWS_79"},
		Needs:  []need{{types: machineTypes, path: "metadataOptions.httpTokens", is: []string{"required"}}},
	},
	{
		ID: "IMD-02", Severity: Error, Says: "No container of a machine reaches its metadata service.",
		Fix: "write httpPutResponseHopLimit: 1", Others: []string{"CKV_AWS_341"},
		Needs: []need{{
			types: machineTypes, path: "metadataOptions.httpPutResponseHopLimit", is: []string{"1"}, optional: true,
		}},
	},
	{
		ID: "IMD-03", Severity: Warning, Production: true, Says: "An agent's machine has no metadata service.",
		Fix: `write httpEndpoint: "disabled" (metadata: disabled), with an image that needs no user data`,
		Needs: []need{{
			types: machineTypes, role: agents, path: "metadataOptions.httpEndpoint", is: []string{"disabled"},
		}},
	},
	{
		ID: "IMD-04", Severity: Error, Says: "An agent's machine has no role.", Fix: "remove iamInstanceProfile",
		Against: []string{"CKV2_AWS_41"}, Types: machineTypes,
		Each: func(c *checker, r *graph.Resource) {
			if r.Role == agents && set(r, "iamInstanceProfile") {
				c.fail(r, "iamInstanceProfile", "the agent gets its credentials at 169.254.169.254")
			}
		},
	},
	{
		ID: "IMD-05", Severity: Error, Says: "The metadata service of a proxy's machine does not answer by IPv6.",
		Fix: `write httpProtocolIpv6: "disabled"`,
		Needs: []need{{
			types: machineTypes, role: proxies, path: "metadataOptions.httpProtocolIpv6", is: []string{"disabled"},
			optional: true,
		}},
	},
	{
		ID: "CMP-01", Severity: Error,
		Says:   "A container is unprivileged, with a root file system that it cannot write.",
		Fix:    "write privileged: false, readonlyRootFilesystem: true, enableExecuteCommand: false; no host mode",
		Others: []string{"CKV_AWS_334", "CKV_AWS_335", "CKV_AWS_336", "CKV_AWS_97"},
		Needs: []need{
			{types: []string{"aws:ecs/service"}, path: "enableExecuteCommand", is: []string{"false"}, optional: true},
			{types: []string{"aws:ecs/taskDefinition"}, path: "pidMode", not: []string{"host"}, optional: true},
			{types: []string{"aws:ecs/taskDefinition"}, path: "ipcMode", not: []string{"host"}, optional: true},
			{types: []string{"aws:ecs/taskDefinition"}, path: "networkMode", is: []string{"awsvpc"}},
		},
		Types: []string{"aws:ecs/taskDefinition"},
		Each: func(c *checker, r *graph.Resource) {
			for _, x := range c.containers(r) {
				if x.Privileged {
					c.fail(r, "containerDefinitions", "the container %s is privileged", x.Name)
				}
				if !x.ReadonlyRootFilesystem && r.Role != agents {
					c.fail(r, "containerDefinitions", "the container %s may change its own programs", x.Name)
				}
			}
		},
	},
	{
		ID: "CMP-02", Severity: Error, Says: "A task does not have the role with which it is started.",
		Fix:    "write another taskRoleArn, or none",
		Others: []string{"CKV_AWS_249"}, Types: []string{"aws:ecs/taskDefinition"},
		Each: func(c *checker, r *graph.Resource) {
			for _, a := range c.places.to(r, "taskRoleArn", "aws:iam/role") {
				for _, b := range c.places.to(r, "executionRoleArn", "aws:iam/role") {
					if a == b {
						c.fail(r, "taskRoleArn", "it is %s, with which ECS starts the task", a.Name)
					}
				}
			}
			if v := r.String("taskRoleArn"); v != "" && v == r.String("executionRoleArn") {
				c.fail(r, "taskRoleArn", "it is %s, with which ECS starts the task", v)
			}
		},
	},
	{
		ID: "CMP-03", Severity: Error, Says: "A machine has one network interface.", Fix: "remove the others",
		Types: append([]string{"aws:ec2/networkInterfaceAttachment"}, machineTypes...),
		Each: func(c *checker, r *graph.Resource) {
			if is(r, "aws:ec2/networkInterfaceAttachment") {
				c.fail(r, "", "it gives a machine one more interface")
			}
			if items, ok := r.Inputs["networkInterfaces"].([]any); ok && len(items) > 1 {
				c.fail(r, "networkInterfaces", "there are %d", len(items))
			} else if !ok && r.Inputs["networkInterfaces"] == graph.Unknown {
				c.unknown(r, "networkInterfaces")
			}
		},
	},
	{
		ID: "CMP-04", Severity: Error, Says: "No machine forwards packets of others.", Fix: "write true",
		Needs: []need{{
			types: []string{"aws:ec2/instance", "aws:ec2/networkInterface"}, path: "sourceDestCheck",
			is:       []string{"true"},
			optional: true,
		}},
	},
	{
		ID: "CMP-05", Severity: Error,
		Says: "Nobody logs in to a machine: no key pair, no Instance Connect endpoint, no serial console.",
		Fix:  "remove it",
		Types: append([]string{
			"aws:ec2transitgateway/instanceConnectEndpoint", "aws:ec2/instanceConnectEndpoint",
			"aws:ec2/serialConsoleAccess", "aws:ec2/keyPair",
		}, machineTypes...),
		Each: func(c *checker, r *graph.Resource) {
			switch {
			case is(r, "aws:ec2/serialConsoleAccess"):
				if r.Inputs["enabled"] != false {
					c.fail(r, "enabled", "it opens the console of every machine of the region")
				}
			case set(r, "keyName"):
				c.fail(r, "keyName", "whoever has the key is on the machine")
			case !is(r, machineTypes[0]) && !is(r, machineTypes[1]):
				c.fail(r, "", "a tunnel to a machine is a way out of it")
			}
		},
	},
	{
		ID: "CMP-06", Severity: Warning, Says: "Machines have encrypted disks, and come from launch templates.",
		Fix:    "write encrypted: true, and a launch template instead of a configuration",
		Others: []string{"CKV_AWS_315", "CKV_AWS_8", "CKV_AWS_126"},
		Needs: []need{{
			types: []string{"aws:ec2/launchTemplate"}, path: "blockDeviceMappings.*.ebs.encrypted",
			is: []string{"true"},
		}},
		Types: []string{"aws:ec2/launchConfiguration"},
		Each:  func(c *checker, r *graph.Resource) { c.fail(r, "", "a launch configuration has no versions") },
	},
	{
		ID: "CMP-07", Severity: Warning, Says: "Images are named by digest.", Fix: "name the image by its digest",
		Others: []string{"CKV_AWS_51", "CKV_AWS_163", "CKV_AWS_136"}, Types: []string{"aws:ecs/taskDefinition"},
		Needs: []need{
			{types: []string{"aws:ecr/repository"}, path: "imageTagMutability", is: []string{"IMMUTABLE"}},
			{
				types: []string{"aws:ecr/repository"}, path: "imageScanningConfiguration.scanOnPush",
				is: []string{"true"},
			},
		},
		Each: func(c *checker, r *graph.Resource) {
			for _, x := range c.containers(r) {
				if !strings.Contains(x.Image, "@sha256:") {
					c.fail(r, "containerDefinitions", "who may push to %s decides what %s runs", x.Image, x.Name)
				}
			}
		},
	},
	{
		ID: "SEC-03", Severity: Error, Says: "No secret is in user data or in a task's environment.",
		Fix:    "put it into Secrets Manager, and name it in secrets",
		Others: []string{"CKV_AWS_46"},
		Types: append([]string{
			"aws:ecs/taskDefinition", "aws:lambda/function", "aws:ec2/launchConfiguration",
		}, machineTypes...),
		Each: func(c *checker, r *graph.Resource) {
			for _, property := range []string{
				"userData", "userDataBase64", "containerDefinitions", "environment",
			} {
				v := r.Value(property)
				if unsure(v) {
					c.unknown(r, property)
				}
				text := textOf(v)
				if plain, err := base64.StdEncoding.DecodeString(text); err == nil {
					text = string(plain)
				}
				if found := secretText.FindString(text); found != "" {
					c.fail(r, property, "it has %s..., which looks like a key", found[:4])
				}
			}
		},
	},
}

// secretText finds keys by their prefixes, and by the header of PEM.
var secretText = regexp.MustCompile(`\b(AKIA|ASIA)[A-Z2-7]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|` +
	`\bgithub_pat_[A-Za-z0-9_]{22,}|\bsk-(ant-|proj-)?[A-Za-z0-9_-]{24,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|` +
	`\bAIza[A-Za-z0-9_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----`)

type container struct {
	Name, Image                        string
	Privileged, ReadonlyRootFilesystem bool
	LogConfiguration                   struct{ Options map[string]string }
}

// containers returns the containers of a task. It reports those that are not known.
func (c *checker) containers(r *graph.Resource) []container {
	text, ok := r.Value("containerDefinitions").(string)
	var out []container
	if !ok || json.Unmarshal([]byte(text), &out) != nil {
		c.unknown(r, "containerDefinitions")
	}
	return out
}
