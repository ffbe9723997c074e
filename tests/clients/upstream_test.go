package clients

import (
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/postern/postern/tests/fleet"
)

// hosts are the names of the upstream.
var hosts = []string{
	"api.test", "ws.test", "wheels.test", "packages.test", "git.test", "rpc.test",
	"api.anthropic.com", "platform.claude.com", "api.openai.com", "generativelanguage.googleapis.com",
	"docs.python.org",
}

// request is what the upstream remembers of one.
type request struct {
	host, method, path, proto string
	// credential is x-api-key, or what authorization says.
	credential string
}

// upstream is every server that the clients talk to, on Unix sockets: one for
// HTTP/1.1 and 2, as whoever connects prefers, and one for HTTP/1.1.
type upstream struct {
	mu       sync.Mutex
	requests []request
	acks     map[string]chan struct{}
}

func newUpstream(t *testing.T, f *fleet.Fleet, dir string) *upstream {
	t.Helper()
	u := &upstream{acks: map[string]chan struct{}{}}
	rpc := grpc.NewServer()
	healthv1.RegisterHealthServer(rpc, health.NewServer())
	reflection.Register(rpc)
	byHost := map[string]http.Handler{
		"api.test": u.api(), "ws.test": newSockets(), "git.test": newGit(t), "wheels.test": newWheels(t), "packages.test": newPackages(t), "rpc.test": rpc,
		"api.anthropic.com": anthropic(), "platform.claude.com": hello(), "api.openai.com": openai(),
		"generativelanguage.googleapis.com": http.HandlerFunc(gemini), "docs.python.org": http.HandlerFunc(page),
	}
	certificate := f.UpstreamCA.Issue(t, hosts...)
	l, err := net.Listen("unix", filepath.Join(dir, "upstream.sock"))
	require.NoError(t, err)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.record(r)
			host, _, _ := strings.Cut(r.Host, ":")
			if h, ok := byHost[host]; ok {
				h.ServeHTTP(w, r)
				return
			}
			http.Error(w, "no such host", http.StatusMisdirectedRequest)
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return u
}

func (u *upstream) record(r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	credential := r.Header.Get("X-Api-Key")
	if credential == "" {
		credential = r.Header.Get("Authorization") + r.Header.Get("X-Goog-Api-Key")
	}
	if _, password, ok := r.BasicAuth(); ok {
		credential = password
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = append(u.requests, request{host: host, method: r.Method, path: r.URL.Path, proto: r.Proto, credential: strings.TrimPrefix(credential, "Bearer ")})
}

// seen are the requests so far to a host, below a path.
func (u *upstream) seen(host, path string) []request {
	u.mu.Lock()
	defer u.mu.Unlock()
	var found []request
	for _, r := range u.requests {
		if r.host == host && strings.HasPrefix(r.path, path) {
			found = append(found, r)
		}
	}
	return found
}

// injected requires that requests arrived at a host and path, each with the
// credential.
func (s *stack) injected(where string) []request {
	s.Helper()
	host, path, _ := strings.Cut(where, "/")
	found := s.up.seen(host, "/"+path)
	require.NotEmpty(s, found, "nothing arrived at %s", where)
	for _, r := range found {
		require.Equal(s, canary, r.credential, "%+v", r)
	}
	return found
}

// api is the services below api.test/v1.
func (u *upstream) api() http.Handler {
	mux := http.NewServeMux()
	// What is here for everybody: the request, except what was injected.
	mux.HandleFunc("/v1/echo/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"path":%q,"proto":%q}`, r.URL.Path, r.Proto)
	})
	mux.HandleFunc("/v1/events/{name}", u.events)
	mux.HandleFunc("/v1/ack/{name}", func(_ http.ResponseWriter, r *http.Request) { close(u.ack(r.PathValue("name"))) })
	mux.HandleFunc("POST /v1/messages", messages)
	return mux
}

// newSockets is a WebSocket that echoes.
func newSockets() http.Handler {
	return websocket.Server{Handler: func(c *websocket.Conn) {
		for {
			var message string
			if err := websocket.Message.Receive(c, &message); err != nil {
				return
			}
			if err := websocket.Message.Send(c, "echo "+message); err != nil {
				return
			}
		}
	}}
}

func (u *upstream) ack(name string) chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.acks[name] == nil {
		u.acks[name] = make(chan struct{})
	}
	return u.acks[name]
}

// events sends the second event only when the client has said that it has the first.
func (u *upstream) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "data: one\n\n")
	w.(http.Flusher).Flush()
	select {
	case <-u.ack(r.PathValue("name")):
		fmt.Fprint(w, "data: two\n\n")
	case <-time.After(time.Minute):
		fmt.Fprint(w, "data: the first event did not get through\n\n")
	case <-r.Context().Done():
	}
}

// messages is POST /v1/messages of the sampling API, as much of it as clients need.
func messages(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model    string
		Stream   bool
		Tools    []struct{ Name string }
		Messages []struct{ Content json.RawMessage }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply := map[string]any{"type": "text", "text": "hello from the stand-in"}
	stop := "end_turn"
	var m model
	for _, tool := range in.Tools {
		m.tools = append(m.tools, tool.Name)
	}
	for _, message := range in.Messages {
		for _, text := range texts(message.Content) {
			m.reads(text)
		}
	}
	text, tool, arguments := m.says()
	if reply["text"] = text; tool != "" {
		reply = map[string]any{"type": "tool_use", "id": "toolu_" + rand.Text(), "name": tool, "input": arguments}
		stop = "tool_use"
	}
	message := map[string]any{
		"id": "msg_" + rand.Text(), "type": "message", "role": "assistant", "model": in.Model, "content": []any{reply},
		"stop_reason": stop, "stop_sequence": nil, "usage": map[string]int{"input_tokens": 1, "output_tokens": 1},
	}
	if !in.Stream {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(message)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(kind string, fields map[string]any) {
		fields["type"] = kind
		data, _ := json.Marshal(fields)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		w.(http.Flusher).Flush()
	}
	message["content"], message["stop_reason"] = []any{}, nil
	send("message_start", map[string]any{"message": message})
	start, deltas := map[string]any{"type": "text", "text": ""}, []map[string]any{}
	if reply["type"] == "tool_use" {
		start = map[string]any{"type": "tool_use", "id": reply["id"], "name": reply["name"], "input": map[string]any{}}
		input, _ := json.Marshal(reply["input"])
		deltas = append(deltas, map[string]any{"type": "input_json_delta", "partial_json": string(input)})
	} else {
		for word := range strings.SplitAfterSeq(reply["text"].(string), " ") {
			deltas = append(deltas, map[string]any{"type": "text_delta", "text": word})
		}
	}
	send("content_block_start", map[string]any{"index": 0, "content_block": start})
	for _, d := range deltas {
		send("content_block_delta", map[string]any{"index": 0, "delta": d})
	}
	send("content_block_stop", map[string]any{"index": 0})
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]int{"output_tokens": 1}})
	send("message_stop", map[string]any{})
}

// texts are what a message says: its text, or that of its blocks. A tool's
// result begins with "tool_result:".
func texts(content json.RawMessage) []string {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return []string{text}
	}
	var blocks []struct {
		Type, Text string
		Content    json.RawMessage
	}
	if json.Unmarshal(content, &blocks) != nil {
		return nil
	}
	var all []string
	for _, b := range blocks {
		if b.Type == "tool_result" {
			// A result may be of other blocks than texts.
			all = append(all, toolResult+cmp.Or(strings.Join(texts(b.Content), ""), string(b.Content)))
			continue
		}
		all = append(all, b.Text)
	}
	return all
}
