package cache

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"maps"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Table holds the resources of one type by name. All nodes share a published table: it is never
// changed, except that the cache adds leaf certificates to it.
type Table struct {
	resources map[string]*discoveryv3.Resource
	versions  map[string]string
	// packed are the resources in the order of [envoy.Memo]; nil if the table may have others.
	packed []*discoveryv3.Resource
	// deltas are the deltas to this table that were asked for: see deltaFrom.
	deltas map[uintptr]*delta
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{
		resources: map[string]*discoveryv3.Resource{}, versions: map[string]string{}, deltas: map[uintptr]*delta{},
	}
}

// TableOf returns a table of packed resources. It copies the previous table at once, and then knows
// the difference from it.
func TableOf(packed []*discoveryv3.Resource, before *Table) *Table {
	gone, come := Between(before.packed, packed, func(a, b **discoveryv3.Resource) bool { return *a == *b })
	if len(gone)+len(come) > len(packed)/4 {
		t := &Table{
			resources: make(map[string]*discoveryv3.Resource, len(packed)),
			versions:  make(map[string]string, len(packed)), deltas: map[uintptr]*delta{},
		}
		for _, r := range packed {
			t.put(r)
		}
		t.packed = packed
		return t
	}
	t := &Table{
		resources: maps.Clone(before.resources), versions: maps.Clone(before.versions), deltas: map[uintptr]*delta{},
	}
	for _, r := range gone {
		delete(t.resources, r.GetName())
		delete(t.versions, r.GetName())
	}
	var send []*discoveryv3.Resource
	for _, r := range come {
		t.put(r)
		if before.versions[r.GetName()] != r.GetVersion() {
			send = append(send, r)
		}
	}
	var removed []string
	for _, r := range gone {
		if t.resources[r.GetName()] == nil {
			removed = append(removed, r.GetName())
		}
	}
	t.packed = packed
	t.deltas[address(before.versions)] = newDelta(before.versions, send, removed)
	return t
}

func (t *Table) put(r *discoveryv3.Resource) {
	t.resources[r.GetName()], t.versions[r.GetName()] = r, r.GetVersion()
	if t.packed = nil; len(t.deltas) > 0 {
		clear(t.deltas)
	}
}

// Add packs m under name; its version is the hash of its bytes.
func (t *Table) Add(name string, m proto.Message) error { return t.AddSalted(name, m, nil) }

// AddSalted is [Table.Add] for a secret. Its version can be seen where its bytes cannot: without
// the salt, a weak secret could be guessed from its version.
func (t *Table) AddSalted(name string, m proto.Message, salt []byte) error {
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return err
	}
	h := hmac.New(sha256.New, salt)
	h.Write(packed.Value)
	version := hex.EncodeToString(h.Sum(nil)[:8])
	t.put(&discoveryv3.Resource{Name: name, Version: version, Resource: packed})
	return nil
}

// Clone returns a table with the same resources.
func (t *Table) Clone() *Table { return NewTable().with(t) }

// with returns a table of t's resources, and of old's resources that t lacks.
func (t *Table) with(old *Table) *Table {
	u := &Table{resources: maps.Clone(t.resources), versions: maps.Clone(t.versions), deltas: map[uintptr]*delta{}}
	for name, r := range old.resources {
		if u.resources[name] == nil {
			u.put(r)
		}
	}
	return u
}

// lacks reports whether old has a resource that t does not have.
func (t *Table) lacks(old *Table) bool {
	return len(old.resources) > 0 && t.deltaFrom(old.versions).removes
}

// withLeaves returns t with the leaf certificates of old that may be kept.
func (t *Table) withLeaves(old *Table, keep func(string) bool) *Table {
	if old == nil {
		return t
	}
	u := t.with(NewTable())
	for name, r := range old.resources {
		if u.resources[name] == nil && isLeaf(name) && keep(name) {
			u.put(r)
		}
	}
	return u
}

// All iterates over the resources by name.
func (t *Table) All() iter.Seq2[string, *discoveryv3.Resource] { return maps.All(t.resources) }

// leaves iterates over the names of the leaf certificates.
func (t *Table) leaves() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range t.resources {
			if isLeaf(name) && !yield(name) {
				return
			}
		}
	}
}

// isLeaf tells a server name from a credential's secret: envoy.SecretName.
func isLeaf(name string) bool { return !strings.Contains(name, "\x00") }
