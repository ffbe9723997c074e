package stacks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// The variables that choose for commands without the flag.
const (
	// StackVariable has the name of a stack, or the path of a stack file.
	StackVariable = "POSTERN_STACK"
	// AgentVariable has the name of an agent.
	AgentVariable = "POSTERN_AGENT"
)

// Usual is the name of the stack for commands that are told none.
const Usual = "local"

// Choose reads the stack file that a command is about: the file, or the stack of that name (see
// [Find]). If both are "", $POSTERN_STACK decides, and then the name is [Usual]. If there is no
// such stack, and the user's own folder has one stack file, it is that one.
func Choose(file, name string) (*File, error) {
	switch {
	case file != "":
		return openStraight(file)
	case name != "":
		return Find(name)
	}
	if name := os.Getenv(StackVariable); name != "" {
		open := Find
		if strings.Contains(name, "/") {
			open = openStraight
		}
		f, err := open(name)
		if err != nil {
			return nil, fmt.Errorf("$%s: %w", StackVariable, err)
		}
		f.Found = "by $" + StackVariable
		return f, nil
	}
	f, err := Find(Usual)
	if missing := (*NotFoundError)(nil); !errors.As(err, &missing) {
		return f, err
	}
	own, failed := OwnFolder()
	if failed != nil {
		return nil, err
	}
	if names := named(own); len(names) == 1 {
		if f, err = Find(names[0]); err == nil {
			f.Found = "your only one"
		}
	}
	return f, err
}

// openStraight is [Open] for a path that leads over no link which an agent may have put there: such a
// link chooses another stack for the operator's next command.
func openStraight(path string) (*File, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	walked := path
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", path, err)
		}
		walked = dir + "/" + path // not cleaned, because a link may be before ".."
	}
	real, err := folders.Straight(walked)
	if link := (*hostpath.WritableError)(nil); errors.As(err, &link) {
		return nil, fmt.Errorf("%s leads through the symbolic link %s, which an agent may have put there: "+
			"name the file without the link, or remove the link", path, link.Step)
	}
	if err == nil && f.Real != real && f.Real != abs {
		err = ErrChanged // since it was opened
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	return f, nil
}

// Names returns the names of the stacks that [Find] finds, sorted.
func Names() []string {
	var names []string
	if own, err := OwnFolder(); err == nil {
		names = named(own)
	}
	for up := "."; ; up = filepath.Join("..", up) {
		names = append(names, named(filepath.Join(up, "stacks"))...)
		if abs, err := filepath.Abs(up); err != nil || abs == "/" {
			slices.Sort(names)
			return slices.Compact(names)
		}
	}
}

// AgentError means that a command does not say which agent it is about.
type AgentError struct{ Agents []string }

// ExitStatus is [exit.Usage].
func (*AgentError) ExitStatus() int { return exit.Usage }

func (e *AgentError) Error() string {
	if len(e.Agents) == 0 {
		return "the stack has no agent: add one to the stack file, below agents"
	}
	return fmt.Sprintf("the stack has %d agents: name one with --agent, or in $%s: %s",
		len(e.Agents), AgentVariable, strings.Join(e.Agents, ", "))
}

// ChooseAgent returns the agent that a command is about: the named one, or that of $POSTERN_AGENT,
// or the only one of the plan. Otherwise the error is an [*AgentError]. Whether the plan has an
// agent of that name is not checked. found is as [File.Found].
func ChooseAgent(p *plan.Plan, named string) (agent, found string, err error) {
	if named != "" {
		return named, "", nil
	}
	if named = os.Getenv(AgentVariable); named != "" {
		return named, "by $" + AgentVariable, nil
	}
	if len(p.Agents) == 1 {
		return p.Agents[0].Name, "the only one", nil
	}
	e := &AgentError{}
	for _, a := range p.Agents {
		e.Agents = append(e.Agents, a.Name)
	}
	return "", "", e
}

// ErrName means that no stack can have that name.
var ErrName = errors.New("is not the name of a stack")

// NotFoundError means that there is no file for a stack of that name. Others are the names of the
// stacks that would be found.
type NotFoundError struct {
	Name, Own string
	Others    []string
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("there is no stacks/%s.yaml here or in a folder above, and no %s: ", e.Name, advice.Path(e.Own))
	if len(e.Others) > 0 {
		return text + yaml.Nearest(e.Name, e.Others)
	}
	return text + fmt.Sprintf("`%s` writes one, or name one with --file", advice.Command("init"))
}

// named returns the names of the stacks in a folder, a few if there are many. Names that an agent
// may have made up to look like something else are not among them.
func named(folder string) (names []string) {
	dir, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(100)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if ok && e.Type().IsRegular() && len(name) < 64 && !strings.ContainsFunc(name, notInName) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func notInName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
}

// Find reads the file of the stack called name. It looks for stacks/<name>.yaml in the current
// folder and upwards, and then for <name>.yaml in [OwnFolder]. Neither stacks nor the file may be a
// symbolic link: the current folder may be an agent's, and a link there would choose another stack
// for the operator's next command. The error is a [*NotFoundError] if there is no such file.
func Find(name string) (*File, error) {
	if filepath.Base(name) != name || name == "." || name == ".." {
		return nil, fmt.Errorf("%q %w: name one, such as local for stacks/local.yaml, or use --file", name, ErrName)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the stack file: %w", err)
	}
	own, err := OwnFolder()
	if err != nil {
		return nil, err
	}
	var others []string
	for up := "."; ; up = filepath.Join("..", up) {
		f, err := open(filepath.Join(up, "stacks"), name+".yaml")
		if err == nil {
			if up != "." {
				f.Found = "in a folder above"
			}
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("find the stack file: %w", err)
		}
		others = append(others, named(filepath.Join(up, "stacks"))...)
		if abs := filepath.Join(dir, up); abs == filepath.Dir(abs) {
			break
		}
	}
	// No agent writes here, so links, as of dotfiles, may lead elsewhere.
	f, err := Open(filepath.Join(own, name+".yaml"))
	if err == nil {
		err = f.err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		others = append(others, named(own)...)
		return nil, &NotFoundError{Name: name, Own: filepath.Join(own, name+".yaml"), Others: others}
	}
	return f, err
}

// OwnFolder returns the folder in which a user keeps stack files outside agents' folders:
// $XDG_CONFIG_HOME/postern/stacks, or ~/.config/postern/stacks.
func OwnFolder() (string, error) {
	config := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find your own stack files: %w; set XDG_CONFIG_HOME", err)
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "postern", "stacks"), nil
}
