package places

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// commands are variables with a command line that a tool runs, or with options by which it runs
// code.
var commands = []string{
	"MAKEFLAGS", "GNUMAKEFLAGS",
	"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "SSH_ASKPASS", "SUDO_ASKPASS", "GIT_EDITOR", "GIT_SEQUENCE_EDITOR",
	"GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_PROXY_COMMAND", "EDITOR", "VISUAL", "SUDO_EDITOR", "PAGER", "MANPAGER",
	"LESSOPEN", "LESSCLOSE", "BROWSER", "PROMPT_COMMAND", "SHELL", "RUSTC_WRAPPER", "RUSTFLAGS", "CC", "CXX", "GOFLAGS",
	"NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "MAVEN_OPTS", "GRADLE_OPTS", "PERL5OPT",
	"RUBYOPT", "LD_AUDIT", "GIT_CONFIG_PARAMETERS",
}

// interpreters run the file that comes next on the line.
var interpreters = []string{
	"sh", "bash", "dash", "zsh", "python", "python3", "node", "perl", "ruby", "php", "lua", "source",
}

// gitFiles are where git has its settings, besides where variables say.
var gitFiles = []string{
	"/etc/gitconfig", "/usr/local/etc/gitconfig", "/opt/homebrew/etc/gitconfig", ".gitconfig", ".config/git/config",
}

// gitHarmless are git's settings, without subsections, that name folders and files of people. Git
// runs nothing there, and takes no settings from there. "section." stands for all of a section.
var gitHarmless = []string{
	"safe.directory", "maintenance.repo", "scalar.repo", "gui.recentrepo", "core.excludesfile", "commit.template",
	"blame.ignorerevsfile", "mailmap.file", "user.signingkey", "url.", "remote.", "branch.", "color.",
}

// gitPaths are git's settings that name a folder or file of its own kind, also without a slash.
var gitPaths = []string{"core.hookspath", "core.attributesfile", "init.templatedir"}

// texts are further files, below a home, in which tools are told of programs and of files that they
// run, each in a language of its own: whatever path is in there counts. Not here are files in which
// tools note every project, such as .claude.json.
var texts = []string{
	".aws/config", ".cargo/config", ".cargo/config.toml", ".claude/settings.json", ".codex/config.toml",
	".config/direnv/direnvrc", ".config/emacs/init.el", ".config/gdb/gdbinit", ".config/go/env", ".config/hg/hgrc",
	".config/jj/config.toml", ".config/nvim/init.lua", ".config/nvim/init.vim", ".config/starship.toml",
	".config/tmux/tmux.conf", ".config/helix/languages.toml", ".cursor/mcp.json", ".direnvrc", ".docker/config.json",
	".emacs", ".emacs.d/init.el", ".gdbinit", ".gemini/settings.json", ".ghci", ".gnupg/gpg-agent.conf",
	".gradle/init.gradle", ".hgrc", ".irbrc", ".jjconfig.toml", ".kube/config", ".lldbinit", ".npmrc", ".pdbrc",
	".psqlrc", ".pryrc", ".Rprofile", ".screenrc", ".sqliterc", ".tmux.conf", ".vim/vimrc", ".vimrc",
}

// projects are those of the texts in which people name the folders of their projects, too.
var projects = []string{".claude/settings.json", ".codex/config.toml", ".config/tmux/tmux.conf", ".tmux.conf"}

// permissions matches what an agent may do by Claude Code's settings: "Read(/srv/**)". Nobody runs
// what is named there.
var permissions = regexp.MustCompile(`"[A-Z]\w*\([^"]*\)"`)

// joined matches an option of one letter whose path follows at once, as in "-I/lib" and "-r./x".
var joined = regexp.MustCompile(`(^|\s)-[A-Za-z](~|\.{0,2}/)`)

// computed matches what a shell puts before a path: in each folder, that is another one.
var computed = regexp.MustCompile("(\\$\\([^()]*\\)|`[^`]*`|\\$\\w+|\\$\\{[^{}]*\\})/")

// quoted matches a word in quotes, which may have blanks.
var quoted = regexp.MustCompile(`'[^']*'|"[^"]*"`)

// mostIncluded bounds the files of settings that include each other, as git does.
const mostIncluded = 10

// commands adds what command lines name, in variables and in the settings of git and ssh.
func (p *places) commands(read func(path string) ([]byte, error)) {
	for _, name := range commands {
		p.command(name, p.environ[name])
	}
	for name, value := range p.environ {
		if n, ok := strings.CutPrefix(name, "GIT_CONFIG_VALUE_"); ok {
			p.gitSetting(name, p.environ["GIT_CONFIG_KEY_"+n], value)
		}
	}
	files := slices.Clone(gitFiles)
	if set := p.environ["XDG_CONFIG_HOME"]; filepath.IsAbs(set) { // else it is another one in each folder
		files = append(files, filepath.Join(set, "git/config"))
	}
	files = append(files, p.environ["GIT_CONFIG_GLOBAL"], p.environ["GIT_CONFIG_SYSTEM"])
	for _, file := range files {
		if file = p.belowHome(file); file != "" {
			p.git(file, read, mostIncluded)
		}
	}
	before := len(p.relative)
	for _, file := range []string{".ssh/config", "/etc/ssh/ssh_config"} {
		content, err := read(p.belowHome(file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			keyword, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if !strings.HasPrefix(keyword, "#") {
				p.command(keyword+" in "+p.belowHome(file), line)
			}
		}
	}
	// Most words there are names of hosts and users.
	paths := slices.DeleteFunc(p.relative[before:], func(n Named) bool { return n.Word })
	p.relative = p.relative[:before+len(paths)]
}

// texts adds what the files name that are in no language we know.
func (p *places) texts(read func(path string) ([]byte, error)) {
	for _, file := range texts {
		path := p.belowHome(file)
		content, err := read(path)
		if err != nil {
			continue
		}
		before, named := len(p.found), len(p.relative)
		for line := range strings.Lines(WithoutMark(string(content))) {
			p.command(path, permissions.ReplaceAllLiteralString(line, ""))
		}
		for i := range p.found[before:] {
			p.found[before+i].Program = slices.Contains(projects, file)
		}
		if file != ".npmrc" { // of a text, whatever is like a path may be one
			p.relative = p.relative[:named]
		}
	}
}

func (p *places) belowHome(file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(p.home, file)
}

// command adds each path that a command line names, and the line itself: a path may have blanks.
// Paths are also taken from the folders to which the line goes.
func (p *places) command(said, line string) {
	const blank = "\x00"
	line = p.expand(joined.ReplaceAllString(strings.TrimSpace(line), "$1$2"))
	line = strings.ReplaceAll(computed.ReplaceAllLiteralString(line, "./"), `\ `, blank)
	for _, word := range quoted.FindAllString(line, -1) { // also not as one: it may be a command line
		if word = word[1 : len(word)-1]; strings.Contains(word, " ") && strings.Contains(word, "/") {
			p.named(said, word, false, true)
		}
	}
	words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\"'`=:;,|&<>()!{}", r) })
	in := "" // where the line is by then
	for i, w := range append(words, strings.Trim(line, `"`)) {
		before := ""
		if i > 0 && i < len(words) {
			before = words[i-1]
		}
		w = p.expand(strings.ReplaceAll(w, blank, " "))
		path := w
		if in != "" && i < len(words) && !filepath.IsAbs(w) {
			path = filepath.Join(in, w)
		}
		fixed, _, pattern := strings.Cut(w, "*")
		switch {
		case before == "cd" || before == "-C" || before == "--chdir":
			in = path
		case before == "PATH", slices.Contains(gitPaths, strings.ToLower(before)):
			p.named(said, w, true, false)
		case i < len(words) && pattern && filepath.Dir(fixed) != "." && filepath.IsLocal(filepath.Dir(fixed)):
			p.named(said, filepath.Dir(fixed), true, false)
		}
		switch {
		case filepath.IsAbs(path):
			p.found = append(p.found, Place{Name: said, Path: filepath.Clean(path), Shared: true})
		case strings.Contains(w, "/"):
			p.named(said, w, false, false)
			p.named(said, path, false, false)
		case before != "" && (strings.Contains(w, ".") || slices.Contains(interpreters, before)):
			p.named(said, w, false, true)
			p.named(said, path, false, true)
		}
	}
}

// git adds what the settings in a file of git's, and in the files that it includes, name. A
// condition of an inclusion holds in some folder.
func (p *places) git(file string, read func(path string) ([]byte, error), depth int) {
	content, err := read(file)
	if err != nil || depth == 0 {
		return
	}
	section := ""
	for text := strings.TrimSpace(WithoutMark(string(content))); text != ""; text = strings.TrimSpace(text) {
		switch text[0] {
		case '#', ';':
			_, text, _ = strings.Cut(text, "\n")
			continue
		case '[': // a setting may follow on the line
			head, rest, _ := strings.Cut(text[1:], "]")
			for strings.Count(head, `"`)%2 == 1 && rest != "" { // the bracket is in the subsection's name
				more, after, _ := strings.Cut(rest, "]")
				head, rest = head+"]"+more, after
			}
			section, _, _ = strings.Cut(head, " ")
			section, _, _ = strings.Cut(section, ".")
			text = rest
			continue
		}
		end := strings.IndexAny(text, "=\n")
		if end < 0 {
			return
		}
		if text[end] == '\n' { // a flag
			text = text[end+1:]
			continue
		}
		name, value := section+"."+strings.TrimSpace(text[:end]), ""
		value, text = GitValue(text[end+1:])
		p.gitSetting(name+" in "+file, name, value)
		if name = strings.ToLower(name); name == "include.path" || name == "includeif.path" {
			included := p.expand(value)
			if !filepath.IsAbs(included) {
				included = filepath.Join(filepath.Dir(file), included)
			}
			p.command(name+" in "+file, included)
			p.git(included, read, depth-1)
		}
	}
}

// WithoutMark returns the text of a file of settings without the byte order mark at its beginning.
// Git and others pass over that.
func WithoutMark(text string) string { return strings.TrimPrefix(text, "\ufeff") }

// GitValue returns the value at the beginning of the text, which is what follows "=" in a file of
// git's settings, and what comes after it: see "Syntax" in git-config(1). Quotes may be anywhere. A
// backslash before the end of a line goes on with the next, and a comment ends the value.
func GitValue(text string) (value, rest string) {
	var b strings.Builder
	quoted, comment, blanks := false, false, ""
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n':
			return b.String(), text[i+1:]
		case comment:
			continue
		case !quoted && strings.ContainsRune(" \t\r", rune(c)):
			blanks += string(c)
			continue
		case !quoted && (c == '#' || c == ';'):
			comment = true
			continue
		}
		if b.Len() > 0 {
			b.WriteString(blanks)
		}
		blanks = ""
		switch {
		case c == '"':
			quoted = !quoted
		case c == '\\' && i+1 < len(text):
			i++
			if next, ok := map[byte]string{'\n': "", 'n': "\n", 't': "\t", 'b': "\b"}[text[i]]; ok {
				b.WriteString(next)
			} else {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// gitSetting adds what the value of one setting names.
func (p *places) gitSetting(said, name, value string) {
	section, rest, _ := strings.Cut(strings.ToLower(name), ".")
	key := section + "." + rest[strings.LastIndex(rest, ".")+1:]
	harmless := slices.Contains(gitHarmless, key) || slices.Contains(gitHarmless, section+".")
	if harmless && key != "remote.uploadpack" && key != "remote.receivepack" {
		return
	}
	p.command(said, value)
	if slices.Contains(gitPaths, key) {
		p.named(said, p.expand(value), true, false)
	}
	// Git runs "git-NAME" for an alias, and "git-credential-NAME" for a helper.
	for _, prefix := range map[string][]string{"alias": {"git-"}, "credential": {"git-credential-"}}[section] {
		if strings.Contains(value, "/") {
			p.command(said, prefix+value)
		}
	}
}
