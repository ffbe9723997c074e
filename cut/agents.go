package cut

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

// Agents cuts agents, or with none all, off the nodes on this machine that have not
// confirmed a kill, unless the agents do not exist. It is never enough: the kill is to be
// recorded, too.
func Agents(
	_ context.Context, w io.Writer, home home.Folder, agents []string, out *bundle.Outcome, err error,
) (enough bool, failed error) {
	if unknown := (*bundle.UnknownAgentError)(nil); errors.As(err, &unknown) {
		return false, nil
	}
	for _, node := range Unconfirmed(home, out) {
		until := time.Now().Add(cutFor)
		for _, agent := range agentsOf(home, node) {
			if agents != nil && !slices.Contains(agents, agent) {
				continue
			}
			n, err := cut(home, node, agent, until)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			visible.Printf(w, "%s: node %s does not confirm: %s was cut off it from outside, with %d connections\n", filepath.Base(home.Root), node, agent, n)
		}
	}
	return false, failed
}

// Mend undoes Agents on every node that has confirmed. That is enough if the agent
// is not killed any more: an earlier command took the kill back while the control plane
// did not answer, and could not know that the nodes would confirm it.
func Mend(
	ctx context.Context, w io.Writer, home home.Folder, agents []string, out *bundle.Outcome, err error,
) (enough bool, failed error) {
	var confirmed []string
	notKilled := (*bundle.NotKilledError)(nil)
	switch {
	case errors.As(err, &notKilled):
		agents = []string{notKilled.Agent}
		confirmed = serving(ctx, home, notKilled.Agent)
	case out != nil && out.Converged != nil:
		confirmed = out.Converged.Confirmed
	}
	// The names come from the control plane, which may be another user.
	here := NodesHere(home)
	for _, node := range confirmed {
		if !slices.Contains(here, node) {
			continue
		}
		for _, agent := range agentsOf(home, node) {
			if agents != nil && !slices.Contains(agents, agent) {
				continue
			}
			mended, err := mend(home, node, agent)
			failed = errors.Join(failed, err)
			if mended && notKilled != nil {
				visible.Printf(w, "%s: %s is not killed, and reaches node %s again\n",
					filepath.Base(home.Root), agent, node)
				enough = true
			}
		}
	}
	return enough && failed == nil, failed
}

// serving returns the nodes that have confirmed everything that is live, if the agent is not killed
// by that.
func serving(ctx context.Context, home home.Folder, agent string) []string {
	s, err := api.Dial(home.ControlSocket()).Status(ctx)
	if err != nil || slices.Contains(s.Killed, agent) {
		return nil
	}
	var ids []string
	for _, n := range s.Nodes {
		if n.Connected && n.Version == s.Version {
			ids = append(ids, n.ID)
		}
	}
	return ids
}
