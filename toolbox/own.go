package toolbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/time/rate"

	"github.com/postern/postern/plan/tool"
)

// OwnPath is that of the URL of the operator's own tools.
const OwnPath = "/tools"

const (
	// callsAtOnce and callEvery bound how often the tools of one run are called: each call is an
	// event.
	callsAtOnce = 30
	callEvery   = time.Second
	// longestNumber bounds a number, in bytes. Longer ones and exponents would take memory or be
	// rounded.
	longestNumber = 15
)

// Outside runs a tool of the operator's, as [run.Tools.Outside] does.
type Outside func(ctx context.Context, t *tool.Tool, input []byte) (said []byte, status int, err error)

// ownTools returns a server of the operator's tools.
func ownTools(tools []tool.Tool, run Outside) (*mcp.Server, error) {
	about := &mcp.Implementation{Name: "postern-tools", Title: "tools outside the sandbox", Version: "1"}
	s := mcp.NewServer(about, nil)
	often := rate.NewLimiter(rate.Every(callEvery), callsAtOnce)
	for i := range tools {
		t := &tools[i]
		var schema jsonschema.Schema
		if err := json.Unmarshal([]byte(t.Arguments), &schema); err != nil {
			return nil, fmt.Errorf("read the arguments of tool %s: %w", t.Name, err)
		}
		valid, err := schema.Resolve(nil)
		if err != nil {
			return nil, fmt.Errorf("read the arguments of tool %s: %w", t.Name, err)
		}
		slots := make(chan struct{}, t.Concurrent)
		offered := &mcp.Tool{Name: t.Name, Description: t.About, InputSchema: &schema}
		s.AddTool(offered, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			said, err := func() (string, error) {
				input, err := checked(valid, r.Params.Arguments)
				if err != nil {
					return "", err
				}
				ctx, unwatch := whileWanted(ctx)
				defer unwatch()
				ctx, cancel := context.WithTimeout(ctx, answerTime)
				defer cancel()
				select {
				case slots <- struct{}{}:
					defer func() { <-slots }()
				case <-ctx.Done():
					return "", errors.New("other calls of this tool take too long: try again later")
				}
				if !often.Allow() {
					return "", fmt.Errorf("more than %d calls at once: wait, and then call once in %v",
						callsAtOnce, callEvery)
				}
				limit := time.Duration(t.Seconds) * time.Second
				ctx, cancelRun := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes more than %v", limit))
				defer cancelRun()
				said, status, err := run(ctx, t, input)
				return outcome(t.Name, said, status, err)
			}()
			result := &mcp.CallToolResult{}
			if err != nil {
				result.IsError, said = true, err.Error()
			}
			result.Content = []mcp.Content{&mcp.TextContent{Text: said}}
			return result, nil
		})
	}
	return s, nil
}

// checked returns the arguments as the tool reads them: what was validated, and not what was sent.
func checked(valid *jsonschema.Resolved, raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, errors.New("the arguments are not JSON")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the arguments are more than one JSON value")
	}
	if _, object := value.(map[string]any); !object {
		return nil, errors.New("the arguments are not a JSON object")
	}
	if err := shortNumbers(value); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &value); err != nil { // the schema wants numbers as Go has them
		return nil, errors.New("the arguments are not JSON")
	}
	if err := valid.Validate(value); err != nil {
		return nil, fmt.Errorf("the arguments are not what the tool takes: %.1000s", err.Error())
	}
	text, err := json.Marshal(value)
	return append(text, '\n'), err
}

// shortNumbers returns an error for the first number that it does not take.
func shortNumbers(value any) error {
	switch v := value.(type) {
	case json.Number:
		if len(v) > longestNumber || strings.ContainsAny(v.String(), "eE") {
			return fmt.Errorf("a number has an exponent or more than %d digits", longestNumber)
		}
	case []any:
		for _, item := range v {
			if err := shortNumbers(item); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, item := range v {
			if err := shortNumbers(item); err != nil {
				return err
			}
		}
	}
	return nil
}
