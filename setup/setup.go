// Package setup writes the first stack file of a user or a project from a few answers.
package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/program"
	"github.com/postern/postern/stacks"
)

// Other is the name of any other program in [Answers].
const Other = "other"

// usual is the program that most people have.
const usual = "claude"

// Programs returns the names of the programs that [Answers] may name.
func Programs() []string { return append(program.Names(), Other) }

// Answers are what a stack file is made from. "" is asked for, or has its usual value.
type Answers struct {
	// Program is one of [Programs].
	Program string
	// Secret is the name of an environment variable, or a secret's reference.
	Secret string
	// Project is set if the file belongs to the project in the current folder, and not to the user.
	Project bool
	// Agent and Stack are the names to write.
	Agent, Stack string
}

// Ask asks on the terminal for what is "", if in is not nil, and otherwise takes the usual value.
// asked are the questions that the command line has answered already.
func (a *Answers) Ask(in io.Reader, out io.Writer, placed bool) error {
	answer := func(question, usual string) (string, error) { return usual, nil }
	if in != nil {
		lines := bufio.NewReader(in)
		advice.Settle(out)
		answer = func(question, usual string) (string, error) {
			fmt.Fprintf(out, "%s [%s]: ", question, usual)
			line, err := lines.ReadString('\n')
			if line = strings.TrimSpace(line); line == "" {
				line = usual
			}
			if errors.Is(err, io.EOF) {
				err = errors.New("nobody answers: use the flags, see `postern init --help`")
			}
			return line, err
		}
	}
	var err error
	if a.Program == "" {
		question := "Which program works as the agent? " + strings.Join(Programs(), ", ")
		if a.Program, err = answer(question, usual); err != nil {
			return err
		}
	}
	p, err := a.program()
	if err != nil {
		return err
	}
	if p != nil && a.Secret == "" {
		i := slices.IndexFunc(p.Keys, func(k program.Key) bool { return os.Getenv(k.Variable) != "" })
		question := "Where is its key? The name of an environment variable, or file:///PATH"
		if a.Secret, err = answer(question, p.Keys[max(i, 0)].Variable); err != nil {
			return err
		}
	}
	if !placed {
		where, err := answer("Whose policy is it: mine, or of the project in this folder? mine, project", "mine")
		if err != nil {
			return err
		}
		if where != "mine" && where != "project" {
			return fmt.Errorf("%q is neither mine nor project", where)
		}
		a.Project = where == "project"
	}
	return nil
}

// ErrExists means that there is a stack file already.
var ErrExists = errors.New("there is a stack file already, which stays as it is")

// Write writes the stack file and returns its absolute path. It replaces nothing.
func (a *Answers) Write() (path string, err error) {
	content, err := a.content()
	if err != nil {
		return "", err
	}
	dir, err := a.folder()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, a.Stack+".yaml")
	if _, err := os.Lstat(path); err == nil {
		return path, fmt.Errorf("%s: %w: bring it up with `%s`", path, ErrExists, advice.About(path, "up"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the stack file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("write the stack file: %w", err)
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err == nil {
		_, err = stacks.Load(path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("write the stack file: %w", err), os.Remove(path))
	}
	return path, nil
}

// folder returns the folder for the file: the user's own, or stacks/ of the project.
func (a *Answers) folder() (string, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return "", err
	}
	if !a.Project {
		own, err := stacks.OwnFolder()
		return own, errors.Join(err, folders.Check(own))
	}
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		_, err := os.Lstat(filepath.Join(dir, ".git"))
		if err == nil {
			here = dir
		}
		if err == nil || dir == filepath.Dir(dir) {
			break
		}
	}
	// Whoever works there could have put a link in the place of the folder.
	stacks := filepath.Join(here, "stacks")
	if info, err := os.Lstat(stacks); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a symbolic link: remove it, or keep the stack file in your own folder", stacks)
	}
	return stacks, folders.Check(stacks)
}

// program returns the program, or nil for another one.
func (a *Answers) program() (*program.Program, error) {
	if !slices.Contains(Programs(), a.Program) {
		return nil, fmt.Errorf("%q is not one of %s", a.Program, strings.Join(Programs(), ", "))
	}
	return program.Of(a.Program), nil
}

// content returns the text of the file.
func (a *Answers) content() (string, error) {
	p, err := a.program()
	if err != nil {
		return "", err
	}
	text := "# Who may go where. `postern allow` edits this file; or you do, then `postern push` makes it live.\n" +
		"version: 1\ntarget: local\n"
	presets := "docs-read"
	if p != nil {
		reference, variable, err := secret(a.Secret)
		if err != nil {
			return "", err
		}
		key, kind := p.Key(variable), "{kind: bearer"
		if key.Header != "" {
			kind = "{kind: header, header: " + key.Header
		}
		text += fmt.Sprintf("credentials:\n  %s: %s, secret: %q, placeholders: [%s]}\n",
			key.Preset, kind, reference, key.Variable)
		presets = key.Preset + ", " + presets
	}
	return text + fmt.Sprintf("agents:\n  %s: {presets: [%s]}\n", a.Agent, presets), nil
}

// secret returns the reference of a secret, and the variable that it names, if any.
func secret(named string) (reference, variable string, err error) {
	if !strings.Contains(named, ":") {
		named = "env://" + named
	}
	if _, err := plan.ParseReference(named); err != nil {
		return "", "", fmt.Errorf("where the key is: %w", err)
	}
	if variable, ok := strings.CutPrefix(named, "env://"); ok {
		return named, variable, nil
	}
	return named, "", nil
}
