package sandbox

import (
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// profile is a filter of system calls as Docker and Podman take it: what it does not allow fails.
type profile struct {
	DefaultAction string        `json:"defaultAction"`
	Architectures []string      `json:"architectures"`
	Syscalls      []profileRule `json:"syscalls"`
}

type profileRule struct {
	Names  []string       `json:"names"`
	Action string         `json:"action"`
	Args   []profileCheck `json:"args,omitempty"`
}

// profileCheck holds if the argument, masked with Value, is ValueTwo.
type profileCheck struct {
	Index    int    `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// containerProfile is the filter of everything in a container: of our first processes, and of what
// somebody starts with `docker exec`. The command has its own filter besides, which is stricter:
// see [filter]. In four places this one is wider than Docker's default, for our first process: that
// makes a user namespace with a network and a mount namespace in it, closes the devices in there,
// makes the command's user namespace, and takes up the command's connects.
func containerProfile() ([]byte, error) {
	const allow = "SCMP_ACT_ALLOW"
	p := profile{
		DefaultAction: "SCMP_ACT_ERRNO", // EPERM
		Architectures: []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"},
	}
	plain := slices.Concat(allowedCalls, []string{"connect", "pidfd_getfd", "mount_setattr"})
	p.Syscalls = append(p.Syscalls, profileRule{Names: plain, Action: allow})
	for _, c := range checkedCalls {
		if c.otherwise == retAllow { // what it denies, a profile cannot say: the command's filter denies it
			p.Syscalls = append(p.Syscalls, profileRule{Names: c.names, Action: allow})
			continue
		}
		for _, o := range append(slices.Clone(c.outcomes), firstProcess(c.names)...) {
			if o.do != retAllow {
				continue
			}
			rule := profileRule{Names: c.names, Action: allow}
			for _, check := range o.when {
				rule.Args = append(rule.Args, profileCheck{
					Index: check.arg, Op: "SCMP_CMP_MASKED_EQ",
					Value: uint64(check.mask), ValueTwo: uint64(check.value),
				})
			}
			p.Syscalls = append(p.Syscalls, rule)
		}
	}
	encoded, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("make system call filter: %w", err)
	}
	return encoded, nil
}

// firstProcess are the outcomes of a call that our first process needs and the command does not
// get.
func firstProcess(names []string) []outcome {
	switch {
	case slices.Contains(names, "clone"):
		const network = unix.CLONE_NEWUSER | unix.CLONE_NEWNET
		return isOneOf(retAllow, 0, newNamespaces,
			network|unix.CLONE_NEWNS, network, unix.CLONE_NEWUSER|unix.CLONE_NEWCGROUP)
	case slices.Contains(names, "socket"): // the list of Unix sockets
		return []outcome{{when: []check{
			{arg: 0, mask: whole, value: unix.AF_NETLINK}, {arg: 2, mask: whole, value: unix.NETLINK_SOCK_DIAG},
		}, do: retAllow}}
	}
	return nil
}
