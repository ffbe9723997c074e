package cloud_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	cost "github.com/postern/postern/policies/cost/aws"
)

// environments are the rows of the table in docs/aws.md, by how they begin.
var environments = []struct {
	row, stack string
	change     []string
}{
	{"mode shared, one zone, one proxy: `dev-aws`", "dev-aws", nil},
	{"the same, two zones", "dev-aws", []string{"zones: 1", "zones: 2"}},
	{"mode isolated, three zones, three proxies: `prod-aws`", "prod-aws", nil},
	{"the same, two zones, two proxies, two replicas", "prod-aws", []string{"zones: 3", "zones: 2", "min: 3", "min: 2", "replicas: 3", "replicas: 2"}},
	{"and one NAT gateway for all", "prod-aws", []string{"zones: 3", "zones: 2\n  nat: one", "min: 3", "min: 2", "replicas: 3", "replicas: 2"}},
	{"`prod-aws`, proxies on machines", "prod-aws", []string{"{compute: fargate, min: 3, max: 9, cpu: 1024, memory: 2GiB}", "{compute: ec2, min: 3, max: 9, ami: ami-00000000000000000}"}},
	{"`prod-aws`, agents on Fargate", "prod-aws", []string{"compute: ec2\n      count: 2\n      instance: m7i.large\n      ami: ami-00000000000000000", "compute: fargate\n      count: 2", "    runtime: gvisor\n", "", "      metadata: disabled\n", ""}},
}

// TestDocsSayWhatItCosts: the table is what the preview reckons.
func TestDocsSayWhatItCosts(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "aws.md"))
	require.NoError(t, err)
	for _, x := range environments {
		_, g := planned(t, x.stack, "eu-west-1", x.change...)
		e := cost.Of(g)
		agents := 0.0
		for _, l := range e.Lines {
			if strings.HasPrefix(l.What, "agents: ") {
				agents += l.Total
			}
		}
		row := fmt.Sprintf("| %s | %.0f | %.0f |", x.row, e.Total, e.Total-agents)
		require.Contains(t, string(b), row+"\n", "docs/aws.md")
	}
	_, table, _ := strings.Cut(string(b), "\n| environment |")
	table, _, _ = strings.Cut(table, "\n\n")
	require.Len(t, regexp.MustCompile(`(?m)^\|[^-]`).FindAllString(table, -1), len(environments), "every row is one that is looked at")
}
