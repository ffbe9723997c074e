package aws

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/components/aws/document"
)

// Whatever writes events to its output, and so into a log group, has that group
// shipped to the locked bucket: the disk of a task goes with it.
func TestEventsAreShipped(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		stream := g.one(t, "aws:kinesis/firehoseDeliveryStream:FirehoseDeliveryStream", "-delivery")
		shipped := map[string]string{}
		for _, r := range g.of("aws:cloudwatch/logSubscriptionFilter:LogSubscriptionFilter") {
			require.Contains(t, r.text("destinationArn"), stream.name)
			shipped[r.text("logGroup")] = r.text("filterPattern")
		}
		written := []string{}
		for _, r := range g.of(tokenTask) {
			var containers []document.Container
			require.NoError(t, json.Unmarshal([]byte(r.text("containerDefinitions")), &containers))
			for _, c := range containers {
				if slices.Contains(c.Command, "--audit-stdout") {
					written = append(written, c.LogConfiguration.Options.Group)
				}
				if c.Name == "control" {
					require.Equal(t, []string{"CMD", "/usr/local/bin/posternd", "health", "--home", c.Command[2]}, c.HealthCheck.Command)
				}
			}
		}
		if args.AWS.Proxies.Compute == "ec2" { // images/node-start says it there
			written = append(written, "/postern/prod/proxies")
		}
		require.ElementsMatch(t, []string{"/postern/prod/control", "/postern/prod/proxies"}, written)
		for _, group := range written {
			require.Contains(t, shipped, group)
		}
		require.Empty(t, shipped["/postern/prod/proxies"], "all of it")
		for _, verdict := range []string{audit.Change, audit.Gap} {
			require.Contains(t, shipped["/postern/prod/control"], `$.verdict = "`+verdict+`"`)
		}
	})
}
