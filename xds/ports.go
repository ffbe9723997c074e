package xds

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/xds/api"
)

// ports holds the ports of this machine that lead into sandboxes, as long as their runs hold the
// request that reports them.
type ports struct {
	mu   sync.Mutex
	open map[*http.Request]api.Published
}

// list returns the open ports, those of the oldest run first.
func (p *ports) list() []api.Published {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.open), func(a, b api.Published) int { return a.Since.Compare(b.Since) })
}

func (p *ports) set(r *http.Request, now *api.Published) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*http.Request]api.Published{}
	}
	if delete(p.open, r); now != nil {
		p.open[r] = *now
	}
}

// answerPublished records ports that a run has opened, and that they are closed when the client
// ends the request.
func (c *Control) answerPublished(w http.ResponseWriter, r *http.Request) {
	var p api.Published
	body := http.MaxBytesReader(w, r.Body, 1<<16)
	if err := json.NewDecoder(body).Decode(&p); err != nil || len(p.Addresses) == 0 {
		answer(w, nil, &api.Error{Message: "the published ports could not be read"})
		return
	}
	_, _ = io.Copy(io.Discard, body) // see Handler
	p.Since = time.Now()
	record := func(kind string, now *api.Published) {
		c.ports.set(r, now)
		c.ledger.Notify()
		c.tell(Event{Kind: kind, Time: time.Now(), Agent: p.Agent, Detail: strings.Join(p.Addresses, ", ")})
	}
	record(EventPortOpened, &p)
	defer record(EventPortClosed, nil)
	answer(w, struct{}{}, nil)
	if http.NewResponseController(w).Flush() == nil {
		<-r.Context().Done()
	}
}
