package proof_test

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/tests/golden"
)

func picture(t *testing.T, g *graph.Graph) string {
	t.Helper()
	r, err := proof.Of(nil, g, nil)
	require.NoError(t, err)
	svg, err := r.Picture()
	require.NoError(t, err)
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return string(svg)
		} else {
			require.NoError(t, err)
		}
	}
}

// TestPicture: the same network always has the same picture.
func TestPicture(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "shared"} {
		got := picture(t, reference(t, name))
		require.Equal(t, got, picture(t, reference(t, name)))
		file := filepath.Join("testdata", name+".svg")
		if *golden.Update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
			continue
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got, "go test -update, and then look at the picture")
		require.NotContains(t, got, `class="open"`)
	}
}

// TestPictureOfAHole: what an agent reaches is drawn as such, and a name of a state stays text.
func TestPictureOfAHole(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for i := range g.Resources {
		r := &g.Resources[i]
		if r.Type == "aws:ec2/launchTemplate:LaunchTemplate" {
			r.Inputs["iamInstanceProfile"] = map[string]any{"arn": graph.Unknown}
		}
		r.Name += `</text><script>alert("x")</script>`
	}
	got := picture(t, g)
	require.Contains(t, got, `class="open"`)
	require.Contains(t, got, ": OPEN")
	require.NotContains(t, got, "<script")
	require.NotContains(t, got, "</text><script")
}

// TestNoPicture: a stack without a network has none.
func TestNoPicture(t *testing.T) {
	t.Parallel()
	r, err := proof.Of(nil, nil, nil)
	require.NoError(t, err)
	_, err = r.Picture()
	require.ErrorContains(t, err, "there is no network to draw")
}
