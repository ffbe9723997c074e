package hostpath

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const nobody = 65534

// program writes a script that says its name.
func (w *world) program(p string) {
	w.t.Helper()
	w.script(p, "#!/bin/sh\necho "+p+"\n")
}

func (w *world) script(p, content string) {
	w.t.Helper()
	require.NoError(w.t, os.MkdirAll(filepath.Dir(w.path(p)), 0o755))
	require.NoError(w.t, os.WriteFile(w.path(p), []byte(content), 0o700))
	require.NoError(w.t, os.Chmod(w.path(p), 0o755))
}

// TestProgram plants programs on PATH. The wrong one must not be found, and the right one must.
func TestProgram(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to several users")
	}
	for _, c := range []struct {
		name  string
		do    func(*world)
		path  string // of folders in the world, unless absolute or relative with a dot
		owner Owner
		user  int
		want  string // the program, or what the error says
	}{
		{"root's", nil, "good", Root, 0, "/good/tool"},
		{"none", nil, "none", Root, 0, "tool is not installed here"},
		{"in the agent's folder", func(w *world) { w.program("work/bin/tool") }, "work/bin", Root, 0, "/work/bin/tool is in /work, where an agent may write"},
		{"in the agent's folder, asked for by the operator", func(w *world) { w.program("work/bin/tool") }, "work/bin", User, 0, "/work/bin/tool is in /work, where an agent may write"},
		{"in the agent's folder first", func(w *world) { w.program("work/bin/tool") }, "work/bin:good", Root, 0, "/good/tool"},
		{"by a relative path first", func(w *world) { w.program("work/bin/tool") }, ".:./bin:bin::good", Root, 0, "/good/tool"},
		{"a link into the agent's folder", func(w *world) { w.program("work/bin/tool"); w.link("../work/bin/tool", "links/tool") }, "links:good", User, 0, "/good/tool"},
		{"a link to a folder of the agent's", func(w *world) { w.program("work/bin/tool"); w.link("work/bin", "bin") }, "bin:good", User, 0, "/good/tool"},
		{"a link in the agent's folder to a good one", func(w *world) { w.link(w.path("good"), "work/bin") }, "work/bin", User, 0, "/work/bin/tool is in /work, where an agent may write"},
		{"dots", nil, "work/../good/./", User, 0, "/good/tool"},
		{"a hard link of one in the agent's folder", func(w *world) { w.hard("good/tool", "work/tool") }, "good", User, 0, "/good/tool has 2 names (hard links), and one may be in /work, where an agent may write"},
		{"a hard link of root's, for another user", func(w *world) { w.hard("good/tool", "work/tool") }, "good", User, nobody, "/good/tool"},
		{"a link next to the program", func(w *world) {
			w.link("other", "good/tool2")
			w.rename("good/tool", "good/other")
			w.rename("good/tool2", "good/tool")
		}, "good", Root, 0, "/good/other"},
		{"the user's own", func(w *world) { w.own(nobody, "good", "good/tool") }, "good", User, nobody, "/good/tool"},
		{"the user's own, where only root's may be", func(w *world) { w.own(nobody, "good", "good/tool") }, "good", Root, nobody, "/good belongs to user 65534, not to root"},
		{"the user's own, but they are root now", func(w *world) { w.own(nobody, "good", "good/tool") }, "good", User, 0, "/good belongs to user 65534, not to root"},
		{"another user's", func(w *world) { w.own(1234, "good/tool") }, "good", User, nobody, "/good/tool belongs to user 1234, not to root or you"},
		{"all may write the program", func(w *world) { w.mode(0o757, "good/tool") }, "good", User, 0, "others may write /good/tool: run `chmod go-w /good/tool`"},
		{"a group may write the folder", func(w *world) { w.mode(0o775, "good"); w.group(1234, "good") }, "good", User, 0, "others may write /good: run `chmod go-w /good`"},
		{"all may write the folder", func(w *world) { w.mode(0o777, "good") }, "good", User, 0, "others may write /good: run `chmod go-w /good`"},
		{"all may put files into the folder", func(w *world) { w.mode(0o777|os.ModeSticky, "good") }, "good", User, 0, "/good/tool"},
		{"all may put files into the folder, and one did", func(w *world) { w.mode(0o777|os.ModeSticky, "good"); w.own(1234, "good/tool") }, "good", User, 0, "/good/tool belongs to user 1234, not to root"},
		{"another's link", func(w *world) {
			w.link("../good/tool", "links/tool")
			require.NoError(w.t, os.Lchown(w.path("links/tool"), 1234, 1234))
		}, "links", User, 0, "/links/tool belongs to user 1234, not to root"},
		{"not a program", func(w *world) { w.mode(0o644, "good/tool") }, "good", User, 0, "/good/tool is not a program"},
		{"a folder of that name", func(w *world) {
			w.rename("good/tool", "good/x")
			require.NoError(w.t, os.Mkdir(w.path("good/tool"), 0o700))
		}, "good", User, 0, "/good/tool is not a regular file"},
		{
			"a script for an interpreter in the agent's folder", func(w *world) { w.program("work/python"); w.script("good/tool", "#!"+w.path("work/python")+" -x\n") }, "good", User, 0,
			"/work/python is in /work, where an agent may write",
		},
		{"a script for an interpreter on PATH", func(w *world) {
			w.program("work/bin/node")
			w.program("good/node")
			w.script("good/tool", "#!/usr/bin/env node\n")
		}, "work/bin:good", User, 0, "/good/tool"},
		{
			"a script for an interpreter that is only in the agent's folder", func(w *world) { w.program("work/bin/nodex"); w.script("good/tool", "#!/usr/bin/env nodex\n") }, "work/bin:good", User, 0,
			"/work/bin/nodex is in /work, where an agent may write",
		},
		{"a script with a relative interpreter", func(w *world) { w.script("good/tool", "#!bin/sh\n") }, "good", User, 0, "does not name an absolute path"},
		{"a script whose interpreter is hidden by env", func(w *world) { w.script("good/tool", "#!/usr/bin/env -S A=b sh\n") }, "good", User, 0, "does not name its interpreter"},
		{"scripts in a circle", func(w *world) { w.script("good/tool", "#!"+w.path("good/tool")+"\n") }, "good", User, 0, "is a script of a script"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.mode(0o755, "", "work", "safe")
			require.NoError(t, os.Mkdir(w.path("links"), 0o755))
			w.program("good/tool")
			if c.do != nil {
				c.do(w)
			}
			f := w.folders()
			f.user, f.variable = c.user, w.variables(c.path)
			path, err := f.Program("tool", c.owner)
			if strings.HasPrefix(c.want, "/") && !strings.Contains(c.want, " ") {
				require.NoError(t, err)
				require.Equal(t, w.path(c.want), path)
				return
			}
			require.Error(t, err)
			require.Contains(t, strings.ReplaceAll(err.Error(), w.dir, ""), c.want)
		})
	}
}

func (w *world) hard(from, to string) { require.NoError(w.t, os.Link(w.path(from), w.path(to))) }

func (w *world) own(user int, paths ...string) {
	for _, p := range paths {
		require.NoError(w.t, os.Chown(w.path(p), user, user))
	}
}

func (w *world) group(group int, path string) {
	require.NoError(w.t, os.Chown(w.path(path), -1, group))
}

func (w *world) mode(mode os.FileMode, paths ...string) {
	for _, p := range paths {
		require.NoError(w.t, os.Chmod(w.path(p), mode))
	}
}

// variables are an environment with this PATH.
func (w *world) variables(path string) func(string) (string, bool) {
	dirs := strings.Split(path, ":")
	for i, d := range dirs {
		if d != "" && !filepath.IsAbs(d) && !strings.HasPrefix(d, ".") {
			dirs[i] = w.dir + "/" + d
		}
	}
	return func(name string) (string, bool) {
		switch name {
		case "PATH":
			return strings.Join(dirs, ":"), true
		case "HOME":
			return w.path("safe"), true
		}
		return "of the caller", true
	}
}

// TestProgramNames: a path that somebody wrote down is judged as one that was found.
func TestProgramNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.program("work/tool")
	for name, want := range map[string]string{
		w.path("work/tool"): "where an agent may write",
		w.path("none"):      "no such file",
		"bin/tool":          "write its absolute path",
		"./tool":            "write its absolute path",
		"":                  "write its absolute path",
	} {
		_, err := w.folders().Program(name, User)
		require.ErrorContains(t, err, want, name)
	}
	path, err := w.folders().Program("/bin/sh", Root)
	require.NoError(t, err)
	real, err := filepath.EvalSymlinks("/bin/sh")
	require.NoError(t, err)
	require.Equal(t, real, path)
}

// TestCommand runs what was found: with nothing of the caller's environment that makes a program load or start anything.
func TestCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mode(0o755, "", "safe")
	w.program("work/bin/node")
	w.program("links/evil/node")
	w.link("../work/bin/node", "links/node")
	w.script("good/tool", "#!/usr/bin/env sh\necho \"$0 $1 in $PWD\"\nenv\n")
	f := w.folders()
	f.variable = w.variables("work/bin:links:good:relative:.")
	cmd, err := f.Command(t.Context(), User, "tool", "argument")
	require.NoError(t, err)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Equal(t, w.path("good/tool")+" argument in /", lines[0])
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "PATH":
			require.Equal(t, strings.Join(append([]string{w.path("good")}, system...), ":"), value)
		case "HOME":
			require.Equal(t, w.path("safe"), value)
		default:
			require.Contains(t, []string{"USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PWD", "OLDPWD", "SHLVL", "_"}, name)
		}
	}
	require.Contains(t, f.Environ("GOPROXY"), "GOPROXY=of the caller")
	// A program that starts no other needs a PATH only if it is a script.
	single, err := f.Single(t.Context(), User, "tool", "argument")
	require.NoError(t, err)
	require.Equal(t, cmd.Env, single.Env)
	single, err = f.Single(t.Context(), User, "true")
	require.NoError(t, err)
	require.Equal(t, "PATH=", single.Env[0])
	require.Equal(t, cmd.Env[1:], single.Env[1:])
	require.NoError(t, single.Run())
}

// TestPrivateGroup: most distributions give each user a group of their own, whose members may write what they make.
func TestPrivateGroup(t *testing.T) {
	t.Parallel()
	require.False(t, private(0, 1234), "not root's group")
	require.False(t, private(123456, 123456), "not a user")
}
