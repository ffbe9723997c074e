package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/policies/packet"
)

// mostNames bounds the names of a resolver that a proof shows.
const mostNames = 10

// names says which names the resolver of an agent answers, or "" if there is none.
func (n *Network) names(i *Interface) string {
	for _, s := range i.Subnets {
		f := s.VPC.Firewall
		if !s.VPC.Resolver || f == nil || !f.Closed {
			continue
		}
		shown, more := f.Names, ""
		if len(shown) > mostNames {
			shown, more = shown[:mostNames], ", ..."
		}
		note := fmt.Sprintf("the resolver answers %d names (%s%s)", len(f.Names), strings.Join(shown, ", "), more)
		if f.Aliases {
			note += "; their owners say where they lead"
		}
		if slices.ContainsFunc(f.Names, wildcard) {
			note += "; who serves a wildcard sees what is asked below it"
		}
		return note
	}
	return ""
}

// atProxies returns the ports of the proxies that an interface reaches.
func atProxies(arrivals []Arrival) packet.Set {
	var all packet.Set
	for i := range arrivals {
		if a := &arrivals[i]; a.At != nil && a.At.Kind == Proxy {
			all = all.Union(a.Packets().Sent(everything...))
		}
	}
	return all
}

// identities returns the ports of the proxies that each agent reaches. The proxies know an agent by
// its port.
func (n *Network) identities() (out []identified) {
	w := &walker{removed: closed}
	for _, i := range n.Interfaces {
		if i.Kind == Agent {
			out = append(out, identified{i.Agent, atProxies(w.from(i, n.Interfaces))})
		}
	}
	return out
}

// identified is what an agent reaches of the proxies, from wherever.
type identified struct {
	agent   string
	packets packet.Set
}

// identity returns whether an agent reaches another agent's port at the proxies.
func identity(i *Interface, identities []identified) func([]Arrival) []Hop {
	return reached(func(a *Arrival) packet.Set {
		if a.At == nil || a.At.Kind != Proxy {
			return nil
		}
		var same packet.Set
		for _, o := range identities {
			if o.agent != i.Agent {
				same = same.Union(a.Packets().Intersect(o.packets))
			}
		}
		return same
	})
}

// version6 returns what of an arrival is IPv6, but for the services next to the machine.
func version6(a *Arrival) packet.Set {
	if a.At == nil && !slices.Contains([]Place{AtInternet, AtNetwork, AtService, AtOver}, a.Place) {
		return nil
	}
	return a.Packets().Intersect(packet.From(everything[1]))
}

// past returns whether an agent reaches the proxies without a gate on the way. The gate tells the
// proxies who connects (the PROXY header); who does not come by the gate could tell anything.
func past() func([]Arrival) []Hop {
	gate := func(h Hop) bool { return h.at != nil && h.at.Kind == Gate }
	return reached(func(a *Arrival) packet.Set {
		if a.At == nil || a.At.Kind != Proxy || slices.ContainsFunc(a.Path, gate) {
			return nil
		}
		return a.Packets()
	})
}

// doors proves that no stranger reaches the services.
func (n *Network) doors() []Verdict {
	var out []Verdict
	for _, d := range n.Doors {
		v := Verdict{Assertion: "other accounts -> " + d.Name + ": never", Result: Holds}
		if d.Internet {
			v.Assertion = outside.Name + " -> " + d.Name + ": never"
		}
		switch {
		case d.Open != "":
			v.Result, v.Note = Fails, d.Open
		case d.Unsure != "":
			v.Result, v.Note = Indeterminate, d.Unsure
		}
		out = append(out, v)
	}
	return out
}

// musts proves that every agent reaches the proxies, and is answered: from each of its subnets, and
// in each of theirs. A zone that does not work is seen when the other one is gone.
func (n *Network) musts() []Verdict {
	var out []Verdict
	for _, i := range n.Interfaces {
		if i.Kind == Agent {
			out = append(out, n.toProxies(i))
		}
	}
	return out
}

func (n *Network) toProxies(i *Interface) Verdict {
	v := Verdict{Assertion: i.Name + " -> the proxies: must", Result: Fails, Note: "no path leads there"}
	w := &walker{removed: closed, sure: true}
	reached, refused, first := map[*Interface]packet.Set{}, "", []Hop(nil)
	for _, from := range i.each() {
		before := len(reached)
		served := false
		for _, a := range w.from(from, n.Interfaces) {
			if a.At == nil || a.At.Kind != Proxy {
				continue
			}
			if why := w.unanswered(&a); why != "" {
				refused = why
				continue
			}
			served, reached[a.At] = true, reached[a.At].Union(a.Packets())
			if first == nil {
				first = a.Path
			}
		}
		if !served {
			v.Note = cmp.Or(refused, v.Note)
			if before > 0 || len(i.Subnets) > 1 {
				v.Note += ", from " + from.Subnets[0].Name
			}
			return v
		}
	}
	for to, packets := range reached {
		for _, s := range to.Subnets {
			if packets.Intersect(packet.To(to.within(s)...)).Empty() {
				v.Note = fmt.Sprintf("no path leads to %s in %s", to.Name, s.Name)
				return v
			}
		}
	}
	if first != nil {
		v.Result, v.Note, v.Witness = Holds, "", witness(first)
	}
	return v
}

// each returns the interface as it is in each of its subnets.
func (i *Interface) each() (out []*Interface) {
	for _, s := range i.Subnets {
		one := *i
		one.Subnets = []*Subnet{s}
		out = append(out, &one)
	}
	return out
}

// unanswered returns the ACL that would drop the answers on a path, or "". A group remembers whom
// it let out; an ACL does not.
func (w *walker) unanswered(a *Arrival) string {
	for _, h := range a.Path {
		if h.back == nil {
			continue
		}
		replies := h.Packets.Replies(chosen)
		for _, dir := range []struct {
			of  *Subnet
			out bool
		}{{h.back[1], true}, {h.back[0], false}} {
			if dir.of == nil {
				continue
			}
			if allowed, _ := w.acl(dir.of.ACL, dir.out); !replies.Within(allowed) {
				p, _ := replies.Minus(allowed).Witness()
				return fmt.Sprintf("network ACL %s drops the answer %s", dir.of.ACL.Name, p)
			}
		}
	}
	return ""
}

// witness returns a path with one packet for each hop.
func witness(path []Hop) []Step {
	var out []Step
	for _, h := range path {
		p, ok := h.Packets.Witness()
		if !ok {
			continue
		}
		s := Step{From: h.From, To: h.To, Packet: p.String()}
		for _, by := range h.steps {
			if text := by(p); text != "" {
				s.By = append(s.By, text)
			}
		}
		out = append(out, s)
	}
	return out
}
