package container

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
)

// What bounds the look for devices: in an image, and in all that is mounted.
const (
	imagePatience  = 10 * time.Minute
	folderPatience = 10 * time.Second
)

// checkDevices makes sure that no device of this machine is in the image or in what is mounted.
// gVisor opens every device that it finds in a file system of this machine, as root, whatever the
// mount's flags are. In other runtimes the first process closes the devices: see package mounts.
//
// No agent can make a device. So what is mounted stays without one.
func (r *Running) checkDevices(ctx context.Context, c *config, folder string) error {
	sum := sha256.Sum256([]byte(c.Image))
	// An image's ID is a hash of its content, so nobody has to look twice.
	seen := filepath.Join(folder, "closed-"+hex.EncodeToString(sum[:16]))
	if _, err := os.Lstat(seen); errors.Is(err, fs.ErrNotExist) {
		if err := r.engine.checkImage(ctx, r.name+probeSuffix, c); err != nil {
			return err
		}
		if err := atomicfile.Write(seen, nil, 0o600); err != nil {
			return fmt.Errorf("make container: note that the image has no devices: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("make container: %w", err)
	}
	ends := time.Now().Add(folderPatience)
	for _, m := range c.HostConfig.Mounts {
		if err := checkFolder(ctx, m.Source, ends); err != nil {
			return err
		}
	}
	return nil
}

// checkImage returns an error if the image of c has a device.
func (e *Engine) checkImage(ctx context.Context, name string, c *config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, imagePatience)
	defer cancel()
	probe := *c
	probe.HostConfig.Mounts = nil
	id, err := e.create(ctx, name, &probe)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Remove(context.WithoutCancel(ctx), id)) }()
	response, err := e.ask(ctx, http.MethodGet, "/containers/"+id+"/export", nil)
	if err != nil {
		return fmt.Errorf("look for devices in the image: %w", err)
	}
	defer response.Body.Close()
	at, device, err := firstDevice(response.Body)
	if err != nil {
		return fmt.Errorf("look for devices in the image: %w", err)
	}
	if at != "" {
		return fmt.Errorf("make container: the image %s has the device %s at %s, which gVisor would open on this "+
			"machine: use an image without it, or the runtime container", c.Image, device, at)
	}
	return nil
}

// firstDevice returns the first device of the archive, and its number, unless that is harmless or
// hidden by the container's own /dev.
func firstDevice(archive io.Reader) (at, device string, err error) {
	hidden := map[string]string{}
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return "", "", nil
		}
		if err != nil {
			return "", "", err
		}
		at := path.Join("/", header.Name) //nolint:gosec // it is compared, and nothing is extracted
		var device string
		switch header.Typeflag {
		case tar.TypeChar, tar.TypeBlock:
			if header.Typeflag == tar.TypeChar && harmless(uint64(header.Devmajor), uint64(header.Devminor)) {
				continue
			}
			device = fmt.Sprintf("%d:%d", header.Devmajor, header.Devminor)
		case tar.TypeLink:
			device = hidden[path.Join("/", header.Linkname)] //nolint:gosec // it is compared
		}
		if device == "" {
			continue
		}
		if !strings.HasPrefix(at, "/dev/") {
			return at, device, nil
		}
		hidden[at] = device
	}
}

// checkFolder returns an error if a device is in the folder, or is the file.
func checkFolder(ctx context.Context, source string, ends time.Time) error {
	return filepath.WalkDir(source, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != source: // removed meanwhile
			return nil
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("make container: you may not look into %q, and gVisor would open a device there: "+
				"make it yours (chown), remove it, or use the runtime container", at)
		case err != nil:
			return fmt.Errorf("make container: look for devices, which gVisor would open: %w", err)
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(ends):
			return fmt.Errorf("make container: %s has more files than can be looked at in %s, and gVisor would open "+
				"a device among them: use the runtime container", source, folderPatience)
		case entry.Type()&fs.ModeDevice == 0:
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return fmt.Errorf("make container: look at the device %s: %w", at, err)
		}
		major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && harmless(uint64(major), uint64(minor)) {
			return nil
		}
		return fmt.Errorf("make container: %s is the device %d:%d, which gVisor would open on this machine: remove "+
			"it, or use the runtime container", at, major, minor)
	})
}

// harmless reports whether a character device is null, zero, full, random or urandom.
func harmless(major, minor uint64) bool {
	return major == 1 && slices.Contains([]uint64{3, 5, 7, 8, 9}, minor)
}
