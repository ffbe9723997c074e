package aws_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan/cloud"
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
		require.NoError(t, stack.AWS.Validate(stack.Plan), "the components take what the loader takes")
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

// TestNoNameHasAPortOfOurs: the names of these agents give the ports of the proxies and the control
// plane, which no agent may have.
func TestNoNameHasAPortOfOurs(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint16{"agent-5314": 18081, "agent-8201": 18081, "agent-6759": 18001} {
		path := filepath.Join(t.TempDir(), "prod.yaml")
		image := "@sha256:" + strings.Repeat("0", 64)
		require.NoError(t, os.WriteFile(path, []byte(`version: 1
target: aws
aws:
  account: "123456789012"
  region: eu-west-1
  image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/postern`+image+`
  agents:
    `+name+`: {image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/coder`+image+`, ami: ami-0123456789abcdef0}
agents:
  `+name+`: {}
`), 0o600))
		stack, err := stacks.Load(path)
		require.NoError(t, err)
		require.Equal(t, want, stack.AWS.Agents[0].Port)
		require.Equal(t, want, stack.Plan.Agents[0].Port)
		require.True(t, cloud.AgentPort(want))
	}
}
