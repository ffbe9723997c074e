package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// metadataHosts are where clouds answer with credentials.
var metadataHosts = []string{
	"169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192", "[fd00:ec2::254]", "[fe80::a9fe:a9fe]", "metadata.google.internal", "metadata", "instance-data", "localhost",
}

// anyway are the rules for names whose addresses a case chooses, each with a gateway.
func anyway(names ...string) func(string) []plan.Rule {
	return func(s string) []plan.Rule {
		var rules []plan.Rule
		for i, n := range names {
			rules = append(rules, plan.Rule{ID: s + "/" + strings.Trim(n, "."), Host: n + s + ".test", Port: 443, Gateway: uint16(9000 + i), Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}})
		}
		return rules
	}
}

// private are addresses that no allowed name may lead to.
var private = []string{
	"127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "100.127.255.255", "198.18.0.1", "198.19.255.255",
	"168.63.129.16", "192.0.0.192", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	"::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1",
	"fd00:ec2::254", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
}

func privateNames() []string {
	var names []string
	for i := range private {
		names = append(names, fmt.Sprintf("p%d.", i))
	}
	return names
}

// addresses is section C: addresses instead of names, and names for addresses.
var addresses = []Case{
	{ID: "C1", What: "metadata services", Ways: []Way{Explicit, Captured, Balancer}, Run: func(s *seat) {
		for _, host := range metadataHosts {
			if s.way == Captured {
				if strings.ContainsAny(host[:1], "1[") && !strings.HasPrefix(host, "[fe80") {
					a := exchange(s.dial("tcp", host+":80"), "GET", request("GET", "/latest/meta-data/iam/security-credentials/", host))
					require.Equal(s, 403, a.Status, "%q: %s", host, a)
					s.deny(plan.ReasonScheme)
				}
				continue
			}
			for _, port := range []string{":80", ":443", ":8775"} {
				_, a := s.connect(host + port)
				require.Equal(s, 403, a.Status, "%q: %s", host, a)
				s.deny(plan.ReasonHost)
			}
			a := s.raw(request("GET", "http://"+host+"/latest/meta-data/", host, "Metadata-Flavor: Google", "X-aws-ec2-metadata-token-ttl-seconds: 60"))
			require.Equal(s, 403, a.Status, "%q: %s", host, a)
			s.deny(plan.ReasonScheme)
		}
	}},
	{ID: "C2", What: "public addresses", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		own := addressOf(s.host(api))
		for _, host := range []string{own, "192.0.2.1", "[2001:db8::1]", "[2606:4700::1111]"} {
			if s.way == Captured {
				_, err := s.handshake(s.dial("tcp", host+":443"), "")
				require.ErrorContains(s, err, "access denied")
			} else {
				_, a := s.connect(host + ":443")
				require.Equal(s, 403, a.Status, "%q: %s", host, a)
			}
			s.deny(plan.ReasonHost)
		}
		if s.way == Explicit { // and not inside a tunnel, as the name of the certificate
			c := s.tunnel(s.host(api))
			_, err := c.Write(helloFor(own))
			require.NoError(s, err)
			a := receive(c, "GET")
			require.True(s, a.refused() && !a.hung())
			s.deny(plan.ReasonName)
		}
	}},
	{ID: "C3", What: "addresses as decimal, octal, hexadecimal, short", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, host := range []string{
			"2130706433", "017700000001", "0x7f000001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "127.1", "127.0.1", "127.0.0.1.", "0", "0.0.0.0", "[::]", "00000127.0.0.1", "127.0.0.0x1", "2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376", "425.510.425.510",
		} {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.deny(plan.ReasonHost)
			a = s.raw(request("GET", "http://"+host+"/", host))
			require.Equal(s, 403, a.Status, "%q: %s", host, a)
			s.deny(plan.ReasonScheme)
		}
	}},
	{ID: "C4", What: "IPv4 in IPv6, zone identifiers", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, host := range []string{
			"[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[2001:0:a9fe:a9fe::]", "[0:0:0:0:0:ffff:7f00:1]",
			"[::1%25eth0]", "[fe80::1%eth0]", "[fe80::1%25lo]", "[::1%00]", "::1", "::ffff:127.0.0.1",
		} {
			if s.way == Captured {
				// The zone is the sandbox's own, and IPv4 in IPv6 is IPv4.
				if !strings.HasPrefix(host, "[") || strings.Contains(host, "%") || strings.Contains(host, "::1]") || strings.Contains(host, "7f00:1") || strings.Contains(host, "127.0.0.1") {
					continue
				}
				_, err := s.handshake(s.dial("tcp", host+":443"), "")
				require.ErrorContains(s, err, "access denied", host)
				s.deny(plan.ReasonHost)
				continue
			}
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			if a.Status == 400 {
				s.deny(plan.ReasonMalformed)
			} else {
				s.deny(plan.ReasonHost)
			}
		}
	}},
	{ID: "C5", What: "allowed names that lead to private addresses", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Rules: anyway(privateNames()...), Zone: func(s string) map[string][][]string {
		zone := map[string][][]string{}
		for i, name := range privateNames() {
			zone[name+s+".test"] = [][]string{{private[i]}}
		}
		return zone
	}, Run: func(s *seat) {
		for i, name := range privateNames() {
			a := s.askHost(s.host(name), "GET", "/")
			require.Equal(s, 403, a.Status, "%s: %s", private[i], a)
			require.Contains(s, a.Body, `"reason":"address_not_allowed"`)
			s.denyBy(plan.ReasonAddress, strings.Trim(name, "."))
		}
	}},
	{ID: "C5", What: "rebinding: public first, private afterwards", Ways: []Way{Explicit, Captured}, Rules: anyway("flip."), Zone: func(s string) map[string][][]string {
		name := "flip." + s + ".test"
		return map[string][][]string{name: {{addressOf(name)}, {"127.0.0.1"}}}
	}, Run: func(s *seat) {
		name := s.host("flip.")
		require.Equal(s, 200, s.askHost(name, "GET", "/first").Status)
		s.allow("flip")
		require.Eventually(s, func() bool {
			r, err := s.world.record()
			return err == nil && r.Queries[name] > 1
		}, patience, 50*time.Millisecond, "Envoy asks again")
		a := s.askHost(name, "GET", "/second")
		// The address that was public continues to be used, or none is.
		if a.Status == 200 {
			s.allow("flip")
		} else {
			require.Equal(s, 403, a.Status, "%s", a)
			s.denyBy(plan.ReasonAddress, "flip")
		}
		for _, arrived := range s.arrivals() {
			require.Equal(s, addressOf(name)+":443", arrived.To)
		}
	}},
	{ID: "C5", What: "a mix of public and private addresses", Ways: []Way{Explicit, Captured, Gateway}, Rules: anyway("mix."), Zone: func(s string) map[string][][]string {
		name := "mix." + s + ".test"
		return map[string][][]string{name: {{"10.0.0.1", addressOf(name), "127.0.0.1", "169.254.169.254"}}}
	}, Run: func(s *seat) {
		for range 6 {
			a := s.askHost(s.host("mix."), "GET", "/")
			require.Equal(s, 200, a.Status, "%s", a)
			s.allow("mix")
		}
		for _, arrived := range s.arrivals() {
			require.Equal(s, addressOf(s.host("mix."))+":443", arrived.To)
		}
	}},
	{ID: "C6", What: "shared, benchmark, multicast, broadcast and own addresses", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, host := range []string{"100.64.0.1", "198.18.0.1", "198.19.255.254", "224.0.0.1", "255.255.255.255", "240.0.0.1", "127.0.0.1", "[::1]", "0.0.0.0", "192.0.2.53"} {
			if s.way == Explicit {
				_, a := s.connect(host + ":443")
				require.Equal(s, 403, a.Status, "%q: %s", host, a)
				s.deny(plan.ReasonHost)
				continue
			}
			switch host {
			case "127.0.0.1", "[::1]", "0.0.0.0":
				// Accepted by the listener for every address, and reset.
				c, out, err := s.sandboxed.do(order{Net: "tcp", Addr: host + ":443"})
				require.NoError(s, err)
				if out.Error == "" {
					_, err = s.handshake(c, s.host(api))
					require.Error(s, err, host)
				}
				c.Close()
			case "224.0.0.1", "255.255.255.255", "240.0.0.1":
				// Whether TCP may be asked for these is the kernel's business.
				c, out, err := s.sandboxed.do(order{Net: "tcp", Addr: host + ":443"})
				require.NoError(s, err)
				if out.Error == "" {
					_, err = s.handshake(c, "")
					require.Error(s, err, host)
					s.deny(plan.ReasonHost)
				}
				c.Close()
			default:
				_, err := s.handshake(s.dial("tcp", host+":443"), "")
				require.ErrorContains(s, err, "access denied", host)
				s.deny(plan.ReasonHost)
			}
		}
	}},
	{ID: "C7", What: "the proxy's own surfaces by the proxy", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, authority := range []string{
			"127.0.0.1:9901", "localhost:15000", "localhost:18000", "admin:80", "intercept:443", "envoy://intercept:443", "xds:80", "unix:80", "unix:/x:443", "internal_client_address:443", "no-server-name.invalid:443",
		} {
			_, a := s.connect(authority)
			require.True(s, a.refused(), "%q: %s", authority, a)
			if a.Status == 400 {
				s.deny(plan.ReasonMalformed)
			} else {
				s.deny(plan.ReasonHost)
			}
		}
		for _, path := range []string{"/config_dump", "/quitquitquit", "/stats", "/v1/status", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"} {
			a := s.raw(request("POST", path, "localhost"))
			require.Equal(s, 403, a.Status, "%s", a)
			s.deny(plan.ReasonScheme)
		}
	}},
	{ID: "C7", What: "the proxy's own surfaces as an allowed host's address", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Rules: anyway("self."), Zone: func(s string) map[string][][]string {
		return map[string][][]string{"self." + s + ".test": {{"127.0.0.1", "::1", "0.0.0.0"}}}
	}, Run: func(s *seat) {
		require.Equal(s, 403, s.askHost(s.host("self."), "GET", "/").Status)
		s.denyBy(plan.ReasonAddress, "self")
	}},
	{ID: "C8", What: "IPv6 next to IPv4", Ways: []Way{Captured}, Run: func(s *seat) {
		_, err := s.handshake(s.dial("tcp", "[2001:db8::1]:443"), s.host(evil))
		require.ErrorContains(s, err, "access denied")
		s.deny(plan.ReasonHost)
		a := exchange(s.dial("tcp", "[2001:db8::1]:80"), "GET", request("GET", "/", s.host(evil)))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
		for _, port := range []string{"22", "25", "53000", "853", "8080", "3128"} {
			s.undialable("tcp", "[2001:db8::1]:"+port)
			s.deny(plan.ReasonHost) // it is told
			s.undialable("udp", "[2001:db8::1]:"+port)
		}
	}},
	{ID: "C9", What: "redirects: nobody follows, and no header goes along", Ways: []Way{Explicit, Gateway}, Run: func(s *seat) {
		for _, to := range []string{"https://" + s.host(evil) + "/x", "http://169.254.169.254/latest/", "http://" + s.host(api) + "/v1/x", "https://" + s.host(open) + "/x"} {
			a := s.ask("GET", "/v1/redirect?to="+to)
			require.Equal(s, 302, a.Status, "%s", a)
			require.Equal(s, to, a.Header.Get("Location"))
			s.allow("api")
		}
		// An agent that follows is asked again, as for every request.
		_, a := s.connect(s.host(evil) + ":443")
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonHost)
		a = s.raw(request("GET", "http://169.254.169.254/latest/", "169.254.169.254", "X-Api-Key: "+canary))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "C10", What: "what another agent may is not added to mine", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		// Narrower than what every other agent has; and one of mine that denies.
		return []plan.Rule{
			{ID: s + "/no", Deny: true, Host: api + s + ".test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{"/v1/private/**"}},
			{ID: s + "/api", Host: api + s + ".test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/a"}},
			{ID: s + "/more", Host: api + s + ".test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}},
		}
	}, Run: func(s *seat) {
		require.Equal(s, 403, s.ask("GET", "/v1/private/x").Status)
		s.denyBy(plan.ReasonDenied, "no")
		require.Equal(s, 403, s.ask("POST", "/v1/a").Status)
		s.deny(plan.ReasonMethod)
		require.Equal(s, 200, s.ask("GET", "/v1/a").Status)
		s.allow("api")
		for _, r := range rulesOf(bystander) { // another agent's hosts
			_, answer := s.connect(fmt.Sprintf("%s:%d", r.Host, r.Port))
			require.Equal(s, 403, answer.Status, r.Host)
			s.deny(plan.ReasonHost)
		}
		a := s.raw(request("GET", "http://localhost:8080/v1/x", "localhost:8080")) // theirs, not mine
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "C10", What: "the rules that another agent has for the same host", Ways: []Way{Socket, Balancer}, Twin: true, Run: func(s *seat) {
		authority := s.host(api) + ":443"
		for _, as := range []string{
			"* " + bystander, "*%20" + bystander, "*/" + bystander, bystander + "|connect/" + authority, s.name + "|connect/" + authority,
			authority + "|" + bystander, "|" + authority, "connect/" + authority, "l7/" + s.host(api) + "/" + authority, "*", bystander,
		} {
			_, a := s.connect(as)
			require.GreaterOrEqual(s, a.Status, 400, "%q: %s", as, a)
			s.denyAs(a, plan.ReasonHost)
		}
		headers := []string{
			"X-Postern-Scope: " + bystander + "|l7/" + s.host(api) + "/" + authority + "|" + s.host(api), "X-Postern-Scope: " + bystander + "|connect/" + authority,
			"x-postern-via: dynamic/" + bystander, "X-Postern-Via: intercept/" + bystander, "X-Postern-Rest: * " + bystander,
		}
		c := s.proxy()
		require.Equal(s, 200, exchange(c, "CONNECT", request("CONNECT", authority, authority, headers...)).Status)
		t, err := s.handshake(c, s.host(api))
		require.NoError(s, err)
		ask := func(method, path, host string) answer {
			return exchange(t, method, request(method, path, host, headers...))
		}
		for _, c := range []struct{ method, path string }{{"DELETE", "/v1/x"}, {"DELETE", "/v2"}, {"PUT", "/"}} {
			require.Equal(s, 403, ask(c.method, c.path, s.host(api)).Status)
			s.deny(plan.ReasonMethod)
		}
		require.Equal(s, 403, ask("GET", "/v2", s.host(api)).Status)
		s.deny(plan.ReasonPath)
		for _, host := range []string{s.host(api), strings.ToUpper(s.host(api)), authority} {
			require.Equal(s, 200, ask("GET", "/v1/x", host).Status)
			s.allow("api")
		}
		for _, a := range s.arrivals() {
			require.Equal(s, canary, a.Header.Get("X-Api-Key"), "the credential of the seat's rule")
			require.Empty(s, a.Header.Values("X-Postern-Scope"))
			require.Empty(s, a.Header.Values("X-Postern-Via"))
		}
		for _, host := range []string{
			s.host(api) + "|" + bystander, bystander + "|" + s.host(api), bystander + "|l7/" + s.host(api) + "/" + authority + "|" + s.host(api), "|" + s.host(api), s.host(api) + "|" + s.host(api),
		} {
			a := exchange(s.secure(s.host(api)), "GET", request("GET", "/v1/x", host, headers...))
			require.GreaterOrEqual(s, a.Status, 400, "%q: %s", host, a)
			s.denyAs(a, plan.ReasonName)
		}
	}},
	{ID: "C7", What: "other agents' and the operators' sockets from the sandbox", Ways: []Way{Inside}, Run: func(s *seat) {
		home := s.fleet.Home
		someone := bystander
		for _, path := range []string{
			filepath.Join(home.AgentDir("n1", someone), "proxy.sock"), filepath.Join(home.AgentDir("n1", s.name), "proxy.sock"), filepath.Join(home.NodeDir("n1"), "admin.sock"), home.XDSSocket(), home.ControlSocket(),
			filepath.Join(home.Root, "world.sock"), "/proc/1/root" + home.ControlSocket(), "/run/postern/nodes/0/../../admin.sock", "/run/postern/nodes/../admin.sock", "/run/postern/nodes/1/proxy.sock",
		} {
			if path != "/run/postern/nodes/0/../../admin.sock" && !strings.HasPrefix(path, "/run") && !strings.HasPrefix(path, "/proc") {
				_, err := os.Stat(path)
				require.NoError(s, err, "a wrong path tests nothing")
			}
			s.undialable("unix", path)
		}
		out, _ := s.sh("find / -path /proc -prune -o -type s -print 2>/dev/null")
		require.ElementsMatch(s, []string{"/run/postern/nodes/0/proxy.sock", filepath.Join(s.sandboxed.dir, relaySocket)}, strings.Fields(out))
		require.NotContains(s, out, someone)
	}},
}
