package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// P15: the roots of certifi are covered in every installation in view, and nowhere else.
func TestCertifi(t *testing.T) {
	t.Parallel()
	const at = "python3.11/site-packages/certifi/cacert.pem"
	root := tree(t, "usr/lib/python3/dist-packages/certifi/cacert.pem", "opt/py/lib/"+at, "home/me/work/.venv/lib/"+at,
		"srv/hidden/cacert.pem")
	link := filepath.Join(root, "opt/linked/lib/python3.12/site-packages/certifi")
	require.NoError(t, os.MkdirAll(link, 0o755))
	require.NoError(t, os.Symlink("/srv/hidden/cacert.pem", filepath.Join(link, "cacert.pem")))
	b := (&machine{root: root, uid: 1}).builder(&Input{Agent: "a", Workdir: Workdir{Path: "/home/me/work"}})
	b.visible = []string{"/usr", "/usr/lib", "/opt/py/lib", "/opt/linked", "/home/me/work"}
	require.Equal(t, []string{
		"/usr/lib/python3/dist-packages/certifi/cacert.pem", "/opt/py/lib/" + at,
	}, b.certifiStores())
}
