package view

import (
	"path/filepath"
	"strings"

	"github.com/postern/postern/hostpath/roots"
	"github.com/postern/postern/sandbox/trust"
	"github.com/postern/postern/sandbox/wire"
)

// Image is a container image whose files the sandbox sees in place of this machine's programs. An
// agent may have made it.
type Image struct {
	// Env is the environment that the image wants, as NAME=VALUE.
	Env []string
}

// imageHome is the home of every agent in an image.
const imageHome = "/home/" + userName

// inImage returns the view of a sandbox whose root is an image. Of this machine it has the working
// directory and what the gate needs; a File goes over a file of the image.
func (b *builder) inImage() (*View, error) {
	b.home = imageHome
	if b.in.Home == "" {
		b.inside = imageHome
	}
	b.imageUser()
	b.kernel()
	b.add(Mount{Kind: Tmpfs, Target: "/tmp", Mode: 0o1777, Size: b.Limits.Scratch})
	b.add(Mount{Kind: Tmpfs, Target: imageHome, Mode: 0o700, Size: b.Limits.Scratch})
	if err := b.ownHome(); err != nil {
		return nil, err
	}
	if err := b.workspace(); err != nil {
		return nil, err
	}
	b.ownEtc()
	if err := b.gate(); err != nil {
		return nil, err
	}
	env := newEnviron(b.in.Image.Env)
	b.imageTrust(env)
	path := env.get("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	b.environment(path)
	return b.View, nil
}

// imageUser makes the owner of the working directory the user, if root calls: a container has no
// mount that maps one user to another.
func (b *builder) imageUser() {
	if b.machine.uid != 0 || !b.in.Workspace.Mode.hasFolder() {
		return
	}
	info, err := b.lstat(b.Workdir.Path)
	if err != nil {
		return
	}
	if uid, gid := owner(info), group(info); uid != 0 && gid != 0 {
		b.UID, b.GID = uid, gid
	}
}

// imageTrust puts the authority where the clients of any distribution look for it.
func (b *builder) imageTrust(env environ) {
	_, system := roots.Find(b.at("/"))
	bundle := trust.Bundle(system, b.in.CA)
	b.file(wire.Bundle, bundle)
	b.file(wire.CA, b.in.CA)
	for _, path := range roots.Files {
		b.file(path, bundle)
	}
	stores := trust.JavaStores
	// A JDK that is not a distribution's. Only where JDKs are: the image names the place.
	if home := filepath.Clean(env.get("JAVA_HOME")); within(home, "/opt") || strings.HasPrefix(home, "/usr/") {
		if !overlap(home, b.Workdir.Path) {
			stores = append(stores[:len(stores):len(stores)], filepath.Join(home, trust.JDKStores[0]))
		}
	}
	store := trust.KeyStore(bundle)
	for _, path := range stores {
		b.file(path, store)
	}
}
