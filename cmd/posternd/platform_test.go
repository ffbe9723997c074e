package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/home"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/tests/fleet"
)

// understood parses a command line as the program does, without running it.
func understood(t *testing.T, args []string) *cobra.Command {
	t.Helper()
	cmd, rest, err := newRoot().Find(args)
	require.NoError(t, err)
	require.NoError(t, cmd.ParseFlags(rest), "%q", args)
	require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()))
	require.NoError(t, cmd.ValidateRequiredFlags())
	require.NoError(t, cmd.ValidateFlagGroups())
	return cmd
}

// variables are those that flags and the program itself read, and that the
// task has: no more, no less.
func variables(t *testing.T, c document.Container, own ...string) {
	t.Helper()
	wanted := own
	for _, m := range regexp.MustCompile(`env://(\w+)`).FindAllStringSubmatch(strings.Join(c.Command, " "), -1) {
		wanted = append(wanted, m[1])
	}
	var has []string
	for _, v := range c.Environment {
		has = append(has, v.Name)
	}
	for _, v := range c.Secrets {
		has = append(has, v.Name)
	}
	require.ElementsMatch(t, wanted, has)
}

// port is that of HOST:PORT, and every machine's.
func port(t *testing.T, address string) uint16 {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	require.NoError(t, err)
	require.True(t, a.IP.IsUnspecified(), "the platform connects from elsewhere")
	return a.AddrPort().Port()
}

func serves(c document.Container, port uint16) bool {
	return slices.ContainsFunc(c.PortMappings, func(m document.PortMapping) bool { return m.ContainerPort == port })
}

func value(t *testing.T, cmd *cobra.Command, flag string) string {
	t.Helper()
	f := cmd.Flag(flag)
	require.NotNil(t, f, flag)
	return f.Value.String()
}

// writable are the folders of a task that are not read-only.
func writable(t *testing.T, c document.Container, path string) {
	t.Helper()
	require.True(t, c.ReadonlyRootFilesystem)
	require.True(t, slices.ContainsFunc(c.MountPoints, func(m document.MountPoint) bool {
		return !m.ReadOnly && (path == m.ContainerPath || strings.HasPrefix(path, m.ContainerPath+"/"))
	}), "%s is on no volume", path)
}

var awsPlace = document.Place{Partition: "aws", Region: "eu-west-1", Account: "123456789012"}

// TestProxyTask: what components/aws starts a proxy with is what this program
// understands.
func TestProxyTask(t *testing.T) {
	t.Parallel()
	c := document.Proxy{Place: awsPlace, Stack: "prod", Image: "image", Group: "group", Ports: []uint16{16402, 16403}, Control: "control.test", FleetCA: "PEM", Token: "arn"}.Container()
	cmd := understood(t, c.Command)
	require.Equal(t, "node", cmd.Name())
	variables(t, c)
	require.Equal(t, "prod", value(t, cmd, "stack"))
	require.Equal(t, "[control.test:18000]", value(t, cmd, "control"))
	require.Equal(t, "true", value(t, cmd, "audit-stdout"), "the platform ships it")
	ready := port(t, value(t, cmd, "metrics-listen"))
	require.EqualValues(t, document.ReadyPort, ready)
	for _, p := range []uint16{ready, 16402, 16403} {
		require.True(t, serves(c, p))
	}
	writable(t, c, value(t, cmd, "dir"))
	key := fleet.NewCA(t, "key")
	_, err := svid.Joined(value(t, cmd, "id"), key.Public())
	require.NoError(t, err)
	image, err := os.ReadFile(filepath.Join("..", "..", "images", "posternd.Dockerfile"))
	require.NoError(t, err)
	require.Contains(t, string(image), "/out/posternd /out/libguard.so /out/envoy /usr/local/bin/\n", "libguard.so is looked for beside posternd")
	require.Equal(t, "/usr/local/bin/envoy", value(t, cmd, "envoy"))
	for _, m := range c.MountPoints {
		require.Regexp(t, `(?m)^VOLUME .*"`+m.ContainerPath+`"`, string(image), "else it is root's")
	}
	require.Contains(t, string(image), "USER "+c.User+":")
}

// TestNodeMachine: the same of the proxies' machines, where a script of the image
// starts the container by what user data says.
func TestNodeMachine(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("..", "..", "images", "node-start"))
	require.NoError(t, err)
	_, line, ok := strings.Cut(strings.ReplaceAll(string(script), "\\\n", " "), "postern:baked ")
	require.True(t, ok)
	b, err := json.Marshal(document.ProxyMachine{
		Stack: "prod", Region: "eu-west-1", Control: document.ControlAddress("control.test"), Token: "arn", Group: "group", FleetCA: "PEM", ReadyPort: document.ReadyPort,
	})
	require.NoError(t, err)
	var settings map[string]any
	require.NoError(t, json.Unmarshal(b, &settings))
	line = regexp.MustCompile(`\$\(get \.(\w+)\)`).ReplaceAllStringFunc(line, func(get string) string {
		key := strings.TrimSuffix(strings.TrimPrefix(get, "$(get ."), ")")
		require.Contains(t, settings, key)
		return fmt.Sprint(settings[key])
	})
	cmd := understood(t, strings.Fields(strings.ReplaceAll(line, `"`, "")))
	require.Equal(t, "node", cmd.Name())
	require.Equal(t, "[control.test:18000]", value(t, cmd, "control"))
	require.Equal(t, "prod", value(t, cmd, "stack"))
	require.EqualValues(t, document.ReadyPort, port(t, value(t, cmd, "metrics-listen")))
	for flag, mount := range map[string]string{"dir": "", "fleet-ca": ":ro", "join-token-file": ":ro"} {
		require.Contains(t, string(script), "--volume "+value(t, cmd, flag)+":"+value(t, cmd, flag)+mount, "the container sees it")
	}
}

// TestControlTask: the same of the control plane, down to the files that it
// makes of its environment.
func TestControlTask(t *testing.T) { // not parallel: the environment is everybody's
	cert, key, err := svid.NewAuthority("prod", time.Now())
	require.NoError(t, err)
	_, hash := svid.NewToken()
	agents := fleet.NewCA(t, "agents")
	c := document.Controller{
		Place: awsPlace, Stack: "prod", Image: "image", Group: "group", Store: "s3://bundles?region=eu-west-1",
		CA: string(agents.PEM), FleetCA: string(cert), Operators: "operators", CAKey: "ca-key", FleetCAKey: "fleet-ca-key", Tokens: "join-tokens",
	}.Container()
	cmd := understood(t, c.Command)
	require.Equal(t, "control", cmd.Name())
	variables(t, c, "POSTERN_CA", "POSTERN_CA_KEY", "POSTERN_OPERATORS", "POSTERN_STORE")
	require.Equal(t, "true", value(t, cmd, "from-environment"))
	listen := port(t, value(t, cmd, "xds-listen"))
	require.EqualValues(t, document.XDSPort, listen)
	require.True(t, serves(c, listen))
	writable(t, c, value(t, cmd, "home"))
	folder := home.Folder{Root: value(t, cmd, "home")}
	require.Equal(t, "prod", folder.Stack(), "what operators sign publications for")
	require.NoError(t, folder.CheckSockets())

	// As ECS would: the variables, and the secrets' values.
	secrets := map[document.ARN]string{"ca-key": string(agents.KeyPEM(t)), "fleet-ca-key": string(key), "join-tokens": hash + "\n"}
	for _, v := range c.Environment {
		t.Setenv(v.Name, v.Value)
	}
	for _, v := range c.Secrets {
		t.Setenv(v.Name, secrets[v.ValueFrom])
	}
	remote := remoteNodes{
		listen: value(t, cmd, "xds-listen"), stack: value(t, cmd, "stack"), ca: value(t, cmd, "fleet-ca"), key: value(t, cmd, "fleet-ca-key"), tokens: value(t, cmd, "join-tokens"),
		agentsCA: value(t, cmd, "ca-cert"), agentsKey: value(t, cmd, "ca-key"),
	}
	here := home.Folder{Root: filepath.Join(t.TempDir(), "prod")}
	require.NoError(t, fromEnvironment(here, &remote))
	require.Equal(t, "s3://bundles?region=eu-west-1", here.BundleURL())
	s, err := remote.server(here, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = s.Tokens()
	require.NoError(t, err)
}
