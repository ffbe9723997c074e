package aws

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// What an alarm waits for is what the programs write, and somebody is told.
func TestAlarms(t *testing.T) {
	t.Parallel()
	ledger, err := os.ReadFile(filepath.Join("..", "..", "xds", "ledger", "ledger.go"))
	require.NoError(t, err)
	require.Contains(t, string(ledger), `Error("node rejected resources"`)
	// The pattern is data for CloudWatch: its words are those of events.
	for verdict, word := range map[string]string{audit.Deny: `"verdict":"deny"`, audit.Error: `"verdict":"error"`} {
		event, err := json.Marshal(audit.Event{Verdict: verdict, Reason: plan.ReasonUnsent})
		require.NoError(t, err)
		require.Contains(t, string(event), word)
		require.Contains(t, string(event), `"reason":"not_sent"`)
	}

	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		patterns := map[string]string{}
		for _, f := range g.of("aws:cloudwatch/logMetricFilter:LogMetricFilter") {
			patterns[f.name[strings.LastIndexByte(f.name, '-')+1:]] = f.text("logGroupName") + " " + f.text("pattern")
		}
		require.Equal(t, `/postern/prod/proxies { ($.verdict = "deny") || (($.verdict = "error") && ($.reason != "not_sent")) }`, patterns["denials"])
		require.Equal(t, `/postern/prod/control { $.msg = "node rejected resources" }`, patterns["rejected"])
		alarms := map[string]*declaredResource{}
		for _, r := range g.of("aws:cloudwatch/metricAlarm:MetricAlarm") {
			alarms[r.name[strings.LastIndexByte(r.name, '-')+1:]] = r
			require.Len(t, r.texts("alarmActions"), 1, "%s tells nobody", r.name)
		}
		for _, name := range []string{"denials", "silence", "rejected", "delivery", "dns", "ready"} {
			require.Contains(t, alarms, name)
		}
		require.Equal(t, args.AWS.Proxies.Min, alarms["ready"].number("threshold"))
		require.Equal(t, "breaching", alarms["ready"].text("treatMissingData"), "no proxy at all is not ready")
		require.Equal(t, "breaching", alarms["silence"].text("treatMissingData"), "nothing at all is silence")
		require.Equal(t, "LessThanThreshold", alarms["silence"].text("comparisonOperator"))
		// Where the agents' network has no resolver, any query is one too many;
		// elsewhere, any that was blocked.
		if set := args.AWS; set.Mode == "isolated" && !set.FargateAgents() {
			require.NotContains(t, patterns, "dns")
			require.Equal(t, "/postern/prod/probes", alarms["dns"].inputs["dimensions"].ObjectValue()["LogGroupName"].StringValue())
		} else {
			require.Contains(t, patterns["dns"], `{ $.firewall_rule_action = "BLOCK" }`)
		}
	})
}
