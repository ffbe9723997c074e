package stacks

import (
	"embed"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/clients"
	"github.com/postern/postern/stacks/yaml"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// clientPrefix begins presets that are the hosts of a package client.
const clientPrefix = "client:"

// PresetNames returns the names of all presets, sorted.
func PresetNames() []string {
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
func presetFile(name string) *yaml.Node {
	data, err := presetFiles.ReadFile(path.Join("presets", name+".yaml"))
	if err != nil {
		panic(err)
	}
	p := &yaml.Problems{File: "preset " + name}
	root := yaml.Parse(data, p)
	if root == nil {
		panic(p.Err())
	}
	return root
}

func usesGit(root *yaml.Node) bool {
	return slices.ContainsFunc(root.Get("destinations").Fields, func(f yaml.Field) bool { return f.Value.Get("git") != nil })
}

// presets reads an agent's list of presets. taken are the names of the destinations that the
// agent's allow list has.
func (l *loader) presets(n *yaml.Node, agent string, taken map[string]bool) []placed {
	if n.Kind != yaml.KindList {
		l.At(n, "write a list, such as [anthropic, docs]", "presets is %s, not a list", n.Describe())
		return nil
	}
	var out []placed
	seen := map[string]bool{}
	for _, item := range n.Items {
		key := item
		if c := item.Get("client"); c != nil && len(item.Fields) == 1 { // a colon without quotes
			l.At(item, "write it in quotes: "+strconv.Quote(clientPrefix+c.Text), "client: %s is not a preset", c.Text)
			continue
		}
		if item.Kind == yaml.KindMap {
			if !l.Mapping(item, "a preset", "name", "credential", "gateway", "read", "write", "lfs") {
				continue
			}
			if key = item.Get("name"); key == nil {
				l.At(item, "write name: and one of "+yaml.Or(PresetNames()), "a preset has no name")
				continue
			}
		}
		name, ok := l.Text(key, "the name of a preset")
		switch {
		case !ok:
			continue
		case seen[name]:
			l.At(key, "remove one of them", "preset %q is in the list already", name)
			continue
		}
		seen[name] = true
		client, isClient := strings.CutPrefix(name, clientPrefix)
		id := strings.Replace(name, ":", "-", 1)
		var rules []namedRule
		switch {
		case isClient:
			if item.Kind == yaml.KindMap {
				l.Useless(item, "preset "+name, "credential", "gateway", "read", "write", "lfs")
			}
			rules = l.client(key, client)
		case slices.Contains(PresetNames(), name):
			rules = l.preset(item, name)
		default:
			l.At(key, yaml.Nearest(name, append(PresetNames(), ClientPresets()...)), "there is no preset %q", name)
			continue
		}
		if taken[id] {
			l.At(key, "give the destination another name", "the agent is allowed a destination %q, which is the name of the preset", id)
			continue
		}
		for _, r := range rules {
			r.ID = agent + "/" + id + r.ID
			out = append(out, placed{Rule: r.Rule, item: item, at: key, preset: name})
		}
	}
	return out
}

// ClientPresets returns the presets that are the hosts of package clients.
func ClientPresets() (names []string) {
	for _, c := range clients.Names() {
		names = append(names, clientPrefix+c)
	}
	return names
}

// client is reading from the hosts of a package client.
func (l *loader) client(n *yaml.Node, client string) []namedRule {
	hosts, err := l.clients(client)
	if err != nil {
		l.At(n, "name the hosts as destinations instead, if it is not on this machine", "%s", err)
		return nil
	}
	var out []namedRule
	for _, hp := range hosts {
		r := namedRule{at: n, Rule: plan.Rule{
			ID: "/" + strings.ReplaceAll(hp.String(), ":", "-"), Host: hp.Host, Port: hp.Port,
			Methods: slices.Clone(clients.Methods), Paths: []string{plan.AnyPath},
		}}
		out = append(out, r)
	}
	return out
}

// slotName is the name that presets use for the given credential.
const slotName = "slot"

// preset reads one of our presets, filled in by an item of an agent's list.
func (l *loader) preset(item *yaml.Node, name string) []namedRule {
	root := presetFile(name)
	what := "preset " + name
	get := func(key string) *yaml.Node {
		if item.Kind == yaml.KindMap {
			return item.Get(key)
		}
		return nil
	}
	sub := &loader{
		folders: l.folders,
		Reader:  &yaml.Reader{Problems: &yaml.Problems{File: what}, Dir: l.Dir}, clients: l.clients,
		credentials: map[string]plan.Credential{slotName: {Name: slotName}}, destinations: map[string]*Destination{}, patterns: l.patterns,
	}
	credential := l.fill(item, get("credential"), root.Get("credential"), name)
	if usesGit(root) {
		sub.repositories = l.gitSlot(item, get, what)
		if sub.repositories == nil {
			return nil
		}
	} else if item.Kind == yaml.KindMap {
		l.Useless(item, what, "read", "write", "lfs")
	}
	gateway := get("gateway")
	var out []namedRule
	fields := root.Get("destinations").Fields
	if gateway != nil && len(fields) > 1 {
		l.Useless(item, what+", which has several hosts,", "gateway")
	}
	for _, f := range fields {
		sub.destination(f)
		d := sub.destinations[f.Key.Text]
		for _, r := range d.rules {
			if r.ID == "" {
				r.ID = "/" + d.name
			}
			if r.Credential == slotName {
				r.Credential = credential
			}
			if gateway != nil && len(fields) == 1 {
				r.Gateway = l.gateway(gateway)
			}
			out = append(out, r)
		}
	}
	for _, p := range sub.List { // only of what the item says: see TestPresets
		l.At(item, p.Hint, "%s: %s", what, p.Message)
	}
	return out
}

// fill returns the credential for the room that a preset leaves for one: the credential that the
// item names, or else the credential with the preset's name.
func (l *loader) fill(item, given, room *yaml.Node, name string) string {
	if room == nil {
		if given != nil {
			l.At(given, "remove it", "preset %s has no credential", name)
		}
		return ""
	}
	t := name
	if given != nil {
		var ok bool
		if t, ok = l.Text(given, "credential"); !ok {
			return ""
		}
	}
	c, ok := l.credentials[t]
	at := given
	if at == nil {
		at = item
	}
	needed := room.Get("needed")
	switch {
	case ok:
	case given != nil:
		l.At(given, yaml.Nearest(t, sortedKeys(l.credentials)), "there is no credential %q", t)
		return ""
	case needed != nil && needed.Text == "true":
		l.At(item, "write {name: "+name+", credential: NAME}, or call a credential "+name, "preset %s needs a credential", name)
		return ""
	default:
		return ""
	}
	kinds := room.Get("kinds")
	var names []string
	for _, k := range kinds.Items {
		names = append(names, k.Text)
	}
	header := room.Get("header")
	if !slices.Contains(names, string(c.Kind)) || header != nil && c.Kind == plan.KindHeader && c.Header != header.Text {
		hint := "write kind: " + yaml.Or(names)
		if header != nil {
			hint += ", the first in header: " + header.Text
		}
		l.At(at, hint, "credential %s is not of a kind that preset %s can use", t, name)
	}
	return t
}

// gitSlot makes the git: key of a preset's destination out of the item's lists.
func (l *loader) gitSlot(item *yaml.Node, get func(string) *yaml.Node, what string) *yaml.Node {
	if get("read") == nil && get("write") == nil {
		l.At(item, `write {name: ..., read: ["owner/*"], write: ["owner/name"]}`, "%s needs the repositories that may be read or written", what)
		return nil
	}
	out := *item
	out.Fields = slices.DeleteFunc(slices.Clone(item.Fields), func(f yaml.Field) bool {
		return !slices.Contains([]string{"read", "write", "lfs"}, f.Key.Text)
	})
	return &out
}
