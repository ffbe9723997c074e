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
	if o.must {
		v.Result, v.Note = Fails, "no path leads there"
		for _, from := range i.each() { // a zone that does not work is seen when the other one is gone
			delivered, path, refused := n.delivered(o, from)
			if p, missing := o.to.Minus(delivered).Witness(); missing {
				v.Result, v.Witness, v.Note = Fails, nil, cmp.Or(refused, "no path leads there")
				if path != nil {
					v.Note = fmt.Sprintf("no path takes %s, although another packet arrives", p)
				}
				if len(i.Subnets) > 1 {
					v.Note += ", from " + from.Subnets[0].Name
				}
				return v
			}
			v.Result, v.Note, v.Witness = Holds, "", witness(path)
		}
		return v
	}
	reaches := func(sure bool) []Hop {
		w := &walker{removed: closed, sure: sure}
		for _, a := range w.from(i, n.Interfaces) {
			if path := o.on(a); path != nil {
				return path
			}
		}
		return nil
	}
	if sure, perhaps := reaches(true), reaches(false); sure != nil {
		v.Result, v.Witness = Fails, witness(sure)
	} else if perhaps != nil {
		v.Result, v.Witness = Indeterminate, witness(perhaps)
	}
	return v
}

// on returns the part of a path that an assertion is about, with its packets, or nil.
func (o *Own) on(a Arrival) []Hop {
	path := slices.Clone(a.Path)
	if to := path[0].at; to == nil || to.Kind != NAT {
		path = path[:1]
	}
	last := &path[len(path)-1]
	if last.Packets = last.Packets.Intersect(o.to); last.Packets.Empty() {
		return nil
	}
	return path
}

// delivered returns which packets of an assertion surely arrive and are answered, a path of one,
// and what refuses the answer to another.
func (n *Network) delivered(o *Own, i *Interface) (all packet.Set, path []Hop, refused string) {
	w := &walker{removed: closed, sure: true}
	for _, a := range w.from(i, n.Interfaces) {
		taken := o.on(a) // of a service's addresses nobody knows which they are
		if taken == nil || a.Place == AtService || a.Place == AtOver {
			continue
		}
		if why := w.unanswered(&Arrival{Path: taken}); why != "" {
			refused = why
			continue
		}
		all, path = all.Union(taken[len(taken)-1].Packets.Sent(everything...)), taken
	}
	return all, path, refused
}
