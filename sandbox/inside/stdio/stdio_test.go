package stdio

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
)

type nothing struct{}

// TestSession: the official client, which starts its server as a command, works with the official
// server, which answers over HTTP. Calls that run at the same time do not wait for each other.
func TestSession(t *testing.T) {
	t.Parallel()
	tools := mcp.NewServer(&mcp.Implementation{Name: "tools", Version: "1"}, nil)
	began, second := make(chan struct{}), make(chan struct{})
	say := func(text string) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
	}
	mcp.AddTool(tools, &mcp.Tool{Name: "first"},
		func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
			close(began)
			<-second
			return say("one\ntwo")
		})
	mcp.AddTool(tools, &mcp.Tool{Name: "second"},
		func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
			close(second)
			return say(strings.Repeat("long", 1<<16))
		})
	server := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return tools },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}))
	defer server.Close()

	in, toBridge := io.Pipe()
	fromBridge, out := io.Pipe()
	ended := make(chan error)
	go func() { ended <- Serve(t.Context(), server.URL, in, out) }()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(),
		&mcp.IOTransport{Reader: fromBridge, Writer: toBridge}, nil)
	require.NoError(t, err)
	all, err := session.ListTools(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, all.Tools, 2)
	said := make(chan string)
	go func() {
		result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "first"})
		if err != nil {
			said <- err.Error()
			return
		}
		said <- result.Content[0].(*mcp.TextContent).Text
	}()
	<-began
	soon, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := session.CallTool(soon, &mcp.CallToolParams{Name: "second"})
	require.NoError(t, err)
	require.Len(t, result.Content[0].(*mcp.TextContent).Text, 4<<16)
	require.Equal(t, "one\ntwo", <-said)
	require.NoError(t, toBridge.Close())
	require.NoError(t, <-ended)
}

// TestEveryRequestIsAnswered: a client that waits for an answer gets one, whatever has happened.
// Only a request is answered.
func TestEveryRequestIsAnswered(t *testing.T) {
	t.Parallel()
	var idle atomic.Int32
	headers := func(r *http.Request) string {
		said := r.Header.Get("Content-Type")
		for _, name := range []string{"Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"} {
			said += " " + r.Header.Get(name)
		}
		return said
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		switch message := string(text); {
		case strings.Contains(message, "accepted"):
			w.WriteHeader(http.StatusAccepted)
		case strings.Contains(message, "refused"):
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		case strings.Contains(message, "silent"):
			w.WriteHeader(http.StatusInternalServerError)
		case strings.Contains(message, "void"):
			_, _ = io.WriteString(w, "{}")
		case strings.Contains(message, "anybody"):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"id":null,"error":{}}`)
		case strings.Contains(message, "echo"):
			_, _ = w.Write(text)
		case strings.Contains(message, "gone"):
			http.NotFound(w, r)
		case strings.Contains(message, "odd"):
			_, _ = io.WriteString(w, "odd\n{}")
		case strings.Contains(message, "cut"):
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
		case strings.Contains(message, "judged"):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"id":1,"error":{}}`)
		default:
			_, _ = io.WriteString(w, "{\n\"id\": 1, \"header\": \""+strings.TrimSpace(headers(r))+"\"}\n")
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			idle.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	ask := func(url, message string) string {
		t.Helper()
		var out bytes.Buffer
		require.NoError(t, Serve(t.Context(), url, strings.NewReader(message), &out))
		return out.String()
	}
	failure := func(said string) (id any, text string) {
		t.Helper()
		require.Equal(t, 1, strings.Count(said, "\n"), said)
		var answer struct {
			Version string `json:"jsonrpc"`
			ID      any
			Error   struct {
				Code    int
				Message string
			}
		}
		require.NoError(t, json.Unmarshal([]byte(said), &answer), said)
		require.Equal(t, "2.0", answer.Version)
		require.Negative(t, answer.Error.Code)
		return answer.ID, answer.Error.Message
	}
	whole := func(line, said string) { // each message is one line
		t.Helper()
		require.Equal(t, line+"\n", said)
	}
	whole(`{"id":1,"header":"application/json"}`, ask(server.URL, "\n {\"id\":1,\"method\":\"a\"} \r\n\n"))
	require.Equal(t, 2, strings.Count(ask(server.URL, "{\"id\":1}\n{\"id\":1}"), "\n"), "the last line may be cut")
	whole(`{"id":1,"error":{}}`, ask(server.URL, `{"id":1,"method":"judged"}`)) // it says why itself
	for message, want := range map[string]string{
		`{"id":7,"method":"refused"}`:             "the tools refuse the message: too large",
		`{"id":7,"params":[],"method":"refused"}`: "the tools refuse the message: too large",
		`{"id":7,"method":"silent"}`:              "the tools refuse the message: ",
		`{"id":7,"method":"void"}`:                "the tools refuse the message: {}",
		`{"id":7,"method":"anybody"}`:             `the tools refuse the message: {"id":null,"error":{}}`,
		`{"id":7,"method":"gone"}`:                "this agent has no tools at " + server.URL,
		`{"id":7,"method":"odd"}`:                 "the tools refuse the message: odd\n{}",
		`{"id":7,"method":"cut"}`:                 "the tools have ended: unexpected EOF",
	} {
		id, text := failure(ask(server.URL, message))
		require.InEpsilon(t, 7, id, 0)
		require.Equal(t, want, text)
	}
	var many, answered []string
	for i := range 500 {
		many = append(many, fmt.Sprintf(`{"id":%d,"method":"echo"}`, i))
	}
	for line := range strings.Lines(ask(server.URL, strings.Join(many, "\n"))) {
		answered = append(answered, strings.TrimSpace(line))
	}
	require.ElementsMatch(t, many, answered)
	id, text := failure(ask(server.URL, `{"id":"refused`))
	require.Nil(t, id)
	require.Contains(t, text, "too large")
	version := `{"id":1,"method":"list","params":{"name":"n","_meta":{"io.modelcontextprotocol/protocolVersion":"v"}}}`
	whole(`{"id":1,"header":"application/json v list n"}`, ask(server.URL, version))
	for _, message := range []string{
		`{"method":"accepted"}`, `{"method":"refused"}`, `{"id":1,"result":"refused"}`, `{"id":1,"result":"accepted"}`,
	} {
		require.Empty(t, ask(server.URL, message), message)
	}
	require.Zero(t, idle.Load(), "no connection waits for the next message")

	server.Close()
	id, text = failure(ask(server.URL, `{"id":"x","method":"a"}`))
	require.Equal(t, "x", id)
	require.Contains(t, text, "this run has no tools, or they have ended")

	var out bytes.Buffer
	require.Error(t, Serve(t.Context(), server.URL, strings.NewReader(strings.Repeat("x", longestLine+1)), &out))
	require.Error(t, Serve(t.Context(), server.URL, strings.NewReader(`{"id":1,"method":"a"}`), closed{}))
}

// closed is what a client that has gone reads from.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
