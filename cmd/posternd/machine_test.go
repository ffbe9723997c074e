package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
)

// TestProxyMachine runs the script of the proxies' machine image with what user
// data writes, and stand-ins for AWS and Docker: the container is told what
// this program understands, and the token is in no argument.
func TestProxyMachine(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("jq is not installed")
	}
	const token = "token-of-the-test"
	dir := t.TempDir()
	m := document.ProxyMachine{
		Stack: "prod", Region: "eu-west-1", Control: "control.test:18000", Token: "arn:of:token", Group: "/postern/prod/proxies", FleetCA: "PEM", ReadyPort: document.ReadyPort,
	}
	settings, err := json.Marshal(m)
	require.NoError(t, err)
	script, err := os.ReadFile(filepath.Join("..", "..", "images", "node-start"))
	require.NoError(t, err)
	for name, content := range map[string]string{
		"node.json": string(settings),
		"docker":    "#!/bin/sh\nprintf '%s\\0' \"$@\" >" + dir + "/told\n",
		"aws":       "#!/bin/sh\necho \"$@\" >" + dir + "/asked\necho " + token + "\n",
		"iptables":  "#!/bin/sh\n[ \"$1\" != --check ] && echo \"$@\" >" + dir + "/refused\n",
		// Other owners need root.
		"install": "#!/bin/sh\nfor last; do :; done\ncase \" $* \" in *' -d '*) mkdir -p \"$last\" ;; *) : >\"$last\" ;; esac\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700))
		// Tests beside this one may make a socket: the umask is the whole process's.
		require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o700))
	}
	text := strings.NewReplacer("/etc/postern", dir, "/run/postern", dir+"/run", "-d -m 0700 -o 65532 -g 65532 /var/lib/postern", "-d "+dir+"/state").Replace(string(script))
	cmd := exec.CommandContext(t.Context(), "sh", "-c", text)
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(b)
	}
	told := strings.Split(strings.TrimSuffix(read("told"), "\x00"), "\x00")
	image := slices.Index(told, "postern:baked")
	require.Positive(t, image)
	node := understood(t, told[image+1:])
	require.Equal(t, "node", node.Name())
	require.Equal(t, "[control.test:18000]", value(t, node, "control"))
	require.Equal(t, "prod", value(t, node, "stack"))
	require.Equal(t, "true", value(t, node, "audit-stdout"), "Docker ships it")
	require.EqualValues(t, document.ReadyPort, port(t, value(t, node, "metrics-listen")))
	for _, mount := range []string{value(t, node, "dir"), value(t, node, "fleet-ca"), value(t, node, "join-token-file")} {
		require.Contains(t, strings.Join(told[:image], " "), ":"+mount, "it is mounted")
	}
	require.Contains(t, told, "awslogs-group="+m.Group)
	require.NotContains(t, read("told")+read("asked"), token)
	require.Equal(t, token+"\n", read("run/join-token"))
	require.Equal(t, "PEM\n", read("run/fleet-ca.pem"))
	require.Contains(t, read("asked"), "--secret-id arn:of:token")
	require.Contains(t, read("refused"), "--destination 169.254.0.0/16 --jump REJECT")
}
