package stacks

import (
	"context"
	"embed"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/plan"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// clientPrefix begins presets that are the hosts of a package client.
const clientPrefix = "client:"

// clientPatience bounds how long a package client may take to answer.
const clientPatience = 30 * time.Second

// Preset is a list of destinations that comes with Postern.
type Preset struct {
	Name, About string
	// Credential means that the preset needs a credential, or may be given one.
	Credential, CredentialNeeded bool
	// Git means that the preset takes read and write lists of repositories.
	Git bool
}

// Presets returns all presets that agents may name, sorted, except those of [Clients].
func Presets() []Preset {
	var out []Preset
	for _, name := range presetNames() {
		root := presetFile(name)
		p := Preset{Name: name, About: root.get("about").text, Credential: root.get("credential") != nil}
		if p.Credential {
			needed := root.get("credential").get("needed")
			p.CredentialNeeded = needed != nil && needed.text == "true"
		}
		p.Git = usesGit(root)
		out = append(out, p)
	}
	return out
}

func presetNames() []string {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(err) // they are part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// presetFile is the parsed preset. That all of them can be is tested.
func presetFile(name string) *node {
	data, err := presetFiles.ReadFile(path.Join("presets", name+".yaml"))
	if err != nil {
		panic(err)
	}
	p := &problems{file: "preset " + name}
	root := parseYAML(data, p)
	if root == nil {
		panic(p.err())
	}
	return root
}

func usesGit(root *node) bool {
	return slices.ContainsFunc(root.get("destinations").fields, func(f field) bool { return f.value.get("git") != nil })
}

// presets reads an agent's list of presets. taken are the names of the destinations that the
// agent's allow list has.
func (l *loader) presets(n *node, agent string, taken map[string]bool) []placed {
	if n.kind != kindList {
		l.at(n, "write a list, such as [anthropic, docs]", "presets is %s, not a list", n.describe())
		return nil
	}
	var out []placed
	seen := map[string]bool{}
	for _, item := range n.items {
		key := item
		if item.kind == kindMap {
			if !l.mapping(item, "a preset", "name", "credential", "gateway", "read", "write", "lfs") {
				continue
			}
			if key = item.get("name"); key == nil {
				l.at(item, "write name: and one of "+list(presetNames()), "a preset has no name")
				continue
			}
		}
		name, ok := l.text(key, "the name of a preset")
		switch {
		case !ok:
			continue
		case seen[name]:
			l.at(key, "remove one of them", "preset %q is in the list already", name)
			continue
		}
		seen[name] = true
		client, isClient := strings.CutPrefix(name, clientPrefix)
		id := strings.Replace(name, ":", "-", 1)
		var rules []namedRule
		switch {
		case isClient:
			if item.kind == kindMap {
				l.useless(item, "preset "+name, "credential", "gateway", "read", "write", "lfs")
			}
			rules = l.client(key, client)
		case slices.Contains(presetNames(), name):
			rules = l.preset(item, name)
		default:
			l.at(key, nearest(name, append(presetNames(), clientPrefix+"pip", clientPrefix+"npm", clientPrefix+"go")), "there is no preset %q", name)
			continue
		}
		if taken[id] {
			l.at(key, "give the destination another name", "the agent is allowed a destination %q, which is the name of the preset", id)
			continue
		}
		for _, r := range rules {
			r.ID = agent + "/" + id + r.ID
			out = append(out, placed{Rule: r.Rule, item: item, at: key, preset: name})
		}
	}
	return out
}

// client is reading from the hosts of a package client.
func (l *loader) client(n *node, client string) []namedRule {
	hosts, err := l.clients.hosts(client)
	if err != nil {
		l.at(n, "name the hosts as destinations instead, if it is not on this machine", "%s", err)
		return nil
	}
	var out []namedRule
	for _, hp := range hosts {
		r := namedRule{at: n, Rule: plan.Rule{
			ID: "/" + strings.ReplaceAll(hp.String(), ":", "-"), Host: hp.Host, Port: hp.Port,
			Methods: slices.Clone(ClientMethods), Paths: []string{plan.AnyPath},
		}}
		out = append(out, r)
	}
	return out
}

// slotName is the name that presets use for the given credential.
const slotName = "slot"

// preset reads one of our presets, filled in by an item of an agent's list.
func (l *loader) preset(item *node, name string) []namedRule {
	root := presetFile(name)
	what := "preset " + name
	get := func(key string) *node {
		if item.kind == kindMap {
			return item.get(key)
		}
		return nil
	}
	sub := &loader{
		folders:  l.folders,
		problems: &problems{file: what}, dir: l.dir, clients: l.clients,
		credentials: map[string]plan.Credential{slotName: {Name: slotName}}, destinations: map[string]*destination{}, patterns: l.patterns,
	}
	credential := l.fill(item, get("credential"), root.get("credential"), name)
	if usesGit(root) {
		sub.repositories = l.gitSlot(item, get, what)
		if sub.repositories == nil {
			return nil
		}
	} else if item.kind == kindMap {
		l.useless(item, what, "read", "write", "lfs")
	}
	gateway := get("gateway")
	var out []namedRule
	fields := root.get("destinations").fields
	if gateway != nil && len(fields) > 1 {
		l.useless(item, what+", which has several hosts,", "gateway")
	}
	for _, f := range fields {
		sub.destination(f, map[uint16]string{})
		d := sub.destinations[f.key.text]
		for _, r := range d.rules {
			if r.ID == "" {
				r.ID = "/" + d.name
			}
			if r.Credential == slotName {
				r.Credential = credential
			}
			if gateway != nil && len(fields) == 1 {
				r.Gateway = l.gateway(gateway, what, map[uint16]string{})
			}
			out = append(out, r)
		}
	}
	for _, p := range sub.list { // only of what the item says: see TestPresets
		l.at(item, p.Hint, "%s: %s", what, p.Message)
	}
	return out
}

// fill returns the credential that goes where a preset has room for one: the
// one that the item names, or else the one that is called like the preset.
func (l *loader) fill(item, given, room *node, name string) string {
	if room == nil {
		if given != nil {
			l.at(given, "remove it", "preset %s has no credential", name)
		}
		return ""
	}
	t := name
	if given != nil {
		var ok bool
		if t, ok = l.text(given, "credential"); !ok {
			return ""
		}
	}
	c, ok := l.credentials[t]
	at := given
	if at == nil {
		at = item
	}
	needed := room.get("needed")
	switch {
	case ok:
	case given != nil:
		l.at(given, nearest(t, sortedKeys(l.credentials)), "there is no credential %q", t)
		return ""
	case needed != nil && needed.text == "true":
		l.at(item, "write {name: "+name+", credential: NAME}, or call a credential "+name, "preset %s needs a credential", name)
		return ""
	default:
		return ""
	}
	kinds := room.get("kinds")
	var names []string
	for _, k := range kinds.items {
		names = append(names, k.text)
	}
	header := room.get("header")
	if !slices.Contains(names, string(c.Kind)) || header != nil && c.Kind == plan.KindHeader && c.Header != header.text {
		hint := "write kind: " + list(names)
		if header != nil {
			hint += ", the first in header: " + header.text
		}
		l.at(at, hint, "credential %s is not of a kind that preset %s can use", t, name)
	}
	return t
}

// gitSlot makes the git: key of a preset's destination out of the item's lists.
func (l *loader) gitSlot(item *node, get func(string) *node, what string) *node {
	if get("read") == nil && get("write") == nil {
		l.at(item, `write {name: ..., read: ["owner/*"], write: ["owner/name"]}`, "%s needs the repositories that may be read or written", what)
		return nil
	}
	out := *item
	out.fields = slices.DeleteFunc(slices.Clone(item.fields), func(f field) bool {
		return !slices.Contains([]string{"read", "write", "lfs"}, f.key.text)
	})
	return &out
}

// clientCache asks each package client once: a file is parsed several times
// when it is edited.
type clientCache struct {
	ask func(ctx context.Context, client string) ([]HostPort, error)

	mu      sync.Mutex
	answers map[string]clientAnswer
}

type clientAnswer struct {
	hosts []HostPort
	err   error
}

func newClientCache(ask func(context.Context, string) ([]HostPort, error)) *clientCache {
	return &clientCache{ask: ask, answers: map[string]clientAnswer{}}
}

func (c *clientCache) hosts(client string) ([]HostPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers[client]
	if !ok {
		ctx, cancel := context.WithTimeout(context.Background(), clientPatience)
		defer cancel()
		a.hosts, a.err = c.ask(ctx, client)
		c.answers[client] = a
	}
	return a.hosts, a.err
}
