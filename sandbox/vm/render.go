// Package vm renders a sandbox's view as a virtual machine of QEMU, which has no network card.
//
// QEMU is attack surface, so it is not trusted: it runs where the command would run without it, in
// a sandbox of bubblewrap, confined as the command would be. That sandbox has the programs of the
// system, which QEMU needs, and what the view shows, in [wire.ShareView] and [wire.ShareWork]. An
// agent that gets out of the machine is there, and has nothing that it did not have before.
//
// The machine has two kinds of devices besides its processors, its memory and its console: two of
// 9P, for those two folders, and one serial port of virtio, the channel. All else that comes from
// the machine goes through the channel, whose other end leads to the agent's own proxy socket and
// to the command's streams. There is no vsock: see docs/sandbox.md.
package vm

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

const (
	// mostMemory bounds a machine's memory, in bytes.
	mostMemory = 2 << 30
	// overhead is the memory that QEMU may have besides, in bytes.
	overhead = 512 << 20
	// maxThreads bounds the processes and threads around a machine, which are those of QEMU.
	maxThreads = 1024
	// kernelShare is the part of the machine's memory that no folder in memory may take.
	kernelShare = 2
)

// system are the folders and files that QEMU needs of the system.
var system = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives",
}

// Render returns the view of the sandbox around the machine, and the machine. v is what the command
// sees.
func Render(v *view.View, o *Options) (*view.View, *wire.Machine, error) {
	around := *v
	around.Mounts = []view.Mount{{Kind: view.Tmpfs, Target: wire.ShareWork, Mode: 0o755, Size: 1 << 20}}
	memory := min(v.Limits.Memory, mostMemory)
	around.Limits.Memory, around.Limits.Processes = memory+overhead, maxThreads
	m := &wire.Machine{Guest: wire.Guest{
		Hostname: v.Hostname, ReadOnly: v.ReadOnly, Masked: v.Masked, Shared: min(v.Limits.Scratch, memory/kernelShare),
	}}
	for i, mount := range v.Mounts {
		if slices.Contains(system, mount.Target) {
			around.Mounts = append(around.Mounts, mount)
		}
		if strings.HasPrefix(mount.Target, wire.NodesDir+"/") || mount.Target == wire.Inside {
			around.Mounts = append(around.Mounts, mount)
			if mount.Target != wire.Inside {
				continue // the machine reaches them by its channel
			}
		}
		share := filepath.Join(wire.ShareView, strconv.Itoa(i))
		place := wire.Place{Target: wire.Bytes(mount.Target)}
		switch mount.Kind {
		case view.Layer: // goes over the working directory before the machine starts
			around.Mounts = append(around.Mounts, mount)
			for j, p := range m.Guest.Places {
				if p.Share == m.Workdir {
					m.Guest.Places[j].Writable = mount.Writable
				}
			}
			continue
		case view.Symlink:
			place.Link = wire.Bytes(mount.Source)
		case view.Tmpfs:
			place.Mode, place.Size, place.NoExec = mount.Mode, min(mount.Size, memory/kernelShare), mount.NoExec
		case view.Bind, view.File, view.Cover:
			if mount.Kind == view.Cover {
				mount.Kind = view.File // here it covers nothing
			}
			workdir := mount.Kind == view.Bind && mount.Target == v.Workdir.Path
			if workdir || mount.Writable {
				share = filepath.Join(wire.ShareWork, strconv.Itoa(i))
			}
			if workdir {
				m.Workdir = wire.Bytes(share)
			}
			place.Share, place.Writable = wire.Bytes(share), mount.Writable
			mount.Target = share
			around.Mounts = append(around.Mounts, mount)
		default:
			return nil, nil, fmt.Errorf("make virtual machine: it cannot have a %s at %s", mount.Kind, mount.Target)
		}
		m.Guest.Places = append(m.Guest.Places, place)
	}
	around.Mounts = append(
		around.Mounts, view.Mount{Kind: view.Bind, Source: o.Kernel, Target: wire.Kernel},
		view.Mount{Kind: view.File, Target: wire.Initramfs, Content: o.Initramfs})
	if o.KVM {
		around.Mounts = append(around.Mounts, view.Mount{Kind: view.Device, Source: kvmDevice, Target: kvmDevice})
	}
	m.Argv = wire.Raw(o.line(memory>>20, v.Limits.Processors, wire.Kernel, wire.Initramfs, "",
		"-chardev", "socket,id=channel,fd=0", "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=channel,name=postern",
		"-fsdev", "local,id=view,path="+wire.ShareView+",security_model=none,multidevs=remap,readonly=on",
		"-device", "virtio-9p-pci,fsdev=view,mount_tag="+filepath.Base(wire.ShareView),
		"-fsdev", "local,id=work,path="+wire.ShareWork+",security_model=none,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=work,mount_tag="+filepath.Base(wire.ShareWork)))
	return &around, m, nil
}

// line returns the command line of QEMU for a machine with nothing but processors, memory in MiB, a
// clock and a console, which is the standard output, and the devices.
func (o *Options) line(memory, processors uint64, kernel, initramfs, extra string, devices ...string) []string {
	accelerator, cpu := "tcg,thread=multi,tb-size=128", "max"
	if o.KVM {
		accelerator, cpu = "kvm", "host"
	}
	// The machine type without what can be left out. The smaller "microvm" has no timer by which an
	// ordinary kernel starts without KVM.
	return append([]string{
		o.QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", "q35,sata=off,smbus=off,usb=off,graphics=off,vmport=off", "-accel", accelerator, "-cpu", cpu,
		"-smp", strconv.FormatUint(max(processors/1000, 1), 10), "-m", strconv.FormatUint(memory, 10) + "M",
		"-kernel", kernel, "-initrd", initramfs,
		"-append", strings.TrimSpace("console=ttyS0 quiet loglevel=3 panic=-1 " + extra),
		"-chardev", "file,id=console,path=/dev/stdout", "-serial", "chardev:console",
	}, devices...)
}
