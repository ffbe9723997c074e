package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/policies/packet"
)

// Own is an assertion that somebody wrote: FROM -> PREFIX [tcp/PORT|udp/PORT]: never|must.
type Own struct {
	from, says string
	to         packet.Set
	must       bool
}

// Whom an assertion of one's own is about, besides an agent by its name.
var groupsOfOwn = map[string]Kind{"agents": Agent, "proxies": Proxy, "control-plane": ControlPlane}

// ParseOwn reads assertions, one a line. Empty lines, and lines that begin with #, mean nothing.
func ParseOwn(file, text string) ([]Own, error) {
	var out []Own
	for k, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		o, err := parseOwn(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w; write it like \"coder -> 10.0.0.0/8 tcp/443: never\"", file, k+1, err)
		}
		out = append(out, o)
	}
	return out, nil
}

func parseOwn(line string) (Own, error) {
	from, rest, ok := strings.Cut(line, " -> ")
	at := strings.LastIndex(rest, ": ")
	if !ok || at < 0 || strings.ContainsAny(from, " \t") || from == "" {
		return Own{}, fmt.Errorf("%q is not a valid assertion", line)
	}
	o := Own{from: from, says: rest}
	switch verdict := rest[at+2:]; verdict {
	case "must":
		o.must = true
	case "never":
	default:
		return Own{}, fmt.Errorf("%q is neither never nor must", verdict)
	}
	words := strings.Fields(rest[:at])
	if len(words) == 0 || len(words) > 2 {
		return Own{}, fmt.Errorf("%q is not a network and at most one port", rest[:at])
	}
	prefix, err := netip.ParsePrefix(words[0])
	if err != nil || prefix != prefix.Masked() {
		return Own{}, fmt.Errorf("%q is not a valid network", words[0])
	}
	o.to = packet.To(prefix)
	if len(words) == 2 {
		name, number, _ := strings.Cut(words[1], "/")
		protocol := map[string]uint8{"tcp": packet.TCP, "udp": packet.UDP}[name]
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || protocol == 0 {
			return Own{}, fmt.Errorf("%q is not a valid port", words[1])
		}
		o.to = o.to.Intersect(packet.On(packet.Span[uint8]{First: protocol, Last: protocol},
			packet.Span[uint16]{First: uint16(port), Last: uint16(port)}))
	}
	return o, nil
}

// Own proves what somebody asserts. It is about the addresses to which something sends: what a gate
// makes of a connection is said of the gate.
func (n *Network) Own(list []Own) []Verdict {
	var out []Verdict
	for _, o := range list {
		found := false
		for _, i := range n.Interfaces {
			kind, isGroup := groupsOfOwn[o.from]
			is := isGroup && i.Kind == kind
			if is || !isGroup && i.Kind == Agent && strings.HasSuffix(i.Agent, "-agent-"+o.from) {
				found = true
				out = append(out, n.own(&o, i))
			}
		}
		if !found {
			out = append(out, Verdict{
				Assertion: o.from + " -> " + o.says, Result: Indeterminate,
				Note: "nothing in the network has this name: agents, proxies, control-plane, or an agent's name",
			})
		}
	}
	return out
}

func (n *Network) own(o *Own, i *Interface) Verdict {
	v := Verdict{Assertion: i.Name + " -> " + o.says, Result: Holds}
	refused := ""
	reaches := func(sure bool) []Hop {
		w := &walker{removed: closed, sure: sure}
		for _, a := range w.from(i, n.Interfaces) {
			path := slices.Clone(a.Path)
			if to := path[0].at; to == nil || to.Kind != NAT {
				path = path[:1]
			}
			last := &path[len(path)-1]
			if last.Packets = last.Packets.Intersect(o.to); last.Packets.Empty() {
				continue
			}
			if refused = w.unanswered(&Arrival{Path: path}); refused == "" || !o.must {
				return path
			}
		}
		return nil
	}
	sure, perhaps := reaches(true), reaches(false)
	switch {
	case o.must && sure != nil:
		v.Witness = witness(sure)
	case o.must:
		v.Result, v.Note = Fails, cmp.Or(refused, "no path leads there")
	case sure != nil:
		v.Result, v.Witness = Fails, witness(sure)
	case perhaps != nil:
		v.Result, v.Witness = Indeterminate, witness(perhaps)
	}
	return v
}
