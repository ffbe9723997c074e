package clients

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// model is the model that stands in for all: it does what a prompt says after "Please run: ",
// "Please fetch: " and "Please call: ", with the program's own tools, and tells what came of it.
type model struct {
	tools                []string
	command, fetch, call string
	outcome              string
}

// toolResult begins what came of a tool.
const toolResult = "tool_result:"

// marker is in the page that the stand-in serves.
const marker = "a-page-of-the-stand-in"

// reads reads one text of the conversation, the oldest first.
func (m *model) reads(text string) {
	after := func(word string) (string, bool) {
		_, rest, ok := strings.Cut(text, word)
		line, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		return line, ok
	}
	if rest, ok := strings.CutPrefix(text, toolResult); ok {
		m.outcome = rest
		return
	}
	if strings.Contains(text, "Generate a concise") {
		m.tools = nil // a title for what the person has said
	}
	if line, ok := after("Please run: "); ok {
		m.command, m.fetch, m.call, m.outcome = line, "", "", ""
	}
	if line, ok := after("Please fetch: "); ok {
		m.command, m.fetch, m.call, m.outcome = "", line, "", ""
	}
	if line, ok := after("Please call: "); ok {
		m.command, m.fetch, m.call, m.outcome = "", "", line, ""
	}
	if strings.Contains(text, marker) {
		m.outcome = "the page has " + marker
	}
}

// tool returns the first of the tools of these names, in small letters, that the program has.
func (m *model) tool(names ...string) string {
	for _, t := range m.tools {
		for _, n := range names {
			if strings.EqualFold(t, n) {
				return t
			}
		}
	}
	return ""
}

// says is the model's turn: a text, or a tool with its arguments.
func (m *model) says() (text, tool string, arguments map[string]any) {
	if m.outcome != "" {
		return "the tool says: " + m.outcome, "", nil
	}
	if t := m.tool("bash", "exec", "run_shell_command"); t != "" && m.command != "" {
		return "", t, map[string]any{"command": m.command, "description": "as asked"}
	}
	if name, given, ok := strings.Cut(m.call, " "); ok && json.Unmarshal([]byte(given), &arguments) == nil {
		return "", name, arguments
	}
	if t := m.tool("webfetch", "web_fetch", "toolsearch"); t != "" && m.fetch != "" {
		arguments := map[string]any{"url": m.fetch, "prompt": "What does it say? " + m.fetch}
		switch t {
		case "ToolSearch":
			t = "WebFetch" // Claude Code tells of it only when it is asked
		case "webfetch":
			arguments = map[string]any{"url": m.fetch, "format": "text"}
		}
		return "", t, arguments
	}
	return "hello from the stand-in", "", nil
}

func hello() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"message":"hello"}`)
	})
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, "<html><body><h1>"+marker+"</h1></body></html>")
}

// anthropic is what Claude Code asks of api.anthropic.com.
func anthropic() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", messages)
	mux.Handle("GET /api/hello", hello())
	mux.HandleFunc("GET /api/web/domain_info", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"domain":%q,"can_fetch":true}`, r.FormValue("domain"))
	})
	return mux
}

// openai is what Codex asks of api.openai.com.
func openai() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"list","data":[],"models":[]}`)
	})
	mux.HandleFunc("POST /v1/responses", responses)
	return mux
}

// responses is POST /v1/responses, as a stream.
func responses(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Input []struct {
			Content, Output json.RawMessage
			Tools           []struct{ Tools []struct{ Name string } }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var m model
	for _, item := range in.Input {
		for _, namespace := range item.Tools {
			for _, t := range namespace.Tools {
				m.tools = append(m.tools, t.Name)
			}
		}
		for _, text := range texts(item.Content) {
			m.reads(text)
		}
		for _, text := range texts(item.Output) {
			m.reads(toolResult + text)
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(kind string, fields map[string]any) {
		fields["type"] = kind
		data, _ := json.Marshal(fields)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		w.(http.Flusher).Flush()
	}
	send("response.created", map[string]any{"response": map[string]any{"id": "resp_1"}})
	text, tool, arguments := m.says()
	item := map[string]any{
		"type": "message", "role": "assistant", "id": "msg_1",
		"content": []any{map[string]any{"type": "output_text", "text": text}},
	}
	if tool != "" {
		command, _ := json.Marshal(arguments["command"])
		item = map[string]any{
			"type": "custom_tool_call", "id": "ctc_" + rand.Text(), "call_id": "call_" + rand.Text(),
			"name": tool, "namespace": "functions", "input": fmt.Sprintf("text(await tools.exec_command({cmd: %s}))", command),
		}
	} else {
		send("response.output_item.added", map[string]any{"output_index": 0, "item": map[string]any{
			"type": "message", "role": "assistant", "id": "msg_1", "content": []any{},
		}})
		for word := range strings.SplitAfterSeq(text, " ") {
			send("response.output_text.delta", map[string]any{
				"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word,
			})
		}
	}
	send("response.output_item.done", map[string]any{"output_index": 0, "item": item})
	send("response.completed", map[string]any{"response": map[string]any{
		"id": "resp_1", "usage": map[string]any{"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
	}})
}

// gemini is what Gemini CLI asks of generativelanguage.googleapis.com.
func gemini(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Contents []struct {
			Parts []struct {
				Text             string
				FunctionResponse *struct{ Response json.RawMessage }
			}
		}
		Tools []struct {
			FunctionDeclarations []struct{ Name string }
		}
		GenerationConfig struct{ ResponseMimeType string }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var m model
	for _, t := range in.Tools {
		for _, f := range t.FunctionDeclarations {
			m.tools = append(m.tools, f.Name)
		}
	}
	for _, c := range in.Contents {
		for _, p := range c.Parts {
			if p.FunctionResponse != nil {
				m.reads(toolResult + string(p.FunctionResponse.Response))
				continue
			}
			m.reads(p.Text)
		}
	}
	text, tool, arguments := m.says()
	if in.GenerationConfig.ResponseMimeType == "application/json" {
		text, tool = `{"reasoning": "as asked", "model_choice": "flash"}`, "" // which model is to answer
	}
	parts := []map[string]any{}
	if tool != "" {
		parts = append(parts, map[string]any{"functionCall": map[string]any{"name": tool, "args": arguments}})
	} else {
		for word := range strings.SplitAfterSeq(text, " ") {
			parts = append(parts, map[string]any{"text": word})
		}
	}
	chunk := func(parts ...map[string]any) map[string]any {
		return map[string]any{
			"candidates": []any{map[string]any{
				"content": map[string]any{"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0,
			}},
			"usageMetadata": map[string]any{"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
		}
	}
	if !strings.HasSuffix(r.URL.Path, ":streamGenerateContent") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(chunk(parts...))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i, p := range parts {
		c := chunk(p)
		if i < len(parts)-1 {
			delete(c["candidates"].([]any)[0].(map[string]any), "finishReason")
		}
		data, _ := json.Marshal(c)
		fmt.Fprintf(w, "data: %s\n\n", data)
		w.(http.Flusher).Flush()
	}
}
