package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/bubblewrap"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/vm"
)

// NoNetwork says what keeps a command under the runtime off every network: it reads that from the
// very command line that would start it. It returns an error if nothing there does.
func NoNetwork(r plan.Runtime) (string, error) {
	v := &view.View{Agent: "agent", Hostname: "agent"}
	switch r {
	case plan.RuntimeVM:
		around, machine, err := vm.Render(v, &vm.Options{})
		if err != nil {
			return "", err
		}
		for _, word := range machine.Argv {
			for _, card := range []string{"-nic", "-net", "net,", "virtio-net"} {
				if strings.Contains(string(word), card) {
					return "", fmt.Errorf("the virtual machine would have a network card: %s", word)
				}
			}
		}
		if _, err := noNetwork(around); err != nil {
			return "", err
		}
		return "a virtual machine without a network card, and no network around it", nil
	case plan.RuntimeContainer, plan.RuntimeGVisor:
		return noNetworkInContainer(v)
	case plan.RuntimeBubblewrap:
		return noNetwork(v)
	}
	return "", fmt.Errorf("nobody knows the runtime %q", r)
}

func noNetwork(v *view.View) (string, error) {
	args, _ := bubblewrap.Render(v, 3)
	if !slices.Contains(args, "--unshare-all") || slices.Contains(args, "--share-net") {
		return "", fmt.Errorf("bubblewrap would share the network of this machine: %v", args)
	}
	return "a network namespace with loopback only", nil
}

func noNetworkInContainer(v *view.View) (how string, err error) {
	folder, err := os.MkdirTemp("", "postern-prove-")
	if err != nil {
		return "", fmt.Errorf("look at a container's command line: %w", err)
	}
	defer os.RemoveAll(folder)
	line, err := container.Line(v, &container.Options{Image: "image", Folder: filepath.Clean(folder)}, nil)
	if err != nil {
		return "", fmt.Errorf("look at a container's command line: %w", err)
	}
	i := slices.Index(line, "--network")
	if i < 0 || i+1 >= len(line) || line[i+1] != "none" {
		return "", fmt.Errorf("the container would have a network: %v", line)
	}
	return "a container without a network (--network none)", nil
}
