// Package trust says, as data, where clients look for the certificate authorities that they trust:
// the variables that name a file, the places of key stores, and their content.
package trust

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/binary"
	"encoding/pem"
	"fmt"
)

// BundleVariables make a client trust the named file instead of its own roots. So the file has the
// system's roots and the proxy's authority: see [Bundle].
var BundleVariables = []string{
	"SSL_CERT_FILE",                      // OpenSSL, Go, Ruby, PHP, Perl, uv, httpx, wget
	"CURL_CA_BUNDLE",                     // curl
	"REQUESTS_CA_BUNDLE",                 // Python requests
	"PIP_CERT",                           // pip, whose vendored requests has roots of its own
	"GIT_SSL_CAINFO",                     // git
	"AWS_CA_BUNDLE",                      // AWS CLI and SDKs
	"CARGO_HTTP_CAINFO",                  // cargo
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // gcloud
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",   // gRPC in C, Python, Ruby
	"HTTPLIB2_CA_CERTS",                  // httplib2
	"NIX_SSL_CERT_FILE",                  // Nix
	"HEX_CACERTS_PATH",                   // Elixir
	"PERL_LWP_SSL_CA_FILE",               // LWP
	"YARN_HTTPS_CA_FILE_PATH",            // yarn 2 and later
}

// AuthorityVariables make a client trust the named file in addition to its own roots. The proxy's
// authority alone is enough there, and faster to read.
var AuthorityVariables = []string{
	"NODE_EXTRA_CA_CERTS", // Node.js and thereby npm, pnpm, yarn 1; Bun
	"DENO_CERT",           // Deno
}

// JavaStores are the places where distributions keep the roots for Java, to which the cacerts of
// their JDKs link. Java prints a remark on stderr for every variable that it reads.
var JavaStores = []string{
	"/etc/ssl/certs/java/cacerts",                     // Debian, Ubuntu
	"/etc/pki/ca-trust/extracted/java/cacerts",        // Fedora, RHEL
	"/etc/ca-certificates/extracted/java-cacerts.jks", // Arch
}

// CertifiStores are the places, as patterns below a folder in view, of the roots of certifi. No
// variable leads certifi elsewhere.
var CertifiStores = []string{
	"python3*/site-packages/certifi/cacert.pem", "python3*/dist-packages/certifi/cacert.pem",
	"lib/python3*/site-packages/certifi/cacert.pem", "lib/python3*/dist-packages/certifi/cacert.pem",
	"local/lib/python3*/dist-packages/certifi/cacert.pem",
}

// JDKStores are the places, below its folder, where a JDK that is not a distribution's has its own
// roots.
var JDKStores = []string{"lib/security/cacerts", "jre/lib/security/cacerts"}

// Bundle returns the system's roots followed by the authority, in PEM. A machine without roots is
// not an error: the authority alone works for everything that is intercepted.
func Bundle(system, authority []byte) []byte {
	bundle := make([]byte, 0, len(system)+len(authority)+1)
	bundle = append(bundle, system...)
	if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	return append(bundle, authority...)
}

// KeyStore returns a Java key store (JKS) with the certificates of a bundle, and the password that
// every Java expects. The password is an integrity check, not a secret.
func KeyStore(bundle []byte) []byte {
	var entries bytes.Buffer
	number := func(b *bytes.Buffer, n uint32) { b.Write(binary.BigEndian.AppendUint32(nil, n)) }
	text := func(b *bytes.Buffer, s string) {
		b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(s))))
		b.WriteString(s)
	}
	count := uint32(0)
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		number(&entries, 2) // a trusted certificate
		text(&entries, fmt.Sprintf("root%d", count))
		entries.Write(make([]byte, 8)) // since when
		text(&entries, "X.509")
		number(&entries, uint32(len(block.Bytes)))
		entries.Write(block.Bytes)
		count++
	}
	var store bytes.Buffer
	number(&store, 0xfeedfeed)
	number(&store, 2)
	number(&store, count)
	store.Write(entries.Bytes())
	digest := sha1.New() //nolint:gosec // the format's
	for _, c := range "changeit" {
		digest.Write([]byte{0, byte(c)})
	}
	digest.Write([]byte("Mighty Aphrodite"))
	digest.Write(store.Bytes())
	return digest.Sum(store.Bytes())
}
