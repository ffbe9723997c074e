package tool

import (
	"regexp"
	"strings"
	"sync"
)

// shadows says who runs a module in the top folder that has the name of one of Python's own:
// `python -m` looks there first, also for what the module that it starts imports.
const shadows = "`python -m` runs it when it starts in this folder: it has the name of a module of Python"

// modules are those of the standard library that a file can take the place of, and what comes with
// each installation or is started as a module. Not here is "test": many projects have such a
// folder.
const modules = `
abc aifc antigravity argparse array ast asynchat asyncio asyncore audioop base64 bdb binascii bisect bz2 calendar cgi
cgitb chunk cmath cmd code codecs codeop collections colorsys compileall compression concurrent configparser
contextlib contextvars copy copyreg cprofile crypt csv ctypes curses dataclasses datetime dbm decimal difflib dis
distutils doctest email encodings ensurepip enum faulthandler fcntl filecmp fileinput fnmatch fractions ftplib
functools genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http idlelib imaplib
imghdr imp importlib inspect io ipaddress json keyword lib2to3 linecache locale logging lzma mailbox mailcap math
mimetypes mmap modulefinder multiprocessing netrc nis nntplib ntpath nturl2path numbers opcode operator optparse os
ossaudiodev pathlib pdb pickle pickletools pipes pip pkgutil pkg_resources platform plistlib poplib posixpath pprint
profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat pytest queue quopri random re readline reprlib
resource rlcompleter runpy sched secrets select selectors setuptools shelve shlex shutil signal site smtpd smtplib
sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string stringprep
struct subprocess sunau symtable sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap this threading
timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types typing unicodedata
unittest urllib uu uuid venv virtualenv warnings wave weakref webbrowser wheel wsgiref xdrlib xml xmlrpc zipapp
zipfile zipimport zlib zoneinfo`

var isModule = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	for _, name := range strings.Fields(modules) {
		all[name] = true
	}
	return all
})

// module matches the name of a file that is a module, or makes a folder one.
var module = regexp.MustCompile(`^(\w+)(\.py|\.pyc|\.so|\.(abi|cpython|pypy)[\w.-]*\.so)$`)

// shadowing reports whether the path, in lower case, is that of such a module in the top folder.
func shadowing(names []string) bool {
	file := module.FindStringSubmatch(names[len(names)-1])
	switch {
	case file == nil:
		return false
	case len(names) == 1:
		return isModule()[file[1]]
	}
	return len(names) == 2 && file[1] == "__init__" && isModule()[names[0]]
}
