// Package proof makes the report of `postern prove`: what a stack lets out, and why nothing else
// gets out. It has the verdicts on the network of a plan, and what the proxies let through by
// agent.
package proof

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/policies/iam"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// Format is the version of the JSON form. It increases when a reader of the old form would misread
// the new one.
const Format = 1

// Report is everything that is proved about a stack. The same input always gives the same report.
type Report struct {
	Format int    `json:"format"`
	Stack  string `json:"stack"`
	// Live means that the network is what exists, not what is planned.
	Live bool `json:"live,omitempty"`
	// Policy is the version of the stack file's policy, or "" if only the network is known.
	Policy string `json:"policy,omitempty"`
	// Resources is the SHA-256 of the plan's graph, in hexadecimal, or "" if nothing is planned.
	Resources string `json:"resources,omitempty"`
	// Assertions is the SHA-256 of the file of [Own], in hexadecimal, or "" if there is none.
	Assertions string `json:"assertions,omitempty"`
	// Result is the worst of all verdicts: [reach.Fails], [reach.Indeterminate] or [reach.Holds].
	Result reach.Result `json:"result"`
	// Network has the verdicts on the planned network; nil for a stack on this machine.
	Network *reach.Proof `json:"network,omitempty"`
	// Paths are all paths of a hostile agent through the network, each with its verdict.
	Paths []Path `json:"paths,omitempty"`
	// Sandbox has the verdicts on the sandboxes of this machine.
	Sandbox []reach.Verdict `json:"sandbox,omitempty"`
	// Egress is what the proxies let through, by agent.
	Egress []Egress `json:"egress,omitempty"`
	// Waived are the mistakes that somebody has accepted, and without which the proof would fail.
	Waived []Waived `json:"waived,omitempty"`

	graph *graph.Graph
}

// Waived is a mistake that somebody has accepted. Its name is that of [reach.Mistake].
type Waived struct {
	Mistake string `json:"mistake"`
	Owner   string `json:"owner"`
	// Expires is the last day on which it is accepted, as 2006-01-02.
	Expires string `json:"expires"`
}

// Ended returns an error if somebody's acceptance has ended by the day today. The verdicts do not
// depend on the day; whether a report may be relied on does.
func (r *Report) Ended(today string) error {
	for _, w := range r.Waived {
		if today > w.Expires {
			return exit.With(exit.Open, fmt.Errorf("stack %s: the waiver of %s for %q ended on %s: correct the "+
				"network, or ask %s to renew it", r.Stack, guardrail.FaultRail, visible.Text(w.Mistake), w.Expires,
				visible.Text(w.Owner)))
		}
	}
	return nil
}

// Today returns the day by which waivers end, as 2006-01-02.
func Today() string { return time.Now().UTC().Format(time.DateOnly) }

// Of returns the report on a stack, of which at least one of stack, nil for a state, and g, nil for
// a stack on this machine, is known. sandbox are the verdicts on this machine's sandboxes.
func Of(stack *stacks.Stack, g *graph.Graph, sandbox []reach.Verdict) (*Report, error) {
	return (&Report{Format: Format, Sandbox: sandbox}).of(stack, g)
}

func (r *Report) of(stack *stacks.Stack, g *graph.Graph) (*Report, error) {
	var own []reach.Own
	if stack != nil {
		version, err := stack.Plan.Version()
		if err != nil {
			return nil, err
		}
		if own, r.Assertions, err = Own(stack); err != nil {
			return nil, err
		}
		r.Stack, r.Policy, r.Egress = stack.Name, version, egress(stack.Plan)
	}
	if g != nil {
		sum, err := g.Hash()
		if err != nil {
			return nil, err
		}
		r.Stack, r.Resources = g.Stack, sum
		r.prove(stack, g, own)
	}
	if r.Network != nil {
		r.Paths = paths(r.Network)
	}
	r.Result = r.worst()
	return r, nil
}

// Live is [Of] for what exists in a cloud. unread are the questions that the cloud has not
// answered. With one of them nothing is known: what is missing may refuse packets, or let them
// through.
func Live(stack *stacks.Stack, g *graph.Graph, unread []reach.Unknown) (*Report, error) {
	r, err := (&Report{Format: Format, Live: true}).of(stack, g)
	if err != nil {
		return nil, err
	}
	if len(unread) > 0 {
		r.Network.Unknown = append(unread, r.Network.Unknown...)
		for i := range r.Network.Verdicts {
			if v := &r.Network.Verdicts[i]; v.Result == reach.Fails {
				v.Result = reach.Indeterminate
				v.Note = strings.TrimPrefix(v.Note+"; it fails by what was read", "; ")
			}
		}
	}
	r.Paths = paths(r.Network)
	for i := range r.Paths {
		if p := &r.Paths[i]; p.Path == byHand {
			p.Note = "what was there while the cloud was asked is in the proof"
		}
	}
	r.Result = r.worst()
	return r, nil
}

// Slowly says on w what is done if that takes more than a second. Call the function that it returns
// when it is done.
func Slowly(w io.Writer, what string) func() bool {
	return time.AfterFunc(time.Second, func() { fmt.Fprintln(w, what) }).Stop
}

// Network proves what can reach what in a plan, and what its workloads may do as themselves. With
// certify it also names what keeps each assertion: see [reach.Prove]. policy is the stack's, or nil
// if it is not known. own are assertions that somebody wrote. It returns nil if the plan has no
// network.
func Network(g *graph.Graph, policy *plan.Plan, own []reach.Own, certify bool) *reach.Proof {
	p := aws.Prove(g, policy, certify)
	if p != nil {
		p.Verdicts = append(p.Verdicts, iam.Prove(g)...)
		p.Verdicts = append(p.Verdicts, aws.Read(g, nil).Own(own)...)
	}
	return p
}

// Planned is [Network] for what a stack would create, with the assertions next to its file.
func Planned(stack *stacks.Stack, g *graph.Graph, certify bool) (*reach.Proof, error) {
	own, _, err := Own(stack)
	if err != nil {
		return nil, err
	}
	return Network(g, stack.Plan, own, certify), nil
}

// Stale returns what has changed since the report was made, if now is the report of today, or "".
func (r *Report) Stale(now *Report) string {
	switch {
	case r.Resources != now.Resources:
		return "the network"
	case r.Assertions != now.Assertions:
		return "the assertions next to the stack file"
	}
	return ""
}

// maxOwn is more than any assertions need.
const maxOwn = 1 << 20

// Own returns the assertions next to a stack file, and the SHA-256 of their file in hexadecimal:
// NAME.reach for NAME.yaml. There may be none. A file that an agent may have written is refused:
// what it does not say would not be proved.
func Own(stack *stacks.Stack) ([]reach.Own, string, error) {
	failed := func(err error) ([]reach.Own, string, error) {
		return nil, "", fmt.Errorf("read the assertions of stack %s: %w", stack.Name, err)
	}
	file, err := filepath.Abs(strings.TrimSuffix(stack.File, filepath.Ext(stack.File)) + ".reach")
	if err != nil {
		return failed(err)
	}
	// A link to nothing is not no file.
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return failed(err)
	}
	text, err := folders.ReadFile(file, maxOwn)
	if err != nil {
		return failed(err)
	}
	own, err := reach.ParseOwn(file, string(text))
	if err != nil {
		return nil, "", err
	}
	return own, fmt.Sprintf("%x", sha256.Sum256(text)), nil
}

// prove proves the network of the graph. What has no network, or not every agent of the stack
// file, is not proved.
func (r *Report) prove(stack *stacks.Stack, g *graph.Graph, own []reach.Own) {
	var policy *plan.Plan
	if stack != nil {
		policy = stack.Plan
	}
	r.graph, r.Network = g, Network(g, policy, own, true)
	if r.Network != nil && stack != nil && stack.Guardrails.Production {
		r.Network.Verdicts = append(r.Network.Verdicts, r.faults(stack))
	}
	unknown := func(name, token, why string) {
		r.Network.Unknown = append(r.Network.Unknown, reach.Unknown{Resource: name, Type: token, Why: why})
	}
	if r.Network == nil {
		r.Network = &reach.Proof{Stack: g.Stack, Agents: []string{}, Verdicts: []reach.Verdict{}}
		unknown(g.Stack, "stack", "there is no network in it that the model knows")
	}
	if stack != nil {
		for _, name := range missing(stack.Plan, r.Network.Agents) {
			unknown(name, "agent", "it is in the stack file, and in no network of the plan")
		}
	}
}

// Picture returns the network as an SVG, with the cut drawn in.
func (r *Report) Picture() ([]byte, error) {
	if r.graph == nil {
		return nil, errors.New("there is no network to draw: a sandbox of this machine has none")
	}
	return aws.Read(r.graph, nil).Draw(r.Network), nil
}

// faults returns the verdict that no single mistake opens anything, but what somebody has accepted.
// It does not depend on the day: see [Report.Ended].
func (r *Report) faults(stack *stacks.Stack) reach.Verdict {
	v := reach.Verdict{Assertion: "any one mistake -> an assertion that fails: never", Result: reach.Holds}
	if len(r.Network.Agents) == 0 {
		v.Result, v.Note = reach.Indeterminate, "there is no agent whose assertions could fail"
	}
	waived := map[string]stacks.Waiver{}
	for _, w := range stack.Guardrails.Waivers {
		if w.Rail == guardrail.FaultRail {
			waived[w.Resource] = w
		}
	}
	var open, accepted []string
	for i := range r.Network.Mistakes {
		m := r.Network.Mistakes[i]
		if r.Live { // what is accepted has the plan's name
			m.Control.Name = plain(m.Control.Name)
		}
		without := m.Name()
		if w, ok := waived[without]; ok {
			accepted = append(accepted, fmt.Sprintf("%s (until %s, by %s)", without, w.Expires, w.Owner))
			if by := (Waived{without, w.Owner, w.Expires}); !slices.Contains(r.Waived, by) {
				r.Waived = append(r.Waived, by)
			}
			continue
		}
		v.Result, open = reach.Fails, append(open, without)
		if v.Witness == nil {
			v.Witness = m.Witness
		}
	}
	var notes []string
	for _, list := range []struct {
		says  string
		names []string
	}{{"open", open}, {"waived", accepted}} {
		slices.Sort(list.names)
		if names := slices.Compact(list.names); len(names) > 0 {
			notes = append(notes, list.says+": "+strings.Join(names, "; "))
		}
	}
	v.Note = strings.Join(notes, "; ")
	return v
}

func missing(p *plan.Plan, there []string) (names []string) {
	for i := range p.Agents {
		if name := p.Agents[i].Name; !slices.Contains(there, p.Stack+"-agent-"+name) {
			names = append(names, name)
		}
	}
	return names
}

func (r *Report) worst() reach.Result {
	verdicts := r.Sandbox
	if r.Network != nil {
		verdicts = slices.Concat(verdicts, r.Network.Verdicts)
	}
	is := func(results ...reach.Result) bool {
		return slices.ContainsFunc(verdicts, func(v reach.Verdict) bool { return slices.Contains(results, v.Result) })
	}
	switch {
	case is(reach.Fails):
		return reach.Fails
	case len(verdicts) == 0, is(reach.Indeterminate), r.Network != nil && !r.Network.Holds():
		return reach.Indeterminate
	}
	return reach.Holds
}

// Encode writes the report as JSON. The same report always has the same bytes.
func (r *Report) Encode(w io.Writer) error {
	if err := visible.Encode(w, r, "  "); err != nil {
		return fmt.Errorf("encode the proof: %w", err)
	}
	return nil
}

// Decode reads the output of Encode, also without its spaces.
func Decode(text []byte) (*Report, error) {
	r := &Report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("decode the proof: %w", err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("decode the proof: its format is %d, this program reads %d: sign it again with "+
			"`postern prove --sign`", r.Format, Format)
	}
	return r, nil
}

// Deliver writes the report, as JSON or for people, and the picture into the file svg unless that
// is "". It returns an error with the exit status of the result unless every assertion holds.
func (r *Report) Deliver(w io.Writer, asJSON bool, svg string) error {
	if svg != "" {
		picture, err := r.Picture()
		if err == nil {
			err = atomicfile.Write(svg, picture, 0o644)
		}
		if err != nil {
			return fmt.Errorf("draw the network: %w", err)
		}
	}
	write := r.Print
	if asJSON {
		write = r.Encode
	}
	if err := write(w); err != nil {
		return err
	}
	switch r.Result {
	case reach.Holds:
		return r.Ended(Today())
	case reach.Fails:
		return exit.With(exit.Open, fmt.Errorf("stack %s: %s", r.Stack, sentences[r.Result]))
	}
	return exit.With(exit.Unproved, fmt.Errorf("stack %s: %s", r.Stack, sentences[reach.Indeterminate]))
}
