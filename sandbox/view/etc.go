package view

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

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
	// What programs in /usr have links to.
	"maven/m2.conf", "maven/logging", "ant", "groovy", "perl", "vim", "texmf",
	"apt/apt.conf.d/*", "apt/sources.list", "apt/sources.list.d/*", "apt/trusted.gpg.d/*", "apt/preferences.d/*",
}

// hasPassword reports whether there is an address with a password in the text, as apt's files may
// have one. The texts are long, and every command waits: no expression does this.
func hasPassword(text string) bool {
	for {
		_, rest, found := strings.Cut(text, "://")
		if !found {
			return false
		}
		host := rest
		if end := strings.IndexAny(rest, "/\t\n\f\r "); end >= 0 {
			host = rest[:end]
		}
		if strings.Contains(host, "@") {
			return true
		}
		text = rest
	}
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
				if content, err := b.read(path); err == nil && !hasPassword(string(content)) {
					b.file(path, content)
				}
			}
		}
	}
	b.link("/etc/mtab", "/proc/self/mounts")
	b.ownEtc()
}

// ownEtc makes the files of /etc that are about this sandbox.
func (b *builder) ownEtc() {
	home := b.home
	if b.in.Home != "" {
		home = wire.Home
	}
	for _, f := range []struct{ name, content string }{
		{"gitconfig", b.in.Git},
		{"group", fmt.Sprintf("%s:x:%d:\nnogroup:x:65534:\n", userName, b.GID)},
		{"hostname", b.Hostname + "\n"},
		{"hosts", "127.0.0.1 localhost " + b.Hostname + "\n::1 localhost ip6-localhost ip6-loopback\n"},
		{"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n" +
			"protocols: files\nservices: files\nethers: files\nrpc: files\n"},
		{"passwd", fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", userName, b.UID, b.GID, home) +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
		{"resolv.conf", "nameserver " + wire.Resolver + "\noptions timeout:2 attempts:1\n"},
	} {
		b.file(filepath.Join("/etc", f.name), []byte(f.content))
	}
}
