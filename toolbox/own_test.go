package toolbox

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan/tool"
)

const ticketArguments = `{"type":"object","additionalProperties":false,"required":["title"],"properties":{
	"title":{"type":"string","maxLength":9},"kind":{"type":"string","enum":["bug","wish"]},
	"build":{"type":"string","pattern":"^[0-9]+$"},"hours":{"type":"number","maximum":8},
	"labels":{"type":"array","items":{"type":"string"},"maxItems":2}}}`

// TestArguments: a tool reads what was validated, and nothing else.
func TestArguments(t *testing.T) {
	t.Parallel()
	read := make(chan string, 1)
	server, err := ownTools([]tool.Tool{{Name: "ticket", Arguments: ticketArguments, Seconds: 5, Concurrent: 1}},
		func(ctx context.Context, own *tool.Tool, input []byte) ([]byte, int, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 5*time.Second || own.Name != "ticket" {
				return nil, 1, nil
			}
			read <- string(input)
			return []byte("opened\n"), 0, nil
		})
	require.NoError(t, err)
	here, there := mcp.NewInMemoryTransports()
	_, err = server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), here, nil)
	require.NoError(t, err)
	defer func() { _ = session.Close() }()
	call := func(arguments string) (string, bool) {
		result, err := session.CallTool(t.Context(), &mcp.CallToolParams{
			Name: "ticket", Arguments: json.RawMessage(arguments),
		})
		require.NoError(t, err)
		return result.Content[0].(*mcp.TextContent).Text, result.IsError
	}
	for arguments, want := range map[string]string{
		`{"title":"a"}`: `{"title":"a"}`,
		`{"title":"--x $(id)","kind":"bug","labels":["a"]}`: `{"kind":"bug","labels":["a"],"title":"--x $(id)"}`,
		`{"title":"a","hours":1.5}`:                         `{"hours":1.5,"title":"a"}`,
		"{\"title\":\"a\\u0000b\"}":                         `{"title":"a\u0000b"}`,
		`{"title":"longer than nine","title":"b"}`:          `{"title":"b"}`, // it reads the one that was validated
	} {
		said, failed := call(arguments)
		require.False(t, failed, said)
		require.Equal(t, "opened", said)
		require.Equal(t, want+"\n", <-read)
	}
	for _, arguments := range []string{
		`{}`, `[]`, `"x"`, `null`, `{"title":1}`, `{"title":"longer than nine"}`,
		`{"title":"a","title":"longer than nine"}`,
		`{"title":"a","extra":1}`, `{"Title":"a"}`, `{"title":"a","kind":"Bug"}`, `{"title":"a","build":"1\n"}`,
		`{"title":"a","build":"x1"}`, `{"title":"a","hours":9}`, `{"title":"a","hours":1e999999999}`,
		`{"title":"a","hours":-1e999999999}`, `{"title":"a","hours":0.0000000000000000001}`,
		`{"title":"a","hours":"1"}`,
		`{"title":"a","labels":["a","b","c"]}`, `{"title":"a","labels":[1]}`, `{"title":"a","labels":` +
			strings.Repeat("[", 900) + strings.Repeat("]", 900) + `}`,
	} {
		said, failed := call(arguments)
		require.True(t, failed, arguments)
		require.Regexp(t, "argument|number", said, arguments[:min(len(arguments), 40)])
		require.Empty(t, read)
	}

	_, err = ownTools([]tool.Tool{{Name: "x", Arguments: `{"type":"object","$ref":"file:///etc/passwd"}`}}, nil)
	require.ErrorContains(t, err, "read the arguments of tool x")
}

// TestOwnTools: the agent's calls are few at a time, and not many for long.
func TestOwnTools(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var running, most, ran atomic.Int32
	tools := &Tools{Own: []tool.Tool{{Name: "a", Arguments: `{"type":"object"}`, Seconds: 5, Concurrent: 2}}}
	tools.Outside = func(context.Context, *tool.Tool, []byte) ([]byte, int, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		ran.Add(1)
		runtime.Gosched()
		return nil, 0, nil
	}
	go func() { _ = Serve(l, tools) }()
	client := http.Client{Timeout: time.Minute}
	post := func(path string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Addr().String()+path,
			strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}`))
		if err != nil {
			return 0
		}
		r.Host = "localhost:3129"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		answer, err := client.Do(r)
		if err != nil {
			return 0
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	require.Equal(t, http.StatusNotFound, post(Path), "there is no git")
	statuses := make(chan string)
	for range 100 {
		go func() { statuses <- strconv.Itoa(post(OwnPath)) }()
	}
	for range 100 {
		require.Equal(t, "200", <-statuses)
	}
	require.LessOrEqual(t, int(most.Load()), 2)
	require.GreaterOrEqual(t, int(ran.Load()), callsAtOnce)
	require.Less(t, int(ran.Load()), callsAtOnce+20)
}
