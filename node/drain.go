package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/postern/postern/envoy"
)

const (
	// drainTime bounds how long a node that is told to stop waits for its requests.
	drainTime = 4 * time.Second
	// idleTime is the wait for clients to close connections without a request. Until then, a client
	// may be about to send one.
	idleTime = time.Second
	// drainEvery is the interval at which the connections are counted.
	drainEvery = 20 * time.Millisecond
)

// drain lets Envoy finish. No agent can connect any longer, so its sandbox uses another node, and
// each answer closes its connection. drain returns when no connection is left, when only idle
// connections are left, or after drainTime.
func (c Config) drain(ctx context.Context, ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	admin := adminClient(c.Dir)
	for _, page := range []string{"/healthcheck/fail", "/drain_listeners?inboundonly"} {
		if err := command(ctx, admin, page); err != nil {
			c.Log.Warn("envoy does not drain", "error", err)
			return
		}
	}
	begun := time.Now()
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		open, active, err := busy(ctx, admin)
		if err != nil || open == 0 || active == 0 && time.Since(begun) > idleTime {
			return
		}
		select {
		case <-ended:
			return
		case <-ctx.Done():
			c.Log.Warn("requests are cut off", "connections", open, "after", drainTime.String())
			return
		case <-tick.C:
		}
	}
}

// busy counts the connections of agents, and the requests in progress. A CONNECT counts only if the
// requests inside are not counted.
func busy(ctx context.Context, admin *http.Client) (open, active int, err error) {
	b, err := question(ctx, admin, http.MethodGet, "/stats?format=json&filter="+`^http\.(agent|intercept|intercept-wildcard)\.downstream_(cx|rq)_active$`)
	if err != nil {
		return 0, 0, err
	}
	var stats struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := json.Unmarshal(b, &stats); err != nil {
		return 0, 0, fmt.Errorf("read envoy's statistics: %w", err)
	}
	for _, s := range stats.Stats {
		switch {
		case s.Name == "http.agent.downstream_cx_active":
			open += s.Value
		case strings.HasSuffix(s.Name, "cx_active"):
			active -= s.Value
		default:
			active += s.Value
		}
	}
	return open, active, nil
}

func command(ctx context.Context, admin *http.Client, page string) error {
	_, err := question(ctx, admin, http.MethodPost, page)
	return err
}

// adminClient asks the Envoy of the node whose working folder is dir.
func adminClient(dir string) *http.Client {
	return &http.Client{Timeout: adminTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialIn(ctx, dir, envoy.AdminSocket)
		},
	}}
}

// question sends one request to Envoy's admin interface.
func question(ctx context.Context, admin *http.Client, method, page string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+page, nil)
	if err != nil {
		return nil, fmt.Errorf("ask envoy: %w", err)
	}
	resp, err := admin.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask envoy: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("ask envoy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return b, nil
}
