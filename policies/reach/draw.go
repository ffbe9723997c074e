package reach

import (
	"fmt"
	"slices"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	boxWidth   = 220
	boxHeight  = 44
	columnGap  = 90
	rowGap     = 26
	margin     = 40
	lineHeight = 16
	bandWidth  = 420
	// mostText is the number of characters that fit into a box.
	mostText = 30
)

// style has the colours of both themes: a viewer has one of them.
const style = `<style>
:root{--ink:#1f2328;--paper:#ffffff;--frame:#8c959f;--box:#f6f8fa;--way:#1a7f37;--cut:#57606a;--open:#cf222e}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--frame:#484f58;--box:#161b22;--way:#3fb950;
--cut:#8b949e;--open:#ff7b72}}
text{font:12px sans-serif;fill:var(--ink)}.small{font-size:11px}.title{font-weight:bold}
.paper{fill:var(--paper)}.frame{fill:none;stroke:var(--frame);stroke-dasharray:6 4}
.box{fill:var(--box);stroke:var(--frame)}.way{fill:none;stroke:var(--way);stroke-width:1.5}
.cut{fill:none;stroke:var(--cut);stroke-dasharray:3 4}.mark{stroke:var(--cut);stroke-width:3}
.open{fill:none;stroke:var(--open);stroke-width:2.5}.bad{fill:var(--open)}
</style>
`

// point is a place in the picture.
type point struct{ x, y int }

// picture is an SVG in the making.
type picture struct {
	// lines are behind the boxes of body.
	lines, body   strings.Builder
	at            map[string]point
	width, height int
}

// Draw returns a picture of the network as an SVG: who reaches whom, and for each place that agents
// must not reach, the controls that cut the way. The same proof always has the same bytes.
func (n *Network) Draw(proof *Proof) []byte {
	d := &picture{at: map[string]point{}}
	ways := n.ways()
	bottom := d.place(n, ways)
	for _, w := range ways {
		d.way(w, proof)
	}
	d.band(n, proof, bottom)
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" `+
		`width="%[1]d" height="%[2]d" role="img">
<title>%[3]s</title>
%[4]s<rect class="paper" width="%[1]d" height="%[2]d"/>
%[5]s%[6]s</svg>
`, d.width, d.height, escaped("What stack "+proof.Stack+" lets out"), style, d.lines.String(), d.body.String())
}

// way says that packets get from one thing to another.
type way struct{ from, to, packet string }

// ways returns who reaches whom, as the plan is. Every hop is there once. What answers next to each
// interface is left out: the verdicts say what an agent gets of it.
func (n *Network) ways() []way {
	var out []way
	seen := map[[2]string]bool{}
	w := &walker{removed: closed}
	for _, i := range n.Interfaces {
		if i.Kind != Agent && i.Kind != Proxy && i.Kind != ControlPlane {
			continue
		}
		for _, a := range w.from(i, n.Interfaces) {
			if slices.Contains([]Place{AtResolver, AtMetadata, AtCredentials, AtTime}, a.Place) {
				continue
			}
			for _, h := range a.Path {
				if seen[[2]string{h.From, h.To}] || h.From == h.To {
					continue
				}
				seen[[2]string{h.From, h.To}] = true
				p, _ := h.Packets.Witness()
				out = append(out, way{h.From, h.To, p.String()})
			}
		}
	}
	return out
}

// column returns where things of a kind stand in their network, from left to right.
func (k Kind) column() int {
	switch k {
	case Agent:
		return 0
	case Gate:
		return 1
	case Proxy, ControlPlane, Stranger:
		return 2
	}
	return 3
}

// place draws every interface and every place that something reaches, and a frame for each VPC. It
// returns where the drawing ends.
func (d *picture) place(n *Network, ways []way) int {
	var vpcs []*VPC // those of agents first: they are on the left
	for _, agents := range []bool{true, false} {
		for _, i := range n.Interfaces {
			for _, s := range i.Subnets {
				if (i.Kind == Agent) == agents && !slices.Contains(vpcs, s.VPC) {
					vpcs = append(vpcs, s.VPC)
				}
			}
		}
	}
	columns := make([][]*Interface, 4*len(vpcs)+1)
	for _, i := range n.Interfaces {
		k := len(columns) - 1
		if len(i.Subnets) > 0 {
			k = 4*slices.Index(vpcs, i.Subnets[0].VPC) + i.Kind.column()
		}
		columns[k] = append(columns[k], i)
	}
	x, bottom := margin, 0
	frames := map[*VPC][3]int{} // left, right, bottom
	for _, column := range columns {
		if len(column) == 0 {
			continue
		}
		for row, i := range column {
			y := 2*margin + row*(boxHeight+rowGap)
			d.box(i.Name, string(i.Kind), point{x, y})
			bottom = max(bottom, y+boxHeight)
			for _, s := range i.Subnets {
				f, ok := frames[s.VPC]
				if !ok {
					f[0] = x
				}
				frames[s.VPC] = [3]int{f[0], x + boxWidth, max(f[2], y+boxHeight)}
			}
		}
		x += boxWidth + columnGap
	}
	for _, v := range vpcs {
		f := frames[v]
		fmt.Fprintf(&d.body, `<rect class="frame" x="%d" y="%d" width="%d" height="%d" rx="8"/>`+"\n", f[0]-16, margin,
			f[1]-f[0]+32, f[2]-margin+16)
		d.text("title", f[0]-8, margin+18, "VPC "+v.Name)
	}
	row := 0
	for _, w := range ways {
		if _, there := d.at[w.to]; !there {
			d.box(w.to, "outside", point{x, 2*margin + row*(boxHeight+rowGap)})
			row++
			bottom = max(bottom, 2*margin+row*(boxHeight+rowGap))
		}
	}
	if row > 0 {
		x += boxWidth + columnGap
	}
	d.width = max(x-columnGap+margin, 2*margin+2*bandWidth)
	return bottom + 2*margin
}

func (d *picture) box(name, kind string, at point) {
	d.at[name] = at
	fmt.Fprintf(&d.body, `<g><title>%s</title><rect class="box" x="%d" y="%d" width="%d" height="%d" rx="4"/>`,
		escaped(name), at.x, at.y, boxWidth, boxHeight)
	d.text("", at.x+8, at.y+18, shortened(name, mostText))
	d.text("small", at.x+8, at.y+34, kind)
	d.body.WriteString("</g>\n")
}

// way draws that packets pass, and whether they may.
func (d *picture) way(w way, proof *Proof) {
	class := "way"
	for _, v := range proof.Verdicts {
		for _, s := range v.Witness {
			if v.Result != Holds && s.From == w.from && s.To == w.to {
				class = "open"
			}
		}
	}
	from, to := d.at[w.from], d.at[w.to]
	x1, x2 := from.x+boxWidth, to.x
	switch {
	case to.x == from.x:
		x2 = to.x + boxWidth
	case to.x < from.x:
		x1, x2 = from.x, to.x+boxWidth
	}
	y1, y2 := from.y+boxHeight/2, to.y+boxHeight/2
	fmt.Fprintf(&d.lines, `<path class="%s" d="M%d %d C%d %d %d %d %d %d"><title>%s</title></path>`+"\n", class, x1, y1,
		x1+(columnGap/2), y1, x2-(columnGap/2), y2, x2, y2, escaped(w.from+" -> "+w.to+": "+w.packet))
}

// band draws below the network what agents must not reach, and what cuts the way there.
func (d *picture) band(n *Network, proof *Proof, top int) {
	var agents []string
	for _, i := range n.Interfaces {
		if i.Kind == Agent {
			agents = append(agents, i.Name)
		}
	}
	var targets []string
	lines := map[string][]Verdict{}
	for _, v := range proof.Verdicts {
		for _, a := range agents {
			if to, ok := strings.CutPrefix(v.Assertion, a+" -> "); ok {
				if lines[to] == nil {
					targets = append(targets, to)
				}
				lines[to] = append(lines[to], v)
			}
		}
	}
	d.text("title", margin, top, "agents, and what must not be:")
	y, tallest := top+2*lineHeight, 0
	perRow := max(1, (d.width-2*margin)/(bandWidth+rowGap))
	for k, to := range targets {
		if k%perRow == 0 && k > 0 {
			y, tallest = y+tallest+2*rowGap, 0
		}
		x := margin + k%perRow*(bandWidth+rowGap)
		height := boxHeight/2 + (len(lines[to])+1)*lineHeight
		tallest = max(tallest, height)
		d.target(to, lines[to], point{x, y}, height)
	}
	for k, u := range proof.Unknown {
		line := shortened("unknown: "+u.Resource+" ("+u.Type+"): "+u.Why, 4*mostText)
		d.text("small bad", margin, y+tallest+2*rowGap+k*lineHeight, line)
	}
	d.height = y + tallest + 2*margin + len(proof.Unknown)*lineHeight
}

// target draws one place, the way to it, and the mark that cuts the way or does not.
func (d *picture) target(to string, verdicts []Verdict, at point, height int) {
	open := slices.ContainsFunc(verdicts, func(v Verdict) bool { return v.Result != Holds })
	kept := strings.HasSuffix(to, ": must")
	x := at.x + bandWidth/2
	class := "cut"
	switch {
	case open:
		class = "open"
	case kept:
		class = "way"
	}
	fmt.Fprintf(&d.body, `<path class="%s" d="M%d %d V%d"/>`, class, x, at.y-rowGap, at.y)
	if !open && !kept {
		fmt.Fprintf(&d.body, `<path class="mark" d="M%d %d h20"/>`, x-10, at.y-rowGap/2)
	}
	fmt.Fprintf(&d.body, `<rect class="box" x="%d" y="%d" width="%d" height="%d" rx="4"/>`, at.x, at.y, bandWidth,
		height)
	d.text("title", at.x+8, at.y+18, shortened(to, mostText*2))
	for k, v := range verdicts {
		class, from := "small", strings.TrimSuffix(v.Assertion, " -> "+to)
		if v.Result != Holds {
			class = "small bad"
		}
		d.text(class, at.x+8, at.y+18+(k+1)*lineHeight, shortened(from+": "+v.kept(), mostText*2+8))
	}
	d.body.WriteString("\n")
}

// kept says in a few words why the verdict is what it is.
func (v *Verdict) kept() string {
	switch {
	case v.Result != Holds && len(v.Witness) > 0:
		return "OPEN: " + v.Witness[len(v.Witness)-1].Packet
	case v.Result != Holds:
		return strings.ToUpper(string(v.Result))
	case len(v.Cut) > 0:
		return fmt.Sprintf("cut by each of %d: %s", len(v.Cut), join(v.Cut))
	case len(v.Together) > 0:
		return "cut by " + join(v.Together)
	case len(v.Witness) > 0:
		return v.Witness[len(v.Witness)-1].Packet
	}
	return string(v.Result)
}

func (d *picture) text(class string, x, y int, text string) {
	fmt.Fprintf(&d.body, `<text class="%s" x="%d" y="%d">%s</text>`, class, x, y, escaped(text))
}

// shortened returns the text without what is beyond most characters.
func shortened(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return text
}

// escaped returns text as XML has it. A state has names that somebody else chose.
func escaped(text string) string {
	var out strings.Builder
	for _, c := range text {
		if c == '<' || c == '>' || c == '&' || c == '"' || c == '\'' || c > '~' {
			fmt.Fprintf(&out, "&#%d;", c)
		} else if c >= ' ' {
			out.WriteRune(c)
		} else {
			out.WriteByte('?') // XML has no way to write it
		}
	}
	return out.String()
}
