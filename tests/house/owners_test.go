package house

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// TestOneOwner: one package has these, as docs/architecture.md and its package doc say. So what it
// promises holds wherever they are needed.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	all := repository(t)
	for _, owned := range []struct {
		text   string
		owners []string
	}{
		{"x509.CreateCertificate(", []string{"pki"}},
		{"ed25519.Sign(", []string{"bundle", "audit/link"}},
		{"ed25519.Verify(", []string{"bundle", "audit/link"}},
		{"InsecureSkipVerify:", []string{"svid"}},
	} {
		found := false
		for _, name := range all.sorted(".go") {
			ships := !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "tests/")
			if !ships || !strings.Contains(all[name], owned.text) {
				continue
			}
			if found = true; !slices.Contains(owned.owners, path.Dir(name)) {
				t.Errorf("%s has %q, which only %q may have", name, owned.text, owned.owners)
			}
		}
		if !found {
			t.Errorf("package %q no longer has %q: it was moved, so move its line", owned.owners, owned.text)
		}
	}
}
