package sandbox

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/postern/postern/hostpath/roots"
	"github.com/postern/postern/sandbox/wire"
)

// bundleVariables make clients trust a bundle instead of their own roots, so
// they name the system's roots and ours together.
var bundleVariables = []string{
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

// caVariables add to a client's own roots, so ours alone is enough, and faster
// to read.
var caVariables = []string{
	"NODE_EXTRA_CA_CERTS", // Node.js and thereby npm, pnpm, yarn 1; Bun
	"DENO_CERT",           // Deno
}

// trust puts the authority into every trust store that clients read. path is
// the PATH of the sandbox, javaHome the caller's JAVA_HOME.
func (v *view) trust(ca []byte, path, javaHome, workdir string) error {
	_, system := roots.Find("/")
	bundle := make([]byte, 0, len(system)+len(ca)+2)
	bundle = append(bundle, system...)
	if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	// A bundle without any root of the system works for everything that is
	// intercepted, so a machine without roots is not an error.
	bundle = append(bundle, ca...)
	if err := v.file(wire.Bundle, bundle); err != nil {
		return err
	}
	if err := v.file(wire.CA, ca); err != nil {
		return err
	}
	for _, path := range roots.Files {
		v.link(path, wire.Bundle)
	}
	return v.trustJava(bundle, path, javaHome, workdir)
}

// trustJava puts the bundle where Java looks for roots: no variable that it
// reads goes without a remark on stderr.
func (v *view) trustJava(bundle []byte, path, javaHome, workdir string) error {
	own := v.ownJavaStores(path, javaHome, workdir)
	shared := slices.ContainsFunc(javaStores, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
	if !shared && len(own) == 0 {
		return nil
	}
	store := keyStore(bundle)
	if err := v.file(wire.Java, store); err != nil {
		return err
	}
	for _, path := range javaStores {
		v.link(path, wire.Java)
	}
	for _, path := range own {
		fd, err := v.passed.data(store)
		if err != nil {
			return err
		}
		v.add("--ro-bind-data", strconv.Itoa(fd), path)
	}
	return nil
}

// ownJavaStores are the key stores of those JDKs in view that have their own,
// as every JDK has that is not of a distribution. One in the working directory
// is not among them: an agent can have a link in its place.
func (v *view) ownJavaStores(path, javaHome, workdir string) []string {
	homes := []string{javaHome}
	for _, dir := range filepath.SplitList(path) {
		if java, _, err := resolve(filepath.Join(dir, "java")); err == nil {
			homes = append(homes, filepath.Dir(filepath.Dir(java)))
		}
	}
	var stores []string
	for _, home := range homes {
		if !filepath.IsAbs(home) {
			continue
		}
		for _, name := range []string{"lib/security/cacerts", "jre/lib/security/cacerts"} {
			store, _, err := resolve(filepath.Join(home, name))
			if err == nil && v.sees(store) && !within(store, workdir) && !slices.Contains(stores, store) {
				stores = append(stores, store)
			}
		}
	}
	return stores
}

// javaStores are where distributions keep the roots for Java, whose own
// cacerts is a link there.
var javaStores = []string{
	"/etc/ssl/certs/java/cacerts",                     // Debian, Ubuntu
	"/etc/pki/ca-trust/extracted/java/cacerts",        // Fedora, RHEL
	"/etc/ca-certificates/extracted/java-cacerts.jks", // Arch
}

// keyStore makes a Java key store (JKS) of the certificates of a bundle, with
// the password that every Java expects. It is an integrity check, not a secret.
func keyStore(bundle []byte) []byte {
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
