// Package toolbox serves the tools that an agent may have run outside its sandbox, by the Model
// Context Protocol. Package run says where a tool runs: in a sandbox of its own, which reaches what
// the agent reaches.
//
// An agent writes every byte that arrives here. So requests are bounded in size, time and number,
// no state is kept between them, and each argument is compared with a pattern first.
package toolbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/net/netutil"

	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/sandbox/wire"
)

// Path is that of the git server's URL.
const Path = "/git"

const (
	// mostBody bounds a request, in bytes, and mostConnections the connections at a time.
	mostBody        = 64 << 10
	mostConnections = 16
	// mostTools bounds the tools of one run at a time, which are sandboxes. Other calls wait. Each
	// holds its connection, also when its client has gone.
	mostTools = 2
	// mostOutput bounds what a tool says, in bytes.
	mostOutput = 64 << 10
	// answerTime bounds a call, with the time that it waits for others.
	answerTime = 10 * time.Minute
)

// Runner runs a command of an agent, as [run.Tools.Run] does.
type Runner func(ctx context.Context, most int, command ...string) (said []byte, status int, err error)

// New returns a server of git's tools for the repositories.
func New(git []string, runner Runner) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "postern-git", Title: "git outside the sandbox", Version: "1"},
		&mcp.ServerOptions{Instructions: instructions(git)})
	g := &gitTools{repositories: git, run: runner, slots: make(chan struct{}, mostTools)}
	g.add(s)
	return s
}

// Tools are those of one run.
type Tools struct {
	// Git are the repositories of git's tools, which Run carries out. Own are the operator's tools,
	// which Outside carries out.
	Git     []string
	Run     Runner
	Own     []tool.Tool
	Outside Outside
}

// Serve answers what connects to l, until l is closed. Then it returns nil.
func Serve(l net.Listener, tools *Tools) error {
	own, err := ownTools(tools.Own, tools.Outside)
	if err != nil {
		l.Close()
		return err
	}
	mux := http.NewServeMux()
	handle := func(path string, s *mcp.Server) {
		serve := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s },
			&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
		running := &calls{ending: map[string]map[*context.CancelCauseFunc]bool{}}
		mux.Handle(path, onlyLocal(http.MaxBytesHandler(onlyOne(running.watch(serve)), mostBody)))
	}
	if len(tools.Git) > 0 {
		handle(Path, New(tools.Git, tools.Run))
	}
	if len(tools.Own) > 0 {
		handle(OwnPath, own)
	}
	server := http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute,
		WriteTimeout: answerTime + time.Minute, MaxHeaderBytes: 16 << 10,
	}
	defer func() { _ = server.Close() }()
	err = server.Serve(netutil.LimitListener(l, mostConnections))
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve tools: %w", err)
}

// onlyLocal refuses what a page in the agent's browser sends, which its author may have written.
func onlyLocal(next http.Handler) http.Handler {
	var hosts []string
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		hosts = append(hosts, net.JoinHostPort(name, strconv.Itoa(wire.ToolsPort)))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(hosts, r.Host) || r.Header.Get("Origin") != "" {
			http.Error(w, "connect to http://"+hosts[0]+", and not from a page", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// onlyOne refuses a request with several calls: what they say would be kept until the last has
// ended.
func onlyOne(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := bufio.NewReader(r.Body)
		for r.Method == http.MethodPost {
			b, err := body.ReadByte()
			if err == nil && strings.ContainsRune(" \t\r\n", rune(b)) {
				continue
			}
			if err != nil || b != '{' {
				http.Error(w, "send one JSON object", http.StatusBadRequest)
				return
			}
			_ = body.UnreadByte() // it was read a moment ago
			break
		}
		r.Body = struct {
			io.Reader
			io.Closer
		}{body, r.Body}
		next.ServeHTTP(w, r)
	})
}
