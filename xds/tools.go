package xds

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/xds/api"
)

// answerCalled records a call of a tool, which may begin only if the live plan has the tool.
func (c *Control) answerCalled(w http.ResponseWriter, r *http.Request) {
	var call api.Called
	body := http.MaxBytesReader(w, r.Body, 1<<16)
	if err := json.NewDecoder(body).Decode(&call); err != nil {
		answer(w, nil, &api.Error{Message: "the call could not be read"})
		return
	}
	_, _ = io.Copy(io.Discard, body) // see Handler
	e := Event{Kind: EventToolEnded, Time: time.Now(), Agent: call.Agent, Detail: call.Tool + ": " + call.Ended}
	if call.Ended != "" {
		c.tell(e)
		answer(w, struct{}{}, nil)
		return
	}
	if problem := c.mayCall(&call); problem != "" {
		answer(w, nil, &api.Error{Message: problem})
		return
	}
	e.Kind, e.Detail = EventToolCalled, call.Tool
	if c.cfg.Event != nil {
		if err := c.cfg.Event(e); err != nil {
			c.meter.eventErrors.Inc()
			c.cfg.Log.Error("write event", "kind", e.Kind, "error", err)
			answer(w, nil, &api.Error{Message: "the call cannot be recorded"})
			return
		}
	}
	answer(w, struct{}{}, nil)
}

// mayCall says why the call may not begin, or returns "".
func (c *Control) mayCall(call *api.Called) string {
	b := c.bundle()
	if b == nil || b.Killed.Agent(call.Agent) {
		return "the agent is killed"
	}
	for _, a := range b.Plan.Agents {
		same := func(t tool.Tool) bool { return t.Name == call.Tool && t.Digest() == call.Digest }
		if a.Name == call.Agent && slices.ContainsFunc(a.Tools, same) {
			return ""
		}
	}
	return "the agent has this tool no more as the run began with it: run the command again"
}
