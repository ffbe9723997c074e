package xds

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/xds/api"
)

// ports holds the ports of this machine that lead into sandboxes, and the tools outside of them, as
// long as their runs hold the request that reports them. Both are cut when their agent is killed:
// each run is told.
type ports struct {
	mu     sync.Mutex
	open   map[*http.Request]*opened
	killed bundle.Killed
}

// opened are the ports and tools of one run. cut is closed when the agent is killed.
type opened struct {
	api.Published
	cut chan struct{}
}

// list returns the open ports, those of the oldest run first.
func (p *ports) list() []api.Published {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []api.Published
	for _, o := range p.open {
		if len(o.Addresses) > 0 {
			all = append(all, o.Published)
		}
	}
	slices.SortFunc(all, func(a, b api.Published) int { return a.Since.Compare(b.Since) })
	return all
}

// add returns nil if the agent is killed.
func (p *ports) add(r *http.Request, now api.Published) *opened {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed.Agent(now.Agent) {
		return nil
	}
	if p.open == nil {
		p.open = map[*http.Request]*opened{}
	}
	o := &opened{now, make(chan struct{})}
	p.open[r] = o
	return o
}

func (p *ports) remove(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, r)
}

// kill cuts the ports of the killed agents. From now on it is these whose ports are refused.
func (p *ports) kill(killed bundle.Killed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = killed
	for r, o := range p.open {
		if killed.Agent(o.Agent) {
			close(o.cut)
			delete(p.open, r)
		}
	}
}

// answerPublished records ports that a run has opened, and that they are closed when the client
// ends the request.
func (c *Control) answerPublished(w http.ResponseWriter, r *http.Request) {
	var p api.Published
	body := http.MaxBytesReader(w, r.Body, 1<<16)
	if err := json.NewDecoder(body).Decode(&p); err != nil || len(p.Addresses)+len(p.Tools) == 0 {
		answer(w, nil, &api.Error{Message: "the published ports could not be read"})
		return
	}
	_, _ = io.Copy(io.Discard, body) // see Handler
	p.Since = time.Now()
	o := c.ports.add(r, p)
	if o == nil {
		http.Error(w, "the agent is killed", api.StatusCut)
		return
	}
	record := func(kind string) {
		if len(p.Addresses) == 0 {
			return
		}
		c.ledger.Notify()
		c.tell(Event{Kind: kind, Time: time.Now(), Agent: p.Agent, Detail: strings.Join(p.Addresses, ", ")})
	}
	record(EventPortOpened)
	defer record(EventPortClosed)
	defer c.ports.remove(r)
	answer(w, struct{}{}, nil)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	select {
	case <-r.Context().Done():
	case <-o.cut: // the client asks again, and is refused
	}
}
