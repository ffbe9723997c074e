// Package graph holds what a stack's Pulumi program declares, as data: every resource with its
// inputs and the references between them, without an engine, a provider or an account. `go run .
// preview STACK --offline --graph FILE` writes it. The checks, the cost estimate and `postern
// drift` read it. It imports no SDK.
package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Format is the version of the JSON form. It increases when a reader of the old form would misread
// the new one.
const Format = 1

// Unknown stands for a value that is known only when another resource exists. The engine itself
// writes it (sdk/go/common/resource/plugin.UnknownStringValue).
const Unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

// Secret values are never kept. An object with SecretKey and SecretMark stands for each, as the
// engine writes it, but without the value.
const (
	SecretKey  = "4dabf18193072939515e22adb298388d" // resource.SigKey
	SecretMark = "1b47061264138c4ac30d75fd1eb44270" // resource.SecretSig
)

// Tags that identify a live resource: the stack to which it belongs, the name of its resource in
// the program, and its role.
const (
	TagStack = "postern:stack"
	TagName  = "Name"
	TagRole  = "postern:role"
)

// Graph is every resource of one stack. Resources are sorted by URN.
type Graph struct {
	Format    int        `json:"format"`
	Stack     string     `json:"stack"`
	Resources []Resource `json:"resources"`
}

// Resource is one resource or component. Values of Inputs have the types into which encoding/json
// decodes: nil, bool, float64, string, []any, map[string]any.
type Resource struct {
	URN    string `json:"urn"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	Parent string `json:"parent,omitempty"`
	// Role is the part of the environment that the resource plays in; one of [Roles].
	Role string `json:"role"`
	// Custom means that a provider makes the resource. The other resources are components.
	Custom bool `json:"custom"`
	// External means that the resource exists already and is only read.
	External bool `json:"external,omitempty"`
	// Protect means that the engine refuses to delete the resource.
	Protect bool `json:"protect,omitempty"`
	// Retain means that the resource stays in the cloud when the program no longer declares it.
	Retain bool `json:"retainOnDelete,omitempty"`
	// Provider is the URN of the explicit provider, or "" for the default one.
	Provider string `json:"provider,omitempty"`
	// Inputs are as at a preview: [Unknown] stands for an ID that is not known yet.
	Inputs map[string]any `json:"inputs"`
	// Example holds the inputs that have unknown parts, with a plausible ID or ARN for each, so
	// that people and checks can read a policy document. The IDs are made up; compare nothing with
	// them.
	Example map[string]any `json:"example,omitempty"`
	// PropertyDependencies are the URNs from which each input was computed.
	PropertyDependencies map[string][]string `json:"propertyDependencies,omitempty"`
	// Dependencies are all URNs that must be created before this resource.
	Dependencies []string `json:"dependencies,omitempty"`
}

// Edge says that From's input Property was computed from To.
type Edge struct {
	From     string `json:"from"`
	Property string `json:"property"`
	To       string `json:"to"`
}

// Edges returns the references between resources, sorted.
func (g *Graph) Edges() []Edge {
	var edges []Edge
	for i := range g.Resources {
		r := &g.Resources[i]
		for _, property := range sortedKeys(r.PropertyDependencies) {
			for _, to := range r.PropertyDependencies[property] {
				edges = append(edges, Edge{From: r.URN, Property: property, To: to})
			}
		}
	}
	return edges
}

// ByURN returns the resource, or nil.
func (g *Graph) ByURN(urn string) *Resource {
	i, ok := slices.BinarySearchFunc(g.Resources, urn, func(r Resource, urn string) int { return strings.Compare(r.URN, urn) })
	if !ok {
		return nil
	}
	return &g.Resources[i]
}

// OfType returns the custom resources of that type, by URN.
func (g *Graph) OfType(token string) []*Resource {
	var found []*Resource
	for i := range g.Resources {
		if g.Resources[i].Type == token {
			found = append(found, &g.Resources[i])
		}
	}
	return found
}

// Value returns the input, or its example if the input is not known, or nil.
func (r *Resource) Value(property string) any {
	if v, ok := r.Example[property]; ok {
		return v
	}
	return r.Inputs[property]
}

// String returns the input if it is known text, and "" otherwise.
func (r *Resource) String(property string) string {
	if s, ok := r.Inputs[property].(string); ok && s != Unknown {
		return s
	}
	return ""
}

// Number returns the input if it is a known number.
func (r *Resource) Number(property string) (float64, bool) {
	n, ok := r.Inputs[property].(float64)
	return n, ok
}

// Tag returns the value of one of the resource's tags, or "".
func (r *Resource) Tag(key string) string {
	tags, _ := r.Inputs["tags"].(map[string]any)
	s, _ := tags[key].(string)
	return s
}

// Refers returns the resource of that type from which the input was computed. It returns nil if
// there is none, or more than one.
func (g *Graph) Refers(r *Resource, property, token string) *Resource {
	var found *Resource
	for _, urn := range r.PropertyDependencies[property] {
		if to := g.ByURN(urn); to != nil && to.Type == token {
			if found != nil {
				return nil
			}
			found = to
		}
	}
	return found
}

// exported is the JSON form: the edges are spelled out for readers in other languages.
type exported struct {
	*Graph
	Edges []Edge `json:"edges"`
}

// Encode writes the graph as JSON. The same graph always has the same bytes.
func (g *Graph) Encode(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	edges := g.Edges()
	if edges == nil {
		edges = []Edge{}
	}
	if err := enc.Encode(exported{g, edges}); err != nil {
		return fmt.Errorf("encode graph: %w", err)
	}
	return nil
}

// Hash returns the SHA-256 of the JSON form, in hexadecimal.
func (g *Graph) Hash() (string, error) {
	h := sha256.New()
	if err := g.Encode(h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Decode reads the output of Encode.
func Decode(r io.Reader) (*Graph, error) {
	g := &Graph{}
	if err := json.NewDecoder(r).Decode(g); err != nil {
		return nil, fmt.Errorf("decode graph: %w", misread(err))
	}
	if g.Format != Format {
		return nil, fmt.Errorf("decode graph: its format is %d, this program reads %d: write it again with "+
			"`postern preview STACK --offline --graph FILE`", g.Format, Format)
	}
	if !slices.IsSortedFunc(g.Resources, func(a, b Resource) int { return strings.Compare(a.URN, b.URN) }) {
		return nil, fmt.Errorf("decode graph: its resources are not sorted: it was edited by hand")
	}
	if err := g.Complete(); err != nil {
		return nil, fmt.Errorf("decode graph: %w", misread(err))
	}
	return g, nil
}

// IsSecret reports whether v stands for a secret.
func IsSecret(v any) bool {
	m, ok := v.(map[string]any)
	return ok && m[SecretKey] == SecretMark
}

// HasUnknown reports whether v, or something in it, is not known yet.
func HasUnknown(v any) bool {
	switch v := v.(type) {
	case string:
		return v == Unknown
	case []any:
		return slices.ContainsFunc(v, HasUnknown)
	case map[string]any:
		for _, item := range v {
			if HasUnknown(item) {
				return true
			}
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
