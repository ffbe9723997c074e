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
	err = netlink.LinkSetUp(lo)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return addressEverythingHere(lo)
	}
	if err != nil {
		return fmt.Errorf("set loopback interface up: %w", err)
	}
	for _, f := range []struct {
		family int
		route  net.IPNet
		// own is an address outside the loopback range. Without one, a client that asks for names
		// with AI_ADDRCONFIG (glibc) believes that there is no network of this family, and does not
		// ask.
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
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &f.own})
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

// addressEverythingHere is routeEverythingHere on gVisor, where a link is up from the start and
// routes cannot be added. There loopback answers for the whole network of each of its addresses:
// two halves are everything. IPv6 has no such thing, so it stays without a way anywhere.
func addressEverythingHere(lo netlink.Link) error {
	for _, half := range []string{"100.127.255.254/1", "198.19.255.254/1"} {
		ip, n, err := net.ParseCIDR(half)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: n.Mask}, Broadcast: net.IPv4zero}); err != nil {
			return fmt.Errorf("give loopback the network %s: %w", half, err)
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
