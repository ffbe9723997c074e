// Package stdio is an MCP server for clients that start their servers as commands. It answers
// nothing by itself: each message of the client goes to the tools outside the sandbox over HTTP,
// and their answer comes back. So what bounds the tools over HTTP bounds them here, too.
package stdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"

	"github.com/postern/postern/sandbox/wire"
)

const (
	// longestLine bounds a message, in bytes. The tools take less, and answer that they do.
	longestLine = 16 << 20
	// notAnswered is the code of an error of ours, of those that JSON-RPC leaves to servers.
	notAnswered = -32000
	notJSON     = -32700
)

// Main serves the tools of that name to the client that has started this process, and returns the
// exit status.
func Main(name string) int {
	at := url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", strconv.Itoa(wire.ToolsPort)), Path: "/" + name}
	if err := Serve(context.Background(), at.String(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", err)
		return 1
	}
	return 0
}

// bridge is one client's.
type bridge struct {
	url  string
	http http.Client
	mu   sync.Mutex // for out and err
	out  io.Writer
	err  error
}

// request is what the bridge reads of a message. Only a request has an ID and a method.
type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name string `json:"name"`
		Meta struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
}

// Serve sends each line of in to the server at the URL, and writes each answer as a line to out. It
// returns when in has ended and all is answered. Whatever goes wrong with a message is its answer.
func Serve(ctx context.Context, url string, in io.Reader, out io.Writer) error {
	// An idle connection would be one less for others. No proxy leads to this machine's own ports.
	b := &bridge{url: url, out: out, http: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	var answers sync.WaitGroup
	for lines.Scan() {
		if message := bytes.TrimSpace(lines.Bytes()); len(message) > 0 {
			message = bytes.Clone(message)
			answers.Go(func() { b.answer(ctx, message) })
		}
	}
	answers.Wait()
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read from the client: %w", err)
	}
	return b.err
}

// answer writes the answer to a message. A notification has none.
func (b *bridge) answer(ctx context.Context, message []byte) {
	var of request
	code := notAnswered
	if json.Valid(message) {
		_ = json.Unmarshal(message, &of) // the tools say what is wrong with a field
	} else {
		of.ID, of.Method, code = json.RawMessage("null"), "?", notJSON
	}
	said, err := b.ask(ctx, &of, message)
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", err)
		if said = nil; of.ID != nil && of.Method != "" {
			said, err = json.Marshal(map[string]any{
				"jsonrpc": "2.0", "id": of.ID, "error": map[string]any{"code": code, "message": err.Error()},
			})
		}
	}
	if len(said) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		_, err = b.out.Write(append(said, '\n'))
	}
	b.err = errors.Join(b.err, err)
}

// ask returns what the tools answer, as one line. It may be empty.
func (b *bridge) ask(ctx context.Context, of *request, message []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if version := of.Params.Meta.Version; version != "" { // since 2026-07-28 headers repeat what the body says
		r.Header.Set("Mcp-Protocol-Version", version)
		r.Header.Set("Mcp-Method", of.Method)
		r.Header.Set("Mcp-Name", of.Params.Name)
	}
	answer, err := b.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("this run has no tools, or they have ended: %w", err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	said = bytes.TrimSpace(said)
	var to request // an error that says which message it is about is the answer, whatever the status
	passes := json.Unmarshal(said, &to) == nil && to.ID != nil && string(to.ID) != "null"
	switch {
	case err != nil:
		return nil, fmt.Errorf("the tools have ended: %w", err)
	case len(said) == 0 && answer.StatusCode/100 == 2:
		return nil, nil
	case passes:
		var line bytes.Buffer
		err := json.Compact(&line, said)
		return line.Bytes(), err
	case answer.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("this agent has no tools at %s", b.url)
	}
	return nil, fmt.Errorf("the tools refuse the message: %s", said)
}
