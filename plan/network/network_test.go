package network

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNeverResolved: the list, written out.
func TestNeverResolved(t *testing.T) {
	t.Parallel()
	var got []string
	for _, p := range NeverResolved() {
		require.Equal(t, p.Masked(), p)
		got = append(got, p.String())
	}
	require.ElementsMatch(t, []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
		"172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "::ffff:0.0.0.0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fc00::/7",
		"fe80::/10", "fec0::/10", "ff00::/8",
	}, got)
	NeverResolved()[0] = netip.Prefix{}
	require.True(t, NeverResolved()[0].IsValid(), "callers get a list of their own")
}

// TestMetadata: every place of a metadata service, and nothing next to one. No name leads there.
func TestMetadata(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"169.254.0.0": true, "169.254.169.254": true, "169.254.170.2": true, "169.254.255.255": true,
		"fd00:ec2::254": true, "fd00:ec2::23": true, "fd20:ce::254": true, "100.100.100.200": true,
		"168.63.129.16": true,
		"169.253.0.1":   false, "169.255.0.1": false, "fd00:ec3::1": false, "fd20:ce::253": false,
		"fd20:ce::255": false, "100.100.100.199": false, "100.100.100.201": false, "168.63.129.15": false,
		"168.63.129.17": false, "10.0.0.1": false, "192.0.2.1": false, "2001:db8::1": false,
	} {
		a := netip.MustParseAddr(address)
		require.Equal(t, want, Metadata(a), address)
		never := false
		for _, p := range NeverResolved() {
			never = never || p.Contains(a)
		}
		require.True(t, !want || never, address)
	}
}

// TestPrivate: a range is private if all of it is.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]bool{
		"10.0.0.0/8": true, "10.255.0.0/16": true, "172.16.0.0/12": true, "172.31.0.0/16": true,
		"192.168.0.0/16": true, "192.168.255.0/24": true, "100.64.0.0/10": true, "100.127.0.0/16": true,
		"8.0.0.0/7": false, "10.0.0.0/7": false, "11.0.0.0/16": false, "172.0.0.0/8": false, "172.32.0.0/16": false,
		"192.0.0.0/8": false, "192.169.0.0/16": false, "100.0.0.0/8": false, "100.128.0.0/16": false,
		"127.0.0.0/8": false, "169.254.0.0/16": false, "fd00::/48": false, "8.8.0.0/16": false,
	} {
		require.Equal(t, want, Private(netip.MustParsePrefix(written)), written)
	}
}
