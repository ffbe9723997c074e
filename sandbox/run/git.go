package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// gitSettings returns the settings of git for the sandbox, in git's format and at the level of the
// system: the caller's name and address, whatever owner for repositories, and HTTPS in the place of
// SSH, which has no way out, for the hosts that the agent reaches with git. A repository's own
// settings come before them. signs is set if the caller's commits are signed, with a key that no
// agent has. callers are what [callersGit] returns.
func gitSettings(callers []string, a *plan.Agent) (settings string, signs bool) {
	var s strings.Builder
	s.WriteString("[safe]\n\tdirectory = *\n")
	var done []string
	for _, r := range a.Rules {
		name := r.ID[strings.LastIndex(r.ID, "/")+1:]
		if !strings.HasPrefix(name, "git-") || strings.HasPrefix(r.Host, "*.") || slices.Contains(done, r.Host) {
			continue
		}
		done = append(done, r.Host)
		host := r.Host
		if r.Port != 443 {
			host += fmt.Sprintf(":%d", r.Port)
		}
		fmt.Fprintf(&s, "[url \"https://%s/\"]\n", host)
		for _, form := range []string{"git@%s:", "git@%s:/", "ssh://git@%s/", "ssh://git@%s:22/"} {
			fmt.Fprintf(&s, "\tinsteadOf = "+form+"\n", r.Host)
		}
	}
	for _, setting := range callers {
		switch name, value, _ := strings.Cut(setting, "\n"); name {
		case "user.name", "user.email":
			fmt.Fprintf(&s, "[user]\n\t%s = %s\n", name[len("user."):], gitValue(value))
		case "commit.gpgsign":
			signs = value == "true"
		}
	}
	return s.String(), signs
}

// gitValue writes a value in git's format.
func gitValue(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// askGit returns what [callersGit] returns, later: git takes several milliseconds.
func askGit(ctx context.Context, folders *hostpath.Folders) <-chan []string {
	said := make(chan []string, 1)
	go func() { said <- callersGit(ctx, folders) }()
	return said
}

// callersGit returns some of the caller's settings of git, each as NAME, a line's end and the
// value. The folder in which the command runs has no part in it.
func callersGit(ctx context.Context, folders *hostpath.Folders) []string {
	home, err := os.UserHomeDir()
	if err != nil || !slices.ContainsFunc([]string{".gitconfig", ".config/git/config"}, func(name string) bool {
		_, err := os.Lstat(filepath.Join(home, name))
		return err == nil
	}) {
		return nil
	}
	cmd, err := folders.Single(ctx, hostpath.User, "git", "config", "--global", "--includes", "--null",
		"--get-regexp", `^(user\.(name|email)|commit\.gpgsign)$`)
	if err != nil {
		return nil
	}
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}
