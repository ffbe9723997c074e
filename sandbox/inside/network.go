package inside

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeEverythingHere makes every IPv4 and IPv6 address one of this network
// namespace's own: `ip route add local default dev lo`. A connection to any
// address then arrives at whoever listens on its port here, or is refused.
func routeEverythingHere() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback interface up: %w", err)
	}
	for family, everything := range map[int]string{unix.AF_INET: "0.0.0.0/0", unix.AF_INET6: "::/0"} {
		_, dst, err := net.ParseCIDR(everything)
		if err != nil {
			return fmt.Errorf("parse %s: %w", everything, err)
		}
		err = netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Family: family, Dst: dst,
			Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		})
		// A kernel without IPv6 has no IPv6 way out either.
		if family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("route %s to loopback: %w", everything, err)
		}
	}
	return nil
}
