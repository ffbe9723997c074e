package aws_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/tests/golden"
)

// TestRead has one archive for each case: stack.yaml and the files next to it go in, and what
// [stacks.Load] makes of them, or errors.txt, has to come out.
func TestRead(t *testing.T) {
	t.Parallel()
	out := []string{"aws.json", "plan.json", "warnings.txt", "errors.txt"}
	golden.Each(t, "testdata", out, func(t *testing.T, c *golden.Case) map[string]string {
		stack, err := stacks.Load(filepath.Join(c.Dir, "stack.yaml"))
		if err != nil {
			var problem *yaml.Problem
			require.ErrorAs(t, err, &problem)
			said := strings.ReplaceAll(err.Error(), c.Dir+"/stack.yaml:", "stack.yaml:")
			return map[string]string{"errors.txt": said + "\n"}
		}
		out := map[string]string{}
		for name, v := range map[string]any{"aws.json": stack.AWS, "plan.json": stack.Plan} {
			data, err := json.MarshalIndent(v, "", "  ")
			require.NoError(t, err)
			out[name] = string(data) + "\n"
		}
		for _, w := range stack.Warnings {
			out["warnings.txt"] += strings.TrimPrefix(w.Error(), c.Dir+"/") + "\n"
		}
		return out
	})
}
