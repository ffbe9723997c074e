// Command mcpclient calls tools of an MCP server with the official client, in a sandbox of a test.
//
//	mcpclient SERVER [TOOL ARGUMENTS]...
//
// SERVER is a URL, or the words of the command that is the server.
// It prints a JSON object for each call, and fails if the server does not answer.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Said is what a tool said.
type Said struct {
	Tool, Text string
	Failed     bool
}

func main() {
	var at mcp.Transport = &mcp.StreamableClientTransport{Endpoint: os.Args[1], MaxRetries: -1}
	if words := strings.Fields(os.Args[1]); len(words) > 1 {
		at = &mcp.CommandTransport{Command: exec.Command(words[0], words[1:]...)}
	}
	if err := call(at, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "mcpclient:", err)
		os.Exit(1)
	}
}

func call(at mcp.Transport, calls []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	client := mcp.NewClient(&mcp.Implementation{Name: "mcpclient", Version: "1"}, nil)
	session, err := client.Connect(ctx, at, nil)
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for _, t := range tools.Tools {
		if len(calls) == 0 {
			fmt.Println(t.Name)
		}
	}
	for ; len(calls) > 1; calls = calls[2:] {
		said := Said{Tool: calls[0]}
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: calls[0], Arguments: json.RawMessage(calls[1])})
		if err != nil {
			said.Failed, said.Text = true, err.Error()
		} else {
			said.Failed = result.IsError
			for _, c := range result.Content {
				if text, ok := c.(*mcp.TextContent); ok {
					said.Text += text.Text
				}
			}
		}
		if err := out.Encode(said); err != nil {
			return err
		}
	}
	return nil
}
