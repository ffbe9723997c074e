package view

import (
	"fmt"

	"github.com/postern/postern/sandbox/wire"
)

// Mode says what the command has of the working directory. The zero value is not a valid mode.
type Mode string

// The modes, which are also those of a stack file.
const (
	// Write is the folder itself.
	Write Mode = "write"
	// ReadOnly is the folder, which the command cannot change.
	ReadOnly Mode = "read-only"
	// Overlay is the folder with a layer over it, which takes what the command writes.
	Overlay Mode = "overlay"
	// Ephemeral is an empty folder in memory, at [wire.Ephemeral]. Nothing of the host is in it.
	Ephemeral Mode = "tmpfs"
	// Volume is a folder that the agent keeps, at [wire.Ephemeral]. Nothing of the host is in it.
	Volume Mode = "volume"
)

// Workspace is what the command has of its working directory.
type Workspace struct {
	Mode Mode
	// Layers is the real path of a folder of the host that has the folders of [wire.Upper],
	// [wire.Work] and [wire.Hidden], for [Overlay] and, if something is hidden, for [ReadOnly]. No
	// other sandbox may see it.
	Layers string
	// Protected are paths in the folder, which exist, that the command cannot change, for [Write].
	Protected []string
	// Volume is the real path of the folder that the agent keeps, for [Volume]: nobody but the caller
	// may write the folder that it is in.
	Volume string
	// Size bounds what is in memory, in bytes, for [Ephemeral]. 0 means the limit of scratch
	// folders.
	Size uint64
}

// hasFolder reports whether the command sees the working directory of the host.
func (m Mode) hasFolder() bool { return m != Ephemeral && m != Volume }

// Repository is git's folder of the working directory, which is elsewhere.
type Repository struct {
	// Path is the path that .git in the working directory names.
	Path string
	// Folders are shown, and cannot be written.
	Folders []GitFolder
	// Above is true if .git is in a folder above the working directory.
	Above bool
}

// GitFolder is a folder of git's.
type GitFolder struct {
	// Path is real. Device and Inode identify the folder that was checked.
	Path          string
	Device, Inode uint64
}

// repository shows git's folder.
func (b *builder) repository() error {
	r := b.in.Repository
	if r == nil {
		return nil
	}
	_, links, err := b.resolve(r.Path)
	if err != nil {
		return fmt.Errorf("find git's folder: %w", err)
	}
	for _, f := range r.Folders {
		b.add(Mount{Kind: Bind, Source: f.Path, Target: f.Path})
	}
	b.GitFolders = r.Folders
	b.links(links)
	return nil
}

// workspace shows the working directory, or what there is instead.
func (b *builder) workspace() error {
	dir, w := b.in.Workdir.Path, b.in.Workspace
	switch w.Mode {
	case Write:
		b.add(Mount{Kind: Bind, Source: dir, Target: dir, Writable: true})
		b.Protected = w.Protected
	case ReadOnly, Overlay:
		shown := Mount{Kind: Bind, Source: dir, Target: dir}
		if w.Mode == ReadOnly && w.Layers == "" {
			b.add(shown)
			break
		}
		layers, _, err := b.resolve(w.Layers)
		if err != nil {
			return fmt.Errorf("find layers of the workspace: %w", err)
		}
		b.add(shown)
		b.add(Mount{Kind: Layer, Source: layers, Target: dir, Writable: w.Mode == Overlay})
	case Ephemeral:
		size := w.Size
		if size == 0 {
			size = b.Limits.Scratch
		}
		b.Workdir = Workdir{Path: wire.Ephemeral}
		b.add(Mount{Kind: Tmpfs, Target: wire.Ephemeral, Mode: 0o700, Size: size, NoExec: true})
	case Volume:
		device, inode, err := b.identity(w.Volume)
		if err != nil {
			return fmt.Errorf("find the volume: %w", err)
		}
		b.Workdir = Workdir{Path: wire.Ephemeral, Device: device, Inode: inode}
		b.add(Mount{Kind: Bind, Source: w.Volume, Target: wire.Ephemeral, Writable: true})
	default:
		return fmt.Errorf("set up sandbox: %q is not a valid mode of a workspace", w.Mode)
	}
	return nil
}
