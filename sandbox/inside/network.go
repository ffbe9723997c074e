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
	for _, f := range []struct {
		family int
		route  net.IPNet
		// own is an address that is not of the loopback range. Without one, a
		// client that asks for names with AI_ADDRCONFIG (glibc) is told that
		// there is no network of this family and does not ask at all.
		own net.IPNet
	}{
		{unix.AF_INET, network("0.0.0.0/0"), network("198.19.255.254/32")},
		{unix.AF_INET6, network("::/0"), network("2001:db8:ffff::1/128")},
	} {
		err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Family: f.family, Dst: &f.route,
			Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		})
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &f.own, Flags: unix.IFA_F_NODAD})
		}
		// A kernel without IPv6 has no IPv6 way out either.
		if f.family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("route %s to loopback: %w", &f.route, err)
		}
	}
	return nil
}

// network parses a constant.
func network(cidr string) net.IPNet {
	ip, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}
