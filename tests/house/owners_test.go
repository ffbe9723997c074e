package house

import (
	"path"
	"strings"
	"testing"
)

// TestOneOwner: one package has these, as docs/architecture.md and its package doc say. So what it
// promises holds wherever they are needed.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	all := repository(t)
	for _, owned := range []struct{ text, owner string }{
		{"x509.CreateCertificate(", "pki"},
		{"ed25519.Sign(", "bundle"},
		{"ed25519.Verify(", "bundle"},
		{"InsecureSkipVerify:", "svid"},
	} {
		found := false
		for _, name := range all.sorted(".go") {
			ships := !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "tests/")
			if !ships || !strings.Contains(all[name], owned.text) {
				continue
			}
			if found = true; path.Dir(name) != owned.owner {
				t.Errorf("%s has %q, which only package %s may have", name, owned.text, owned.owner)
			}
		}
		if !found {
			t.Errorf("package %s no longer has %q: it was moved, so move its line", owned.owner, owned.text)
		}
	}
}
