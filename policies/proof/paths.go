package proof

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/policies/reach"
)

// Path is one way that a hostile agent could try, and the verdict on it.
type Path struct {
	Number int    `json:"number"`
	Path   string `json:"path"`
	// Result is the worst of all verdicts on the path, or [Residual].
	Result reach.Result `json:"result"`
	// By are the assertions that close the path for every agent, without the agents' names.
	By   []string `json:"by,omitempty"`
	Note string   `json:"note,omitempty"`
}

// Residual is the result of a path that no plan of a network closes.
const Residual reach.Result = "residual"

// The assertions that close paths: the end of each.
const (
	noInternet = "the internet or another network: never"
	noAgent    = "an agent: never"
	noKeys     = "credentials of the metadata service: never"
)

// byHand is the path that only the proof of a plan leaves open.
const byHand = "what somebody adds by hand"

// attempts are the paths of a hostile agent. Where by is empty, the note says what there is
// instead.
var attempts = []Path{
	{Path: "the internet, by an internet or NAT gateway", By: []string{noInternet}},
	{Path: "IPv6", By: []string{"an IPv6 address: never"}},
	{Path: "the network's resolver", By: []string{"DNS: never", "DNS: only listed names"}},
	{
		Path: "public resolvers, and DNS over HTTPS", By: []string{noInternet},
		Note: "the proxies let DNS over HTTPS through if the policy allows its host",
	},
	{Path: "credentials of the instance metadata service", By: []string{noKeys}},
	{
		Path: "credentials of the task metadata service", By: []string{noKeys},
		Note: "a task reads its account, its names and its addresses there",
	},
	{Path: "the time service, DHCP and licences, next to the machine", Note: "they only answer"},
	{Path: "other agents", By: []string{noAgent, "anything else: never"}},
	{Path: "another agent's identity", By: []string{"another agent's port at the proxies: never"}},
	{
		Path: "the control plane, and the proxies' own ports",
		By:   []string{"the control plane: never", "an admin port of the proxies: never"},
	},
	{
		Path: "the cloud's API", By: []string{"the cloud's API: only by policies that refuse strangers"},
		Note: "the policy of the stack file says what the proxies let through",
	},
	{
		Path: "gateway endpoints and prefix lists",
		By:   []string{noInternet, "the cloud's API: only by policies that refuse strangers"},
	},
	{
		Path: "the default group, ACL and routing table", By: []string{noInternet, noAgent, "anything else: never"},
		Note: "they are read like all others",
	},
	{Path: "other VPCs and other accounts", By: []string{noInternet, "other accounts -> "}},
	{
		Path: "the proxies' own network, by a request to them",
		By:   []string{"private addresses: only the control plane and services", "another network: never"},
		Note: "the proxies refuse private and link-local addresses themselves",
	},
	{Path: "a forged PROXY header", By: []string{"the proxies past their gate: never"}},
	{
		Path: byHand,
		Note: "a proof is about what is planned; `postern drift` finds what is there besides",
	},
	{Path: "the log", Note: "who may read logs of the account reads what an agent prints, on Fargate"},
	{
		Path: "a proxy that somebody has taken over",
		Note: "it reaches every host that its network lets out, with the credentials that it adds",
	},
	{Path: "timing, volume, and what a host takes", Note: "the policy of the stack file decides who may write"},
}

// paths returns every path with its verdict. An assertion that is nowhere closes nothing.
func paths(p *reach.Proof) []Path {
	out := slices.Clone(attempts)
	for i := range out {
		path := &out[i]
		path.Number = i + 1
		if len(path.By) == 0 {
			path.Result = Residual
			continue
		}
		var found []string
		path.Result = reach.Holds
		for _, v := range p.Verdicts {
			for _, by := range path.By {
				if !strings.HasSuffix(v.Assertion, "-> "+by) && !strings.HasPrefix(v.Assertion, by) {
					continue
				}
				if !slices.Contains(found, by) {
					found = append(found, by)
				}
				if v.Result == reach.Fails || v.Result != reach.Holds && path.Result == reach.Holds {
					path.Result = v.Result
				}
			}
		}
		switch path.By = found; {
		case path.Result != reach.Holds:
		case len(found) == 0:
			path.Result = reach.Indeterminate
		case len(p.Unknown) > 0: // it may carry packets from wherever to wherever
			path.Result = reach.Indeterminate
			path.Note = strings.TrimPrefix(path.Note+"; "+because(p.Unknown), "; ")
		}
	}
	return out
}

// because says which things that nobody knows leave a path open.
func because(unknown []reach.Unknown) string {
	text := fmt.Sprintf("nobody knows %s (%s)", unknown[0].Resource, unknown[0].Type)
	if more := len(unknown) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}
