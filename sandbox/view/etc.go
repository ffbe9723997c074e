package view

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/postern/postern/sandbox/wire"
)

// etcEntries are shown of /etc, where they exist, as patterns. Never what may
// hold a password or a token: shadow, gitconfig, npmrc, pip.conf, ...
var etcEntries = []string{
	"alternatives", "ld.so.cache", "ld-musl-*.path", // to start programs at all
	"localtime", "timezone", "locale.alias", "locale.conf", "default/locale", "inputrc",
	"mime.types", "protocols", "services", "rpc", "gai.conf", "host.conf", "shells", "magic", "fonts", "bash.bashrc",
	"profile",
	"os-release", "debian_version", "lsb-release", "redhat-release", "alpine-release", "arch-release",
	"ssl/openssl.cnf", "ssl/ct_log_list.cnf", "pki/tls/openssl.cnf", "crypto-policies", "gnutls",
	"java*", "python*", "php", "ruby*", "nanorc", "ImageMagick-*", "dotnet",
}

// userName is the user's name inside, whatever the caller's name is: some programs act on the name
// root.
const userName = "agent"

// etc makes /etc: some of the machine's files, and files about this sandbox.
func (b *builder) etc() {
	for _, pattern := range etcEntries {
		for _, path := range b.match("/etc", pattern) {
			info, err := b.lstat(path)
			switch {
			case err != nil:
			case info.Mode()&fs.ModeSymlink != 0:
				// A link, not what it leads to: that may be anything.
				if target, err := b.readlink(path); err == nil {
					b.link(path, target)
				}
			case info.IsDir():
				b.readOnly(path)
			case info.Mode().IsRegular():
				// A file that cannot be read is left out. The content costs less than a mount.
				if content, err := b.read(path); err == nil {
					b.file(path, content)
				}
			}
		}
	}
	b.link("/etc/mtab", "/proc/self/mounts")
	for _, f := range []struct{ name, content string }{
		{"group", fmt.Sprintf("%s:x:%d:\nnogroup:x:65534:\n", userName, b.GID)},
		{"hostname", b.Hostname + "\n"},
		{"hosts", "127.0.0.1 localhost " + b.Hostname + "\n::1 localhost ip6-localhost ip6-loopback\n"},
		{"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n" +
			"protocols: files\nservices: files\nethers: files\nrpc: files\n"},
		{"passwd", fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", userName, b.UID, b.GID, b.home) +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
		{"resolv.conf", "nameserver " + wire.Resolver + "\noptions timeout:2 attempts:1\n"},
	} {
		b.file(filepath.Join("/etc", f.name), []byte(f.content))
	}
}
