package peers

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/postern/postern/node"
)

// How this program is told to be something else than the tests.
const (
	envWorld = "POSTERN_PEERS_WORLD"
	envNode  = "POSTERN_PEERS_NODE"
)

func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case os.Getenv(envNode) != "":
		exit(superviseNode())
	case flag.Lookup("test.bench").Value.String() == "":
		os.Exit(m.Run())
	case os.Getenv(envWorld) == "":
		exit(enterWorld())
	}
	if err := addAddresses(); err != nil {
		exit(err)
	}
	code := m.Run()
	table.print()
	os.Exit(code)
}

func exit(err error) {
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		os.Exit(max(1, ended.ExitCode()))
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// enterWorld runs this program again in a network of its own: there the
// upstream can have the address and port, and the machine the name server, that
// all proxies are used to, and nobody has to be root.
func enterWorld() error {
	resolv, err := os.CreateTemp("", "resolv.conf")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(resolv.Name()) }()
	if _, err := resolv.WriteString("nameserver 127.0.0.1\n"); err != nil {
		return err
	}
	// Often a link to a file of another file system.
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return err
	}
	cmd := exec.Command("bwrap", append([]string{
		"--die-with-parent", "--dev-bind", "/", "/", "--ro-bind", resolv.Name(), target,
		// Not as root: Squid would become somebody else, who is not there.
		"--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-net",
		"--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_BIND_SERVICE", "--setenv", envWorld, "1", "--",
	}, os.Args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// addAddresses gives the upstreams theirs. They are documentation addresses, as
// Postern refuses names that lead to private ones.
func addAddresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range []string{benchAddress, eventsAddress} {
		addr, err := netlink.ParseAddr(a + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

// superviseNode is `posternd node`: a process of its own, so that what the
// audit log costs is counted as part of the proxy.
func superviseNode() error {
	var c node.Config
	if err := json.Unmarshal([]byte(os.Getenv(envNode)), &c); err != nil {
		return err
	}
	c.Log = slog.New(slog.DiscardHandler)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return node.Run(ctx, c)
}
