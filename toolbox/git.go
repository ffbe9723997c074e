package toolbox

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/postern/postern/plan"
	repo "github.com/postern/postern/toolbox/repository"
)

// gitScript runs git on a repository that an agent has written. See its comments.
//
//go:embed git.sh
var gitScript string

const (
	// networkTime bounds a command that asks a server, and localTime any other.
	networkTime = 5 * time.Minute
	localTime   = 30 * time.Second
	// mostCommits bounds what log shows.
	mostCommits = 200
)

// gitTools are the tools of one agent.
type gitTools struct {
	// repositories are patterns of those to which git may talk.
	repositories []string
	run          Runner
	slots        chan struct{}
}

func instructions(repositories []string) string {
	return "Runs git outside of this sandbox, where credentials are added. Repositories: " +
		strings.Join(repositories, ", ") + ". Paths are relative to the working directory. " +
		"fetch updates refs/remotes/origin; merge or rebase with git in the sandbox. push never forces."
}

// What the arguments may look like. None can be an option, a URL, a path that leads out, or more
// than one argument.
var (
	isBranch = plan.Matching(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$`)
	isCommit = plan.Matching(`^[A-Za-z0-9_][A-Za-z0-9_./~^-]{0,199}$`)
	isFolder = plan.Matching(`^(?:\.|[A-Za-z0-9_.+@ ][A-Za-z0-9_.+@ /-]{0,499})$`)
)

type (
	place struct {
		Path string `json:"path,omitempty" jsonschema:"folder of the repository in the working directory; default ."`
	}
	cloneArgs struct {
		Repository string `json:"repository" jsonschema:"HOST/OWNER/NAME"`
		Path       string `json:"path" jsonschema:"new folder, relative to the working directory"`
		Branch     string `json:"branch,omitempty" jsonschema:"branch to check out; default the server's"`
	}
	fetchArgs struct {
		place
		Repository string `json:"repository" jsonschema:"HOST/OWNER/NAME"`
	}
	pushArgs struct {
		place
		Repository string `json:"repository" jsonschema:"HOST/OWNER/NAME"`
		Branch     string `json:"branch" jsonschema:"local branch to push"`
		To         string `json:"to,omitempty" jsonschema:"branch of the server; default the same name"`
	}
	branchArgs struct {
		place
		Create string `json:"create,omitempty" jsonschema:"branch to make; without it, branches are listed"`
		From   string `json:"from,omitempty" jsonschema:"where the new branch begins; default HEAD"`
	}
	logArgs struct {
		place
		Revision string `json:"revision,omitempty" jsonschema:"branch or commit; default HEAD"`
		Count    int    `json:"count,omitempty" jsonschema:"number of commits, at most 200; default 20"`
	}
)

// add adds the tools to the server.
func (g *gitTools) add(s *mcp.Server) {
	const clone = "Clone a repository into a new folder"
	addTool(s, "clone", clone, func(ctx context.Context, a cloneArgs) (string, error) {
		url, err := g.url(a.Repository)
		if err != nil {
			return "", err
		}
		if a.Path == "" || filepath.Clean(a.Path) == "." {
			return "", errors.New("path is not a valid name of a new folder")
		}
		if a.Branch != "" && !isBranch(a.Branch) {
			return "", invalid("branch", a.Branch)
		}
		return g.git(ctx, networkTime, "clone", a.Path, url, a.Branch)
	})
	const fetch = "Fetch all branches into refs/remotes/origin"
	addTool(s, "fetch", fetch, func(ctx context.Context, a fetchArgs) (string, error) {
		url, err := g.url(a.Repository)
		if err != nil {
			return "", err
		}
		return g.git(ctx, networkTime, "fetch", a.Path, url)
	})
	addTool(s, "push", "Push a branch, without force", func(ctx context.Context, a pushArgs) (string, error) {
		url, err := g.url(a.Repository)
		if err != nil {
			return "", err
		}
		if a.To == "" {
			a.To = a.Branch
		}
		for _, b := range []string{a.Branch, a.To} {
			if !isBranch(b) {
				return "", invalid("branch", b)
			}
		}
		return g.git(ctx, networkTime, "push", a.Path, url, a.Branch, a.To)
	})
	addTool(s, "branch", "List branches, or make one", func(ctx context.Context, a branchArgs) (string, error) {
		if a.From == "" {
			a.From = "HEAD"
		}
		switch {
		case a.Create != "" && !isBranch(a.Create):
			return "", invalid("create", a.Create)
		case !isCommit(a.From):
			return "", invalid("from", a.From)
		}
		return g.git(ctx, localTime, "branch", a.Path, a.Create, a.From)
	})
	addTool(s, "log", "Show commits, the newest first", func(ctx context.Context, a logArgs) (string, error) {
		if a.Revision == "" {
			a.Revision = "HEAD"
		}
		if a.Count == 0 {
			a.Count = 20
		}
		switch {
		case !isCommit(a.Revision) || strings.Contains(a.Revision, ".."):
			return "", invalid("revision", a.Revision)
		case a.Count < 1 || a.Count > mostCommits:
			return "", fmt.Errorf("count %d is not between 1 and %d", a.Count, mostCommits)
		}
		return g.git(ctx, localTime, "log", a.Path, a.Revision, strconv.Itoa(a.Count))
	})
	addTool(s, "status", "Show the branch, and what differs from the last commit",
		func(ctx context.Context, a place) (string, error) { return g.git(ctx, localTime, "status", a.Path) })
}

// addTool adds a tool whose errors are the agent's to read.
func addTool[In any](s *mcp.Server, name, about string, do func(context.Context, In) (string, error)) {
	mcp.AddTool(s, &mcp.Tool{Name: name, Description: about},
		func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
			ctx, unwatch := whileWanted(ctx)
			defer unwatch()
			said, err := do(ctx, in)
			if err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: said}}}, nil, nil
		})
}

func invalid(name, value string) error { return fmt.Errorf("%s %.200q is not valid", name, value) }

// url returns where the repository is, if git may talk to it.
func (g *gitTools) url(repository string) (string, error) {
	if !repo.Matches(g.repositories, repository) {
		return "", fmt.Errorf("git may not talk to %.200q: write HOST/OWNER/NAME of one of: %s", repository,
			strings.Join(g.repositories, ", "))
	}
	return "https://" + repository, nil
}

// git runs a part of the script in a folder of the working directory, and returns what git says.
func (g *gitTools) git(ctx context.Context, limit time.Duration, part, folder string, args ...string) (string, error) {
	if folder == "" {
		folder = "."
	}
	if !isFolder(folder) || !filepath.IsLocal(folder) {
		return "", invalid("path", folder)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return "", errors.New("other tools of this agent take too long: try again later")
	}
	ctx, cancelRun := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes more than %v", limit))
	defer cancelRun()
	command := append([]string{"/bin/sh", "-c", gitScript, "git", part, "./" + folder}, args...)
	said, status, err := g.run(ctx, mostOutput, command...)
	return outcome("git "+part, said, status, err)
}

// outcome is what the agent reads of a tool that has ended.
func outcome(name string, said []byte, status int, err error) (string, error) {
	text := strings.ToValidUTF8(strings.TrimSpace(string(said)), "\uFFFD")
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w\n%s", name, err, text)
	case status != 0:
		return "", fmt.Errorf("%s failed (status %d):\n%s", name, status, text)
	case text == "":
		text = "done"
	}
	return text, nil
}
