package provider_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
)

func strs(kv map[string]string) property.Map {
	m := map[string]property.Value{}
	for k, v := range kv {
		m[k] = property.New(v)
	}
	return property.NewMap(m)
}

func nodeInputs(home, id string) property.Map {
	return strs(map[string]string{
		"home": home, "nodeId": id, "posternd": "/bin/false", "digest": "1", "envoy": "/bin/false", "envoyDigest": "2",
	})
}

func TestNodeIDIsAFolderName(t *testing.T) {
	t.Parallel()
	s := server(t)
	for id, ok := range map[string]bool{"n1": true, "proxy-12": true, strings.Repeat("n", 63): true, strings.Repeat("n", 64): false, "control": false, "..": false, "a/b": false, "N1": false, "-n": false, "n 1": false} {
		got, err := s.Check(p.CheckRequest{Urn: urn("Node"), Inputs: nodeInputs("/h", id)})
		require.NoError(t, err)
		require.Equal(t, ok, len(got.Failures) == 0, "%q: %v", id, got.Failures)
	}
}

// Other paths of the same binaries restart nothing; other binaries do.
func TestDiffIsByDigest(t *testing.T) {
	t.Parallel()
	s := server(t)
	node := nodeInputs("/h", "n1")
	folders := []home.Folder{{Root: t.TempDir()}, {Root: t.TempDir()}}
	home, other := folders[0], folders[1]
	for _, h := range folders {
		err := bundle.MakeKey(h.OperatorKey(), h.Trusted())
		require.NoError(t, err)
	}
	control := strs(map[string]string{"home": home.Root, "posternd": "/a", "digest": "1", "caFingerprint": "f"})
	for _, tt := range []struct {
		kind, property, value string
		state                 property.Map
		want                  map[string]p.PropertyDiff
	}{
		{"Node", "posternd", "/moved", node, nil},
		{"Node", "envoy", "/moved", node, nil},
		{"Node", "digest", "9", node, map[string]p.PropertyDiff{"digest": {Kind: p.Update}}},
		{"Node", "envoyDigest", "9", node, map[string]p.PropertyDiff{"envoyDigest": {Kind: p.Update}}},
		{"Node", "nodeId", "n2", node, map[string]p.PropertyDiff{"nodeId": {Kind: p.UpdateReplace}}},
		{"ControlPlane", "posternd", "/moved", control, nil},
		{"ControlPlane", "digest", "9", control, map[string]p.PropertyDiff{"digest": {Kind: p.Update}}},
		{"ControlPlane", "caFingerprint", "9", control, map[string]p.PropertyDiff{"caFingerprint": {Kind: p.Update}}},
		{"ControlPlane", "home", other.Root, control, map[string]p.PropertyDiff{"home": {Kind: p.UpdateReplace}}},
	} {
		state := tt.state
		if tt.kind == "ControlPlane" {
			state = state.Set("socket", property.New("/h/control/control.sock"))
		}
		got, err := s.Diff(p.DiffRequest{ID: "x", Urn: urn(tt.kind), State: state, OldInputs: tt.state, Inputs: tt.state.Set(tt.property, property.New(tt.value))})
		require.NoError(t, err, "%s %s", tt.kind, tt.property)
		require.Equal(t, tt.want, got.DetailedDiff, "%s %s", tt.kind, tt.property)
		require.Equal(t, len(tt.want) > 0, got.HasChanges, "%s %s", tt.kind, tt.property)
	}
}

// What does not run is gone, and deleting it is not an error.
func TestNothingRuns(t *testing.T) {
	t.Parallel()
	s := server(t)
	home := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(home, "audit"), 0o700))
	node := nodeInputs(home, "n1")
	control := strs(map[string]string{"home": home, "posternd": "/a", "digest": "1", "caFingerprint": "f"})
	for kind, inputs := range map[string]property.Map{"Node": node, "ControlPlane": control} {
		state := inputs
		if kind == "ControlPlane" {
			state = state.Set("socket", property.New("s"))
		}
		got, err := s.Read(p.ReadRequest{ID: "x", Urn: urn(kind), Inputs: inputs, Properties: state})
		require.NoError(t, err)
		require.Empty(t, got.ID, kind)
		require.NoError(t, s.Delete(p.DeleteRequest{ID: "x", Urn: urn(kind), Properties: state}))
	}
	require.DirExists(t, filepath.Join(home, "audit"))
}

// A store elsewhere is where the bundle is: it is not gone because there is none in the state folder. It stays when the
// stack goes, and so does what is not this stack's store.
func TestStoreElsewhere(t *testing.T) {
	t.Parallel()
	s := server(t)
	home := home.Folder{Root: t.TempDir()}
	inputs := strs(map[string]string{"home": home.Root, "plan": "{}", "planVersion": "1"}).Set("members", property.New(property.NewArray(nil)))
	state := inputs.Set("nodes", property.New(1.0)).Set("millis", property.New(1.0))
	read := func() string {
		got, err := s.Read(p.ReadRequest{ID: "bundle", Urn: urn("Bundle"), Inputs: inputs, Properties: state})
		require.NoError(t, err)
		return got.ID
	}
	own, elsewhere := filepath.Join(home.Root, "bundle"), t.TempDir()
	require.Empty(t, read())
	require.NoError(t, os.MkdirAll(own, 0o700))
	require.Equal(t, "bundle", read())
	require.NoError(t, s.Delete(p.DeleteRequest{ID: "bundle", Urn: urn("Bundle"), Properties: state}))
	require.NoDirExists(t, own)

	require.NoError(t, os.MkdirAll(own, 0o700))
	require.NoError(t, os.MkdirAll(home.OperatorDir(), 0o700))
	for url, there := range map[string]bool{"file://" + elsewhere: true, "file://" + elsewhere + "/gone": false, "s3://bundles?region=eu-west-1": true} {
		require.NoError(t, os.WriteFile(home.StoreFile(), []byte(url+"\n"), 0o600))
		require.Equal(t, there, read() != "", url)
		require.NoError(t, s.Delete(p.DeleteRequest{ID: "bundle", Urn: urn("Bundle"), Properties: state}))
		require.DirExists(t, elsewhere)
		require.DirExists(t, own)
	}
}

// A daemon that ends at once is reported with what it said.
func TestControlPlaneThatEnds(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	broken := filepath.Join(home, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("#!/bin/sh\necho \"port 1234 is in use\" >&2; exit 7\n"), 0o700))
	_, err := server(t).Create(p.CreateRequest{Urn: urn("ControlPlane"), Properties: strs(map[string]string{
		"home": home, "posternd": broken, "digest": "1", "caFingerprint": "f",
	})})
	require.ErrorContains(t, err, "exit status 7")
	require.ErrorContains(t, err, "port 1234 is in use")
}
