// Package advice makes the command lines that messages tell people to run. Each works when it is
// pasted, whatever the current folder is.
package advice

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/postern/postern/hostpath"
)

// program is the name of the operator's program.
const program = "postern"

// Postern returns the word by which a shell starts the postern next to this program: "postern" if
// PATH leads to it, and its path otherwise.
var Postern = sync.OnceValue(func() string {
	self, err := os.Executable()
	if err != nil {
		return program
	}
	return word(filepath.Dir(self), os.Getenv("PATH"))
})

// word is Postern for a program in dir and a PATH.
func word(dir, path string) string {
	own := filepath.Join(dir, program)
	info, err := os.Stat(own)
	if err != nil {
		return program
	}
	same := func(path string) bool {
		other, err := os.Stat(path)
		return err == nil && os.SameFile(info, other)
	}
	for _, folder := range filepath.SplitList(path) {
		found := filepath.Join(folder, program)
		switch other, err := os.Stat(found); {
		case !filepath.IsAbs(folder): // whoever writes in the current folder decides
		case err != nil || !other.Mode().IsRegular() || other.Mode()&0o111 == 0:
			continue
		case same(found):
			return program
		}
		break // a shell would start another one
	}
	// `make install` puts a link into bin, for PATH.
	if link := filepath.Join(dir, "..", "..", "bin", program); same(link) {
		return Path(link)
	}
	return Path(own)
}

// Command returns the command line of postern with these arguments.
func Command(args ...string) string {
	words := []string{Postern()}
	for _, a := range args {
		words = append(words, hostpath.Quote(a))
	}
	return strings.Join(words, " ")
}

// About returns [Command] with the flag that names the stack file. The path is absolute.
func About(file string, args ...string) string {
	return Command(args...) + " --file " + Path(file)
}

// Path returns the absolute path as one word of a shell. It begins with ~ below the user's home.
func Path(path string) string {
	path = filepath.Clean(path)
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) || filepath.Clean(home) == "/" {
		return hostpath.Quote(path)
	}
	if rest, below := strings.CutPrefix(path, filepath.Clean(home)+"/"); below {
		return "~/" + hostpath.Quote(rest)
	}
	return hostpath.Quote(path)
}

// Unnameable returns a line that removes what in the folder has a path, from there, of more than
// most bytes: nobody can name it otherwise.
func Unnameable(folder string, most int) string {
	return fmt.Sprintf("cd %s && LC_ALL=C find . -depth -regextype posix-extended -regex '.{%d,}' -delete",
		Path(folder), most+len("./")+1)
}
