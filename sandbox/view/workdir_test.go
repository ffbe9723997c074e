package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHomesOf: a service's home is not somebody's, unless somebody may log in.
func TestHomesOf(t *testing.T) {
	t.Parallel()
	const passwd = `root:x:0:0:root:/root:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sync:x:4:65534:sync:/sync:/bin/sync
games:x:5:60:games:/usr/games:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash
odd:x:102:1::/odd:/opt/shell
none:x:103:1::/none:
short:x:104:1::/short
false:x:999:1::/false:/bin/false
ann:x:1000:1000::/home/ann:/bin/bash
bob:x:1001:1001::/people/bob:/usr/sbin/nologin
no number:x:y:1::/y:/bin/false
torn:x:1
relative:x:1002:1::home:/bin/sh
`
	const defs = "#UID_MIN 1\nUID_MIN\t\t\t 1000\nUID_MAX 60000\n"
	people, services := homesOf(passwd, defs, "# shells\n/bin/sh\n/bin/bash\n")
	require.Equal(t, []string{
		"/root", "/var/lib/postgresql", "/odd", "/none", "/short", "/home/ann", "/people/bob", "/y",
	}, people)
	require.Equal(t, []string{"/bin", "/sync", "/usr/games", "/var/www", "/false"}, services)
	for _, c := range []struct{ account, defs, shells string }{
		{"low:x:500:1::/p:/bin/false\n", "UID_MIN 500\n", ""},           // people have lower numbers here
		{"high:x:1500:1::/p:/bin/false\n", "UID_MIN 5000\n", ""},        // and elsewhere
		{"high:x:1500:1::/p:/bin/false\n", "", ""},                      // nothing is known
		{"sync:x:4:1::/p:/bin/sync\n", "UID_MIN 1000\n", "/bin/sync\n"}, // it lets people in here
	} {
		people, services := homesOf(c.account, c.defs, c.shells)
		require.Equal(t, []string{"/p"}, people, "%+v", c)
		require.Empty(t, services, "%+v", c)
	}
}

// TestWhyNotUsr: a folder of the system is refused for what it is, not as the home of a service.
func TestWhyNotUsr(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/usr", "/usr/sbin", "/var/cache"} {
		_, err := look(dir, "/nonexistent")
		require.Error(t, err, dir)
		require.NotContains(t, err.Error(), "somebody's home", dir)
		require.NotContains(t, err.Error(), "for secrets", dir)
	}
}

// TestNoProgramsAreAWorkdir: what an agent writes must not be what people, or their Go tool, run next.
func TestNoProgramsAreAWorkdir(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/usr/local", "/usr/share", "/usr/libexec", "/usr/include", "/var/lib/dpkg", "/var/backups"} {
		_, err := look(dir, "/nonexistent")
		require.Error(t, err, dir)
	}
	home := tree(t, "go/pkg/mod/x/", "go/src/app/", ".cache/go-build/", ".cargo/bin/", ".local/share/app/", "src/bin/")
	for dir, refused := range map[string]bool{
		"go": true, "go/pkg": true, "go/pkg/mod/x": true, ".cache": true, ".cache/go-build": true, ".cargo/bin": true,
		"go/src/app": false, ".local/share/app": false, "src/bin": false, "src": false,
	} {
		_, err := look(filepath.Join(home, dir), home)
		require.Equal(t, refused, err != nil, "%s: %v", dir, err)
		if refused {
			require.ErrorContains(t, err, "from which the owner's programs are run or compiled")
		}
	}
}

func TestNobodysHomeIsAWorkdir(t *testing.T) {
	t.Parallel()
	people, _ := new(machine).homes()
	require.NotEmpty(t, people)
	for _, home := range people {
		for dir := home; dir != "/"; dir = filepath.Dir(dir) {
			_, err := look(dir, "/nonexistent")
			require.Error(t, err, dir)
		}
	}
	project := t.TempDir()
	for _, name := range []string{".ssh/x", "project"} {
		require.NoError(t, os.MkdirAll(filepath.Join(project, name), 0o755))
	}
	_, err := look(filepath.Join(project, "project"), project)
	require.NoError(t, err)
	for dir, want := range map[string]bool{"/proc": true, "/dev/pts": true, "/usr/share": false, project: false} {
		whole, _, err := new(machine).mounts(dir)
		require.NoError(t, err)
		require.Equal(t, want, whole, dir)
	}
}
