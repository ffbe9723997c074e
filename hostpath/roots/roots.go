// Package roots finds the certificate authorities that this machine trusts.
package roots

import (
	"bytes"
	"os"
	"path/filepath"
)

// Files are the paths at which distributions keep the certificate authorities that they trust, as
// PEM.
var Files = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Alpine, Gentoo
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // the same
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/pki/tls/cert.pem",                             // Fedora's OpenSSL
	"/etc/ssl/cert.pem",                                 // Alpine, macOS habits
	"/etc/ssl/certs/ca-bundle.crt",                      // old Fedora habits
}

// Find returns the path and the content of the first of [Files] below dir that has a certificate.
// If there is none, the path is "".
func Find(dir string) (path string, pem []byte) {
	for _, f := range Files {
		path := filepath.Join(dir, f)
		if pem, err := os.ReadFile(path); err == nil && bytes.Contains(pem, []byte("-----BEGIN")) {
			return path, pem
		}
	}
	return "", nil
}
