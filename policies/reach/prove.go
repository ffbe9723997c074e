package reach

import (
	"slices"
	"strings"

	"github.com/postern/postern/policies/packet"
)

// Proof has the verdicts on a network.
type Proof struct {
	Stack string `json:"stack"`
	// Agents are those that have machines or tasks in the network, sorted.
	Agents   []string  `json:"agents"`
	Verdicts []Verdict `json:"verdicts"`
	// Mistakes are the controls whose removal alone makes an assertion fail.
	Mistakes []Mistake `json:"mistakes,omitempty"`
	Unknown  []Unknown `json:"unknown,omitempty"`
}

// Result is the outcome of one assertion.
type Result string

// The results. Only Holds is good.
const (
	Holds         Result = "holds"
	Fails         Result = "fails"
	Indeterminate Result = "indeterminate"
)

// Verdict is an assertion with its proof.
type Verdict struct {
	Assertion string `json:"assertion"`
	Result    Result `json:"result"`
	// Witness is how a failed assertion is broken, or how a "must" is kept.
	Witness []Step `json:"witness,omitempty"`
	// Cut are the controls of which each alone, without all the others, keeps the assertion. With
	// two or more, no single mistake breaks it.
	Cut []Control `json:"cut,omitempty"`
	// Together are controls that keep the assertion only together, if none does alone.
	Together []Control `json:"together,omitempty"`
	// Note says what else a reader must know.
	Note string `json:"note,omitempty"`
}

// Step is one hop of a witness.
type Step struct {
	From   string   `json:"from"`
	To     string   `json:"to"`
	Packet string   `json:"packet"`
	By     []string `json:"by,omitempty"`
}

// Mistake is a control that must not be lost.
type Mistake struct {
	Control Control `json:"control"`
	Opens   string  `json:"opens"`
	Witness []Step  `json:"witness"`
}

// Name returns the name by which somebody accepts the mistake. It is that of the control, but where
// AWS has no second one: then it is what the mistake opens, whoever makes it.
func (m *Mistake) Name() string {
	_, opens, _ := strings.Cut(strings.TrimSuffix(m.Opens, ": never"), " -> ")
	switch {
	case m.Control.swaps():
		return "own group of an agent -> " + opens
	case m.Control.What == ControlListener:
		return "target of a listener -> " + opens
	}
	return m.Control.String()
}

// Nowhere is the note of an assertion that needs no control.
const Nowhere = "nothing in the plan leads there, whatever is opened"

// Holds reports whether every assertion holds and nothing is unknown.
func (p *Proof) Holds() bool {
	return len(p.Unknown) == 0 && !slices.ContainsFunc(p.Verdicts, func(v Verdict) bool { return v.Result != Holds })
}

// assertion is one sentence about a network. broken returns how it is broken by what the interface
// from reaches, or nil. It looks at each arrival alone.
type assertion struct {
	says string
	from *Interface
	note string
	// out means that what it forbids is a way out.
	out bool
	// unsure means that the plan does not say whether it is forbidden.
	unsure bool
	broken func(arrivals []Arrival) []Hop
}

// prover has the assertions of a network, by the interface that they are about.
type prover struct {
	n        *Network
	controls []Control
	nevers   []assertion
	about    map[*Interface][]int
}

// closed removes no control.
func closed(Control) bool { return false }

// check calls visit with every assertion about an interface that is broken when controls are
// removed, and how.
func (p *prover) check(i *Interface, sure bool, removed func(Control) bool, visit func(k int, how []Hop)) {
	w := &walker{removed: removed, sure: sure}
	arrivals := w.from(i, p.n.Interfaces)
	for _, k := range p.about[i] {
		if how := p.nevers[k].broken(arrivals); how != nil {
			visit(k, how)
		}
	}
}

// Prove proves the standing assertions about a network. With certify, it also names what keeps each
// assertion, and what would break it: that takes a walk for each control.
func Prove(stack string, n *Network, certify bool) *Proof { return prove(stack, n, certify, certify) }

// Mistakes returns the single mistakes that make an assertion about the network fail.
func Mistakes(n *Network) []Mistake { return prove("", n, true, false).Mistakes }

func prove(stack string, n *Network, mistakes, certify bool) *Proof {
	for _, i := range n.Interfaces {
		i.others, i.swaps = n.others(i), nil
		for _, g := range i.others {
			i.swaps = append(i.swaps, Control{controlOwn + g.Name + controlOf, i.Name})
		}
	}
	out := &Proof{Stack: stack, Agents: n.agents(), Verdicts: []Verdict{}, Unknown: n.Unknown}
	if len(out.Agents) == 0 {
		out.Unknown = append(out.Unknown, Unknown{stack, "stack", "it has no agent that the model knows"})
	}
	p := &prover{n: n, controls: n.Controls(), nevers: n.assertions(), about: map[*Interface][]int{}}
	for k, a := range p.nevers {
		out.Verdicts = append(out.Verdicts, Verdict{Assertion: a.says, Result: Holds, Note: a.note})
		p.about[a.from] = append(p.about[a.from], k)
	}
	isolated := n.Isolated()
	for _, i := range append(slices.Clone(n.Interfaces), outside, beyond) {
		if p.about[i] == nil {
			continue
		}
		for _, pass := range []struct {
			sure   bool
			result Result
		}{{false, Indeterminate}, {true, Fails}} {
			p.check(i, pass.sure, closed, func(k int, how []Hop) {
				out.Verdicts[k].Result, out.Verdicts[k].Witness = pass.result, witness(how)
				if p.nevers[k].unsure {
					out.Verdicts[k].Result = Indeterminate
				}
			})
		}
		if isolated && i.Kind == Agent {
			out.Verdicts = append(out.Verdicts, p.one(i, out))
		} else if mistakes {
			p.mistakes(i, out)
		}
		if certify && len(n.Interfaces) <= mostNamed {
			p.certify(i, out)
		}
	}
	out.Verdicts = append(append(out.Verdicts, n.musts()...), n.reachInternet()...)
	out.Verdicts = append(out.Verdicts, n.toServices()...)
	out.Verdicts = append(out.Verdicts, n.doors()...)
	return out
}

// one returns the verdict that no single mistake gives an agent a way out.
func (p *prover) one(i *Interface, out *Proof) Verdict {
	v := Verdict{Assertion: i.Name + " -> a way out after any one mistake: never", Result: Holds}
	if len(p.n.Interfaces) > mostSwapped {
		v.Note = "the network is large: that the agent has another group was not tried"
	}
	before := len(out.Mistakes)
	p.mistakes(i, out)
	for _, k := range p.about[i] {
		a, is := &p.nevers[k], &out.Verdicts[k]
		if !a.out {
			continue
		}
		if is.Result != Holds && v.Result != Fails {
			v.Result, v.Witness, v.Note = is.Result, is.Witness, "no mistake is needed"
		}
		for _, m := range out.Mistakes[before:] {
			if m.Opens == a.says && v.Result == Holds {
				v.Result, v.Witness, v.Note = Fails, m.Witness, "without \""+m.Control.String()+"\""
			}
		}
	}
	return v
}

// mistakes finds the mistakes that break an assertion about an interface. Without a control, only
// those parts of the walk may differ that ask about it; and what holds is broken by no other part.
func (p *prover) mistakes(i *Interface, out *Proof) {
	w := &walker{}
	parts, asked := w.parts(i, p.n.Interfaces), map[Control][]int{}
	for n, part := range parts {
		w.removed = func(c Control) bool {
			if of := asked[c]; len(of) == 0 || of[len(of)-1] != n {
				asked[c] = append(of, n)
			}
			return false
		}
		part()
	}
	for _, c := range p.controls {
		w.out, w.removed = nil, func(x Control) bool { return x == c }
		for _, n := range asked[c] {
			parts[n]()
		}
		for _, k := range p.about[i] {
			if out.Verdicts[k].Result != Holds {
				continue
			}
			if how := p.nevers[k].broken(w.out); how != nil {
				out.Mistakes = append(out.Mistakes, Mistake{c, p.nevers[k].says, witness(how)})
			}
		}
	}
}

// certify finds the controls that keep each assertion about an interface.
func (p *prover) certify(i *Interface, out *Proof) {
	controls := slices.DeleteFunc(slices.Clone(p.controls), Control.swaps) // whoever has which group is sure
	alone := map[int][]Control{}
	for _, c := range controls {
		open := map[int]bool{}
		p.check(i, false, func(x Control) bool { return x != c && !x.swaps() }, func(k int, _ []Hop) { open[k] = true })
		for _, k := range p.about[i] {
			if !open[k] {
				alone[k] = append(alone[k], c)
			}
		}
	}
	for _, k := range p.about[i] {
		v := &out.Verdicts[k]
		switch {
		case v.Result != Holds:
		case len(alone[k]) == len(controls):
			v.Note = strings.TrimPrefix(v.Note+"; "+Nowhere, "; ")
		case len(alone[k]) > 0:
			v.Cut = alone[k]
		default:
			v.Together = together(controls, func(removed func(Control) bool) (open bool) {
				p.check(i, false, removed, func(x int, _ []Hop) { open = open || x == k })
				return open
			})
		}
	}
}

// mostNamed bounds the interfaces of networks for which a proof names the controls that cut: that
// takes a walk through the whole network for each control and each interface. mostSwapped bounds
// those for which it tries each group in place of each other.
const (
	mostNamed   = 20
	mostSwapped = 60
)

// together returns controls that are enough, of which none can be left out. opens says whether the
// assertion fails without some controls.
func together(controls []Control, opens func(removed func(Control) bool) bool) []Control {
	needed := slices.Clone(controls)
	for _, c := range controls {
		rest := slices.DeleteFunc(slices.Clone(needed), func(x Control) bool { return x == c })
		if !opens(func(x Control) bool { return !x.swaps() && !slices.Contains(rest, x) }) {
			needed = rest
		}
	}
	return needed
}

// reached returns an assertion's broken function: the first arrival that is bad.
func reached(bad func(a *Arrival) packet.Set) func([]Arrival) []Hop {
	return func(arrivals []Arrival) []Hop {
		for i := range arrivals {
			if packets := bad(&arrivals[i]); !packets.Empty() {
				path := slices.Clone(arrivals[i].Path)
				last := len(path) - 1
				path[last].Packets = packets
				// A NAT gateway only changes the source.
				for k := last - 1; k >= 0 && path[k].at != nil && path[k].at.Kind == NAT; k-- {
					path[k].Packets = path[k].Packets.Intersect(path[k+1].Packets.Sent(everything...))
				}
				return path
			}
		}
		return nil
	}
}

func at(places ...Place) func([]Arrival) []Hop {
	return reached(func(a *Arrival) packet.Set {
		if a.Place != AtInterface && slices.Contains(places, a.Place) {
			return a.Packets()
		}
		return nil
	})
}

func toKind(kinds ...Kind) func([]Arrival) []Hop {
	return reached(func(a *Arrival) packet.Set {
		if a.At != nil && slices.Contains(kinds, a.At.Kind) {
			return a.Packets()
		}
		return nil
	})
}

// assertions returns what must never be, for each interface that it is about.
func (n *Network) assertions() []assertion {
	var out []assertion
	isolated, identities := n.Isolated(), n.identities()
	way, planned := n.wayOut()
	doubt := ""
	if !planned {
		doubt = "the ports of the policy's destinations are not known"
	}
	for _, i := range n.Interfaces {
		add := func(to string, note string, broken func([]Arrival) []Hop) *assertion {
			out = append(out, assertion{says: i.Name + " -> " + to, from: i, note: note, broken: broken})
			return &out[len(out)-1]
		}
		switch i.Kind {
		case Agent:
			add("the internet or another network: never", "", at(AtInternet, AtNetwork, AtOver)).out = true
			add("an IPv6 address: never", "", reached(version6))
			asks, note := "DNS: never", n.names(i)
			if note != "" {
				asks = "DNS: only listed names"
			}
			add(asks, note, reached(func(a *Arrival) packet.Set {
				if a.Place != AtResolver || a.Answers.closed() && !(isolated && a.Answers.chosen()) {
					return nil
				}
				return a.Packets()
			})).out = note == ""
			add("credentials of the metadata service: never", "", at(AtCredentials))
			add("an agent: never", "", toKind(Agent))
			add("the control plane: never", "", toKind(ControlPlane))
			add("an admin port of the proxies: never", "", reached(admin))
			add("another agent's port at the proxies: never", "", identity(i, identities))
			add("the proxies past their gate: never", "", past())
			add("the cloud's API: only by policies that refuse strangers", "", reached(func(a *Arrival) packet.Set {
				if a.Place == AtService || a.Strangers {
					return a.Packets()
				}
				return nil
			}))
			add("anything else: never", "", toKind(Stranger, NAT))
		case Proxy:
			add("an agent: never", "", toKind(Agent))
			add("another network: never", "", at(AtNetwork))
			add("private addresses: only the control plane and services", "", toKind(Proxy, Gate, Stranger))
			add("the internet: only "+way.String(), doubt, onlyBy(way)).unsure = !planned
		case ControlPlane:
			add("an agent or a proxy: never", "", toKind(Agent, Proxy))
			add("another network: never", "", at(AtNetwork))
			if isolated && !way.Control {
				add("the internet: never", doubt, at(AtInternet)).unsure = !planned
			} else {
				add("the internet: only "+way.String(), doubt, onlyBy(way)).unsure = !planned
			}
		case Stranger: // at the proxies, whoever reaches an agent's port is that agent
			add("the proxies: never", "", toKind(Proxy))
		}
	}
	out = append(out, assertion{says: outside.Name + " -> anything: never", from: outside, broken: reached(
		func(a *Arrival) packet.Set { return a.Packets() })})
	for _, to := range []struct {
		says string
		kind Kind
	}{
		{"the control plane", ControlPlane},
		{"an endpoint of the cloud's API", Service},
		{"the gate", Gate},
		{"a proxy", Proxy},
	} {
		says := beyond.Name + " -> " + to.says + ": never"
		out = append(out, assertion{says: says, from: beyond, broken: toKind(to.kind)})
	}
	return out
}

// onlyBy returns whether the internet is reached but by the way of the policy.
func onlyBy(way *Out) func([]Arrival) []Hop {
	return reached(func(a *Arrival) packet.Set {
		if a.Place != AtInternet && a.Place != AtOver {
			return nil
		}
		return a.Packets().Minus(way.packets())
	})
}

// admin returns what of an arrival is not for agents.
func admin(a *Arrival) packet.Set {
	if a.At == nil || a.At.Kind != Proxy || len(a.At.Admin) == 0 {
		return nil
	}
	return a.Packets().Intersect(toPorts(a.At.Admin))
}
