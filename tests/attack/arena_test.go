package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// patience bounds everything that is waited for.
const patience = time.Minute

// pause is between looks at what nothing announces.
const pause = 20 * time.Millisecond

// canary and second are the values of the credentials.
const (
	canary = "s3cr3t-canary-b1f0c7"
	second = "s3cr3t-second-77ad12"
)

// The names of the hosts of a case, each followed by the suffix of its seat.
const (
	api   = "api."   // GET and POST /v1/**, with credential "key", and a gateway
	open  = "open."  // everything, no credential
	other = "other." // GET /v1/**, with credential "other"
	h2    = "h2."    // everything; the upstream speaks HTTP/2
	evil  = "evil."  // nothing: not in the policy
)

// bystander is an agent that does nothing: what would it be to be this one? It may do everything
// at the hosts of all seats.
const bystander = "bystander"

// besides are the rules of the bystander for the hosts that a seat has rules for. Wildcards and
// what is passed through stay the seat's alone.
func besides(seat string, rules []plan.Rule) []plan.Rule {
	var all []plan.Rule
	for _, r := range rules {
		if !strings.HasPrefix(r.Host, "*") && r.Mode != plan.ModeTunnel && !slices.ContainsFunc(all, func(o plan.Rule) bool { return o.Host == r.Host && o.Port == r.Port }) {
			all = append(all, plan.Rule{
				ID: fmt.Sprintf("%s/%s-%d", bystander, seat, len(all)), Host: r.Host, Port: r.Port, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
			})
		}
	}
	return all
}

// arena is the fleet, the world, and what all cases share.
type arena struct {
	fleet *fleet.Fleet
	world *worldClient
	plan  *plan.Plan
	// homes holds the agents' working directories; self is a copy of this
	// binary there, inside the sandbox's side, bwrap what makes the sandbox.
	homes, self, inside, bwrap string
	pid                        int
	// files are the paths of the secrets of cases that change them.
	files map[string]string
	// spare starts another fleet, outside the world.
	spare func() *fleet.Fleet
	// heard are the events so far, by agent.
	heard   map[string][]audit.Event
	hearing sync.Mutex
}

// rulesOf is the policy of a seat whose case has none of its own.
func rulesOf(s string) []plan.Rule {
	rule := func(name, host string, port uint16, methods, paths []string, credential string) plan.Rule {
		return plan.Rule{ID: s + "/" + name, Host: host + s + ".test", Port: port, Methods: methods, Paths: paths, Credential: credential}
	}
	gateway := rule("api", api, 443, []string{"GET", "POST"}, []string{"/v1/**"}, "key")
	gateway.Gateway = 8080
	return []plan.Rule{
		gateway,
		rule("open", open, 443, []string{plan.AnyMethod}, []string{plan.AnyPath}, ""),
		rule("other", other, 443, []string{"GET"}, []string{"/v1/**"}, "other"),
		rule("h2", h2, 443, []string{plan.AnyMethod}, []string{plan.AnyPath}, ""),
		rule("port", api, 8443, []string{"GET"}, []string{plan.AnyPath}, ""),
	}
}

// newArena starts everything and publishes one plan with an agent for each seat.
func newArena(t *testing.T, seats []*seat) *arena {
	t.Helper()
	a := &arena{fleet: fleet.New(t, 0), files: map[string]string{}, heard: map[string][]audit.Event{}}
	a.spare = func() *fleet.Fleet { return fleet.New(t, 1) }
	root := a.fleet.Home.Root
	a.world = newWorld(t, root)
	var err error
	a.bwrap, err = exec.LookPath("bwrap")
	require.NoError(t, err)
	a.fleet.Envoy, err = a.world.envoyIn(root, fleet.Envoy(t))
	require.NoError(t, err)
	a.fleet.StartNode("n1")
	a.pid = a.fleet.EnvoyPID("n1")

	// Not t.TempDir: a socket's path is short.
	a.homes, err = os.MkdirTemp("", "attack")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(a.homes)) })
	require.NoError(t, os.MkdirAll(filepath.Join(a.homes, "home"), 0o755))
	a.self = filepath.Join(a.homes, "self")
	b, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.self, b, 0o755))
	a.inside = filepath.Join(a.homes, "postern-sandbox")
	fleet.Put(t, a.homes, "postern-sandbox")

	p := &plan.Plan{Stack: "test", Resolvers: []string{worldResolver}, Credentials: []plan.Credential{
		{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + a.fleet.Secret("key", canary)},
		{Name: "other", Kind: plan.KindHeader, Header: "authorization", Prefix: "Bearer ", Secret: "file://" + a.fleet.Secret("other", second)},
	}}
	zone := map[string][][]string{}
	beside := plan.Agent{Name: bystander, Rules: rulesOf(bystander)}
	for i, s := range seats {
		agent := plan.Agent{Name: s.name}
		if s.way == Balancer {
			agent.Port = uint16(firstPort + i)
		}
		if s.Rules != nil {
			agent.Rules = s.Rules(s.name)
		} else {
			agent.Rules = rulesOf(s.name)
		}
		for i := range agent.Rules {
			// A credential of the case's own, which it may change.
			if c := agent.Rules[i].Credential; c != "key" && c != "other" && c != "" {
				if a.files[c] == "" {
					a.files[c] = a.fleet.Secret(c, canary)
					p.Credentials = append(p.Credentials, plan.Credential{Name: c, Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + a.files[c]})
				}
			}
		}
		if s.Zone != nil {
			for name, answers := range s.Zone(s.name) {
				zone[name] = answers
			}
		}
		p.Agents = append(p.Agents, agent)
		beside.Rules = append(beside.Rules, besides(s.name, agent.Rules)...)
		if s.Twin {
			twin := plan.Agent{Name: "twin-" + s.name, Rules: slices.Clone(agent.Rules)}
			for i := range twin.Rules {
				twin.Rules[i].ID = twin.Name + "/" + plan.NameOf(twin.Rules[i].ID)
			}
			p.Agents = append(p.Agents, twin)
		}
	}
	p.Agents = append(p.Agents, beside)
	slices.SortFunc(p.Agents, func(x, y plan.Agent) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(p.Credentials, func(x, y plan.Credential) int { return strings.Compare(x.Name, y.Name) })
	require.NoError(t, a.world.setZone(zone))
	a.fleet.MustPublishLarge(p)
	a.plan = p
	a.listen(t)
	return a
}

// timeout is the context of something that must not hang.
func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// listen reads the log from now on, once for all agents.
func (a *arena) listen(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- audit.Follow(ctx, a.fleet.Home.AuditDir(), audit.Filter{}, func(e audit.Event) error {
			a.hearing.Lock()
			defer a.hearing.Unlock()
			if e.Over() {
				a.heard[e.Agent] = append(a.heard[e.Agent], e)
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

// events are those of one agent so far, one for each request that is over.
func (a *arena) events(agent string) []audit.Event {
	a.hearing.Lock()
	defer a.hearing.Unlock()
	return slices.Clone(a.heard[agent])
}

// strays are packets to where no rule leads.
func (a *arena) strays(r Record) []string {
	var strays []string
	for flow := range r.Packets {
		if flow == "udp "+worldResolver || flow == "tcp "+worldResolver {
			continue
		}
		network, to, _ := strings.Cut(flow, " ")
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			host = to
		}
		if host == worldDoor && network == "tcp" && slices.ContainsFunc(a.plan.Agents, func(agent plan.Agent) bool { return agent.Port != 0 && fmt.Sprint(agent.Port) == port }) {
			continue // what an attack sends to Envoy
		}
		name := r.Names[host]
		// An address is a name's, or nobody's.
		if network != "tcp" || addressOf(name) != host || !slices.ContainsFunc(a.plan.Agents, func(agent plan.Agent) bool { return leads(agent, name, port) }) {
			strays = append(strays, fmt.Sprintf("%s (%s)", flow, name))
		}
	}
	slices.Sort(strays)
	return strays
}

// questions are the names that were looked up although no rule of any agent names them.
func (a *arena) questions(r Record) []string {
	var names []string
	for name := range r.Queries {
		if !slices.ContainsFunc(a.plan.Agents, func(agent plan.Agent) bool { return leads(agent, name, "") }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// leads reports whether the agent has a rule for the name and, unless it is "", the port.
func leads(agent plan.Agent, name, port string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(agent.Rules, func(r plan.Rule) bool {
		below, wildcard := strings.CutPrefix(r.Host, "*")
		return (port == "" || port == fmt.Sprint(r.Port)) && (r.Host == name || wildcard && strings.HasSuffix(name, below) && name != below)
	})
}

// nowhere checks, after all cases, that the secrets are in nothing that
// anybody but Envoy can read, and that the log is whole.
func (a *arena) nowhere(t *testing.T) {
	t.Helper()
	hold := func(where, content string) {
		for _, value := range []string{canary, second} {
			for _, form := range spellings(value) {
				require.NotContains(t, content, form, where)
			}
		}
	}
	root := a.fleet.Home.Root
	require.NoError(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(filepath.Base(p), "secret-") {
			return err
		}
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		hold(p, string(b))
		return nil
	}))
	for _, page := range []string{"/config_dump?include_eds", "/stats", "/clusters", "/listeners", "/certs", "/init_dump", "/server_info"} {
		hold("admin "+page, a.fleet.Admin("n1", page))
	}
	status, err := a.fleet.API.Status(t.Context())
	require.NoError(t, err)
	b, err := json.Marshal(status)
	require.NoError(t, err)
	hold("status", string(b))
	for _, f := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", a.pid, f))
		require.NoError(t, err)
		hold(f, string(b))
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", a.pid))
	require.NoError(t, err)
	require.Regexp(t, `Max core file size +[01] +[01] +bytes`, string(limits), "Envoy may leave a core file")

	require.Equal(t, a.pid, a.fleet.EnvoyPID("n1"), "Envoy was restarted")
	r, err := a.world.record()
	require.NoError(t, err)
	require.Empty(t, a.questions(r), "was looked up, and is in no rule of anybody")
	require.Empty(t, a.strays(r), "packets to where no rule leads")

	all, err := audit.Read(a.fleet.Home.AuditDir(), audit.Filter{})
	require.NoError(t, err)
	for i, e := range slices.DeleteFunc(all, func(e audit.Event) bool { return !e.Over() }) {
		require.NotEqual(t, audit.Gap, e.Verdict, "%+v", e)
		require.NotEmpty(t, e.Reason, "%+v", e)
		require.NotEmpty(t, e.Agent, "event %d: %+v", i, e)
	}
}
