package mounts

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

// TestStrangeMount: what is mounted in the working directory is the host's there.
func TestStrangeMount(t *testing.T) {
	t.Parallel()
	const base = "10 1 0:50 /newroot / rw - tmpfs tmpfs rw\n" +
		"11 10 8:1 /home/me/a\\040b /home/me/a\\040b rw - ext4 /dev/sda1 rw\n"
	setup := &wire.Setup{Dir: "/home/me/a b", Mounts: []string{"8:9 /data"}}
	for more, want := range map[string]string{
		"": "",
		"12 11 8:1 /home/me/a\\040b/stacks /home/me/a\\040b/stacks ro - ext4 /dev/sda1 rw\n": "/home/me/a\\040b/stacks",
		"12 11 8:1 /home/me/.ssh /home/me/a\\040b/stacks ro - ext4 /dev/sda1 rw\n":           "/home/me/a\\040b/stacks",
		"12 11 8:1 /home/me/a\\040bc /home/me/a\\040b/stacks ro - ext4 /dev/sda1 rw\n":       "/home/me/a\\040b/stacks",
		"12 11 8:2 /home/me/a\\040b/x /home/me/a\\040b/x ro - ext4 /dev/sdb1 rw\n":           "/home/me/a\\040b/x",
		"12 11 8:9 /data /home/me/a\\040b/data rw - ext4 /dev/sdc1 rw\n":                     "",
		"12 11 8:9 /other /home/me/a\\040b/data rw - ext4 /dev/sdc1 rw\n":                    "/home/me/a\\040b/data",
		"12 11 0:50 /bindfile /home/me/a\\040b/x ro - tmpfs tmpfs rw\n":                      "/home/me/a\\040b/x",
		"12 10 8:1 /home/me/.ssh /home/me/a\\040bc ro - ext4 /dev/sda1 rw\n":                 "",
	} {
		require.Equal(t, want, strange(base+more, setup, false), more)
	}
	require.NotEmpty(t, strange("", setup, false), "what cannot be read is not believed")
}

// TestEngineProtects: what a container engine should have mounted is there, is of the host's
// folder, and is read-only.
func TestEngineProtects(t *testing.T) {
	t.Parallel()
	const dir = "11 10 8:1 /w /home/me/w rw - ext4 /dev/sda1 rw\n"
	const git = "12 11 8:1 /w/.git /home/me/w/.git rw - ext4 /dev/sda1 rw\n"
	const config = "13 12 8:1 /w/.git/config /home/me/w/.git/config ro,relatime - ext4 /dev/sda1 rw\n"
	const envrc = "14 11 8:1 /w/.envrc /home/me/w/.envrc ro - ext4 /dev/sda1 rw\n"
	setup := &wire.Setup{Dir: "/home/me/w", Protected: []wire.Bytes{".git/config", ".envrc"}}
	const at = " /home/me/w/.git/config "
	for mountinfo, want := range map[string]string{
		dir + git + config + envrc: "",
		dir + git + config:         "/home/me/w/.envrc",
		dir + git + envrc:          "/home/me/w/.git/config",
		dir + git + envrc + "13 12 8:1 /w/.git/config" + at + "rw - ext4 /dev/sda1 ro\n": "/home/me/w/.git/config",
		dir + git + envrc + "13 12 8:1 /etc/shadow" + at + "ro - ext4 /dev/sda1 rw\n":    "/home/me/w/.git/config",
		dir + git + envrc + "13 12 8:2 /w/.git/config" + at + "ro - ext4 /dev/sdb1 rw\n": "/home/me/w/.git/config",
		dir + config + envrc + "12 11 8:1 /x /home/me/w/.git rw - ext4 /dev/sda1 rw\n":   "/home/me/w/.git",
		dir + git + config + envrc + "15 11 8:1 /w/x /home/me/w/x rw - ext4 /a rw\n":     "/home/me/w/x",
	} {
		require.Equal(t, want, strange(mountinfo, setup, true), mountinfo)
	}
}
