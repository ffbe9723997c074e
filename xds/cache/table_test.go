package cache

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// genPacked is a list of resources that has much in common with the one before.
func genPacked(rt *rapid.T, before []*discoveryv3.Resource) []*discoveryv3.Resource {
	out := slices.Clone(before)
	for range rapid.IntRange(0, 6).Draw(rt, "changes") {
		r := &discoveryv3.Resource{
			Name:    fmt.Sprintf("r%d", rapid.IntRange(0, 60).Draw(rt, "name")),
			Version: rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "version"),
		}
		at := slices.IndexFunc(out, func(o *discoveryv3.Resource) bool { return o.GetName() == r.GetName() })
		switch remove := rapid.Bool().Draw(rt, "remove"); {
		case at < 0:
			out = slices.Insert(out, rapid.IntRange(0, len(out)).Draw(rt, "at"), r)
		case remove:
			out = slices.Delete(out, at, at+1)
		default:
			out[at] = r
		}
	}
	return out
}

// TestTableOfIsFresh: what a table is made from makes no difference to what it
// holds, to what leads to it from there or from anywhere else, and to whether
// anything is lost. Nor does it change what it was made from.
func TestTableOfIsFresh(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var packed []*discoveryv3.Resource
		for i := range 50 {
			packed = append(packed, &discoveryv3.Resource{Name: fmt.Sprintf("r%d", i), Version: "1"})
		}
		before := TableOf(packed, NewTable())
		for range rapid.IntRange(1, 5).Draw(rt, "tables") {
			if rapid.IntRange(0, 4).Draw(rt, "put") == 0 { // as a cluster that signs
				before.put(&discoveryv3.Resource{Name: "r1", Version: "signed"})
			}
			packed = genPacked(rt, packed)
			was := maps.Clone(before.versions)
			got, want := TableOf(packed, before), TableOf(packed, NewTable())
			require.Equal(rt, was, before.versions)
			require.Equal(rt, want.versions, got.versions)
			require.Equal(rt, want.resources, got.resources)
			for _, known := range []map[string]string{nil, before.versions, maps.Clone(before.versions), got.versions} {
				require.Equal(rt, string(want.deltaFrom(known).body), string(got.deltaFrom(known).body))
			}
			require.Equal(rt, want.lacks(before), got.lacks(before))
			lost := slices.ContainsFunc(slices.Collect(maps.Keys(was)),
				func(name string) bool { return got.resources[name] == nil })
			require.Equal(rt, lost, got.lacks(before))
			both := got.with(before)
			require.False(rt, both.lacks(before))
			require.Len(rt, both.versions, len(both.resources))
			before = got
		}
	})
}
