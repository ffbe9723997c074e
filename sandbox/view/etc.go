package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/sandbox/wire"
)

// etcEntries are shown of /etc, where they exist, as patterns. Never what may
// hold a password or a token: shadow, gitconfig, npmrc, pip.conf, ...
var etcEntries = []string{
	"alternatives", "ld.so.cache", "ld-musl-*.path", // to start programs at all
	"localtime", "timezone", "locale.alias", "locale.conf", "default/locale", "inputrc",
	"mime.types", "protocols", "services", "rpc", "gai.conf", "host.conf", "shells", "magic", "fonts", "bash.bashrc", "profile",
	"os-release", "debian_version", "lsb-release", "redhat-release", "alpine-release", "arch-release",
	"ssl/openssl.cnf", "ssl/ct_log_list.cnf", "pki/tls/openssl.cnf", "crypto-policies", "gnutls",
	"java*", "python*", "php", "ruby*", "nanorc", "ImageMagick-*", "dotnet",
}

// userName is what the user is called inside, whatever the caller is called:
// some programs act on the name root.
const userName = "agent"

// etc builds /etc.
func (v *view) etc(s *Spec) error {
	for _, pattern := range etcEntries {
		matches := []string{"/etc/" + pattern}
		if strings.Contains(pattern, "*") {
			var err error
			if matches, err = filepath.Glob("/etc/" + pattern); err != nil {
				return fmt.Errorf("look for /etc/%s: %w", pattern, err)
			}
		}
		for _, path := range matches {
			info, err := os.Lstat(path)
			switch {
			case err != nil:
			case info.Mode()&fs.ModeSymlink != 0:
				// A link, not what it leads to: that may be anything.
				if target, err := os.Readlink(path); err == nil {
					v.link(path, target)
				}
			case info.Mode().IsRegular():
				v.copy(path)
			case info.IsDir():
				v.readOnly(path)
			}
		}
	}
	v.link("/etc/mtab", "/proc/self/mounts")
	uid, gid := identity()
	host := hostname(s.Agent)
	for path, content := range map[string]string{
		"/etc/passwd":        fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", userName, uid, gid, v.home),
		"/etc/group":         fmt.Sprintf("%s:x:%d:\nnogroup:x:65534:\n", userName, gid),
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
		"/etc/hosts":         "127.0.0.1 localhost " + host + "\n::1 localhost ip6-localhost ip6-loopback\n",
		"/etc/hostname":      host + "\n",
		"/etc/resolv.conf":   "nameserver " + wire.Resolver + "\noptions timeout:2 attempts:1\n",
	} {
		if err := v.file(path, []byte(content)); err != nil {
			return err
		}
	}
	return nil
}
