package proof

import (
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/explain"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/hosting"
)

// Egress is what the proxies let one agent do. Everything else is denied.
type Egress struct {
	Agent string `json:"agent"`
	// Allowed and Denied are in the order of the stack file. What is denied is denied whatever is
	// allowed.
	Allowed []Destination `json:"allowed"`
	Denied  []Destination `json:"denied,omitempty"`
	// Credentials are those that the proxies add for the agent, sorted by name.
	Credentials []Reach `json:"credentials,omitempty"`
}

// Destination is one rule about a host.
type Destination struct {
	Rule string `json:"rule"`
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// Tunnel means that nobody reads the requests: methods and paths do not count.
	Tunnel  bool     `json:"tunnel,omitempty"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	// Writes means that the rule lets the agent change something, or send it.
	Writes bool `json:"writes,omitempty"`
	// Below is the name under which strangers rent names, if the host stands for some of them.
	Below string `json:"strangersBelow,omitempty"`
	// Credential is what the proxies add. Own means that the agent's own keys pass.
	Credential string `json:"credential,omitempty"`
	Own        bool   `json:"ownCredentials,omitempty"`
	// Upstream is the fixed place of the host, or "" if DNS finds it.
	Upstream string `json:"upstream,omitempty"`
	// Expires is the end of the rule, or "".
	Expires string `json:"expires,omitempty"`
}

// Reach is where a credential goes.
type Reach struct {
	Credential string `json:"credential"`
	// Sends says how it is sent.
	Sends string   `json:"sends"`
	Hosts []string `json:"hosts"`
	// Writes means that the agent may change something with it.
	Writes bool `json:"writes,omitempty"`
}

// egress returns what the proxies let through. A rule that ends later counts: a proof of today is
// read tomorrow.
func egress(p *plan.Plan) []Egress {
	out := []Egress{}
	for _, a := range p.At(time.Now()).Agents {
		e := Egress{Agent: a.Name, Allowed: []Destination{}}
		for i := range a.Rules {
			d := destination(&a.Rules[i])
			if a.Rules[i].Deny {
				e.Denied = append(e.Denied, d)
				continue
			}
			e.Allowed = append(e.Allowed, d)
			if d.Credential != "" {
				e.add(p, &d)
			}
		}
		slices.SortFunc(e.Credentials, func(a, b Reach) int { return strings.Compare(a.Credential, b.Credential) })
		out = append(out, e)
	}
	return out
}

func destination(r *plan.Rule) Destination {
	d := Destination{
		Rule: r.ID, Host: r.Host, Port: r.Port, Tunnel: r.Mode == plan.ModeTunnel, Methods: r.Methods, Paths: r.Paths,
		Writes: !r.Deny && r.Writes(), Credential: r.Credential, Own: r.OwnCredentials, Expires: r.Expires,
	}
	if rest, ok := strings.CutPrefix(r.Host, "*."); ok {
		d.Below, _ = hosting.Below(rest)
	}
	if r.Upstream != nil {
		d.Upstream = r.Upstream.Address
	}
	return d
}

func (e *Egress) add(p *plan.Plan, d *Destination) {
	i := slices.IndexFunc(e.Credentials, func(r Reach) bool { return r.Credential == d.Credential })
	if i < 0 {
		i = len(e.Credentials)
		e.Credentials = append(e.Credentials, Reach{
			Credential: d.Credential, Sends: explain.Sends(p, d.Credential),
		})
	}
	c := &e.Credentials[i]
	c.Writes = c.Writes || d.Writes
	if at := d.at(); !slices.Contains(c.Hosts, at) {
		c.Hosts = append(c.Hosts, at)
	}
}
