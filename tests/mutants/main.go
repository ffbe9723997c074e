// Mutants changes the code of packages, one small change at a time, runs their own
// tests on each change, and prints the changes that no test sees: `make mutants`.
// Nothing in the working tree changes.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := runner{root: ".", out: os.Stdout}
	flag.IntVar(&r.sample, "sample", 30, "how many changes of each place are tried; 0: all")
	flag.Uint64Var(&r.seed, "seed", uint64(time.Now().Unix()), "which ones: the same seed tries the same ones")
	flag.StringVar(&r.list, "list", "tools/mutants.txt", "the places, and the changes that make no difference")
	flag.Parse()
	if err := r.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

// runner tries changes in the module at root.
type runner struct {
	root, list string
	sample     int
	seed       uint64
	out        io.Writer
}

// place is a package of the module, or some of its files.
type place struct {
	dir string
	// files are names in dir; none means all.
	files []string
	// tests, if not "", are the tests that are run, as a regular expression: those of the
	// package may take long.
	tests string
	// decides says that each change has to be seen.
	decides bool
}

func (p place) String() string {
	if len(p.files) == 0 {
		return p.dir
	}
	return p.dir + "/" + strings.Join(p.files, ",")
}

// has reports whether all of q is in p.
func (p place) has(q place) bool {
	return p.dir == q.dir && (len(p.files) == 0 || len(q.files) > 0 && !slices.ContainsFunc(q.files, func(f string) bool { return !slices.Contains(p.files, f) }))
}

func parse(path string) place {
	path = filepath.Clean(path)
	if !strings.HasSuffix(path, ".go") {
		return place{dir: path}
	}
	return place{dir: filepath.Dir(path), files: strings.Split(filepath.Base(path), ",")}
}

// run tries changes in the places named, or else in all that the list names. The error
// says if one lived in a place that decides.
func (r *runner) run(ctx context.Context, named []string) error {
	places, equal, err := r.read()
	if err != nil {
		return err
	}
	if len(named) > 0 {
		listed := places
		places = nil
		for _, n := range named {
			p := parse(n)
			if i := slices.IndexFunc(listed, func(q place) bool { return q.has(p) }); i >= 0 {
				p.tests, p.decides = listed[i].tests, listed[i].decides
			}
			places = append(places, p)
		}
	}
	fmt.Fprintf(r.out, "seed %d\n", r.seed)
	lived := 0
	for _, p := range places {
		n, err := r.try(ctx, p, equal)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if p.decides {
			lived += n
		}
	}
	if lived > 0 {
		return fmt.Errorf("no test sees %d changes of code that decides or verifies: write a test for each, or, if it makes no difference, add it to %s with the reason", lived, r.list)
	}
	return nil
}

// read returns the places, and the names of the changes that make no difference.
func (r *runner) read() ([]place, map[string]bool, error) {
	f, err := os.Open(filepath.Join(r.root, r.list))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	var places []place
	equal := map[string]bool{}
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		kind, rest, _ := strings.Cut(s.Text(), "|")
		end := strings.LastIndexByte(rest, '|')
		switch {
		case s.Text() == "" || s.Text()[0] == '#':
		case kind == "decides" || kind == "more":
			path, tests, _ := strings.Cut(rest, "|")
			p := parse(path)
			p.tests, p.decides = tests, kind == "decides"
			places = append(places, p)
		case kind == "equal" && strings.Count(rest, "|") > 2 && end+1 < len(rest):
			equal[rest[:end]] = true
		default:
			return nil, nil, fmt.Errorf("%s:%d: write decides|PLACE|TESTS, more|PLACE|TESTS or equal|FILE|FUNCTION|CHANGE|REASON", r.list, n)
		}
	}
	return places, equal, s.Err()
}

// pkg is what the go command says of a package.
type pkg struct {
	Name                               string
	GoFiles, TestImports, XTestImports []string
}

// try returns how many changes of a place lived.
func (r *runner) try(ctx context.Context, p place, equal map[string]bool) (lived int, err error) {
	start := time.Now()
	out, err := r.command(ctx, r.root, "go", "list", "-json=Name,GoFiles,TestImports,XTestImports", "./"+p.dir).Output()
	if err != nil {
		return 0, fmt.Errorf("go list: %w", err)
	}
	var is pkg
	if err := json.Unmarshal(out, &is); err != nil {
		return 0, err
	}
	for _, f := range p.files {
		if !slices.Contains(is.GoFiles, f) {
			return 0, fmt.Errorf("the package has no file %s", f)
		}
	}
	known := map[string]bool{}
	var all []*change
	for _, f := range is.GoFiles {
		found, err := changes(r.root, filepath.Join(p.dir, f))
		if err != nil {
			return 0, err
		}
		for _, c := range found {
			known[c.name()] = true
			if !equal[c.name()] && (len(p.files) == 0 || slices.Contains(p.files, f)) {
				all = append(all, c)
			}
		}
	}
	for name := range equal {
		if file, _, _ := strings.Cut(name, "|"); filepath.Dir(file) == p.dir && !known[name] {
			return 0, fmt.Errorf("%s names a change that there is not (any more): %s", r.list, name)
		}
	}
	total := len(all)
	slices.SortFunc(all, func(a, b *change) int { return cmp.Compare(r.draw(a), r.draw(b)) })
	if r.sample > 0 && total > r.sample {
		all = all[:r.sample]
	}

	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	t := &trial{runner: r, place: p, pkg: is, dir: dir, all: all, bound: 10 * time.Minute}
	t.flags = []string{"-test.failfast", "-test.run=" + p.tests}
	if slices.Contains(slices.Concat(is.TestImports, is.XTestImports), "pgregory.net/rapid") {
		t.flags = append(t.flags, "-rapid.nofailfile") // it would be in the tree
	}
	count, err := t.run(ctx)
	if count != nil { // also of a run that was interrupted
		fmt.Fprintf(r.out, "%s: %d of %d changes tried: %d seen, %d more hung, %d lived; %d did not compile; %.0f s\n",
			p, count[seen]+count[hung]+count[alive], total, count[seen], count[hung], count[alive], count[unbuilt], time.Since(start).Seconds())
	}
	return count[alive], err
}

// draw returns a place in the order in which changes are tried. It stays when other code of the
// package changes, so that the same seed tries the same changes after what lived has its test.
func (r *runner) draw(c *change) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d|%s", r.seed, c.name()))
	return string(sum[:])
}

func (r *runner) command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// verdict is what the tests say of a change.
type verdict int

const (
	seen verdict = iota
	hung
	alive
	unbuilt
)

// trial tries all changes of a place.
type trial struct {
	*runner
	place
	pkg
	dir   string
	all   []*change
	flags []string
	bound time.Duration
}

func (t *trial) run(ctx context.Context) (map[verdict]int, error) {
	alone := map[int]bool{} // these are built without the others
	for i, c := range t.all {
		alone[i] = c.before == ""
	}
	binary, err := t.together(ctx, alone)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if v, out, err := t.test(ctx, binary, -1); err != nil || v != alive {
		return nil, errors.Join(err, fmt.Errorf("its tests fail without a change:\n%s", out))
	}
	// A change that makes a test hang is one that the test sees.
	t.bound = max(10*time.Second, 5*time.Since(start))
	count := map[verdict]int{}
	for i, c := range t.all {
		v, tested := alive, binary
		if alone[i] {
			var out []byte
			if tested, out, err = t.build(ctx, "one", map[string][]int{c.file: {i}}); err != nil {
				return count, err
			} else if out != nil {
				v = unbuilt
			}
		}
		if v != unbuilt {
			if v, _, err = t.test(ctx, tested, i); err != nil {
				return count, err
			}
		}
		count[v]++
		if v == alive {
			fmt.Fprintf(t.out, "%s:%d: %s: %s\n", c.file, c.line, c.in, c.what)
		}
	}
	return count, nil
}

// together builds the changes into one program. What does not compile it adds to alone.
func (t *trial) together(ctx context.Context, alone map[int]bool) (string, error) {
	for {
		files := map[string][]int{}
		for i, c := range t.all {
			if !alone[i] {
				files[c.file] = append(files[c.file], i)
			}
		}
		binary, out, err := t.build(ctx, "all", files)
		if err != nil || out == nil {
			return binary, err
		}
		found := false
		for _, m := range regexp.MustCompile(`([a-z0-9_]+\.go)(?:\.changed)?:(\d+):`).FindAllSubmatch(out, -1) {
			for i, c := range t.all {
				if !alone[i] && filepath.Base(c.file) == string(m[1]) && strconv.Itoa(c.line) == string(m[2]) {
					alone[i], found = true, true
				}
			}
		}
		if !found {
			return "", fmt.Errorf("it does not compile:\n%s", out)
		}
	}
}

// build makes the package's test program with changes of its files. out is not nil if
// it does not compile.
func (t *trial) build(ctx context.Context, name string, files map[string][]int) (binary string, out []byte, err error) {
	root, err := filepath.Abs(t.root)
	if err != nil {
		return "", nil, err
	}
	helper := filepath.Join(t.dir, "switches.go")
	replace := map[string]string{filepath.Join(root, t.place.dir, "mutant_switches.go"): helper}
	if err := os.WriteFile(helper, []byte("package "+t.Name+"\n"+switches), 0o600); err != nil {
		return "", nil, err
	}
	for file, numbers := range files {
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return "", nil, err
		}
		if c := t.all[numbers[0]]; c.before == "" {
			src = c.without(src)
		} else {
			numbered := map[int]*change{}
			for _, i := range numbers {
				numbered[i+1] = t.all[i]
			}
			src = switched(src, numbered)
		}
		changed := filepath.Join(t.dir, filepath.Base(file)+".changed")
		if err := os.WriteFile(changed, src, 0o600); err != nil {
			return "", nil, err
		}
		replace[filepath.Join(root, file)] = changed
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(t.dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", nil, err
	}
	binary = filepath.Join(t.dir, name)
	out, err = t.command(ctx, root, "go", "test", "-c", "-vet=off", "-overlay", filepath.Join(t.dir, "overlay.json"), "-o", binary, "./"+t.place.dir).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return "", out, nil
	}
	return binary, nil, errors.Join(err, ctx.Err())
}

// test runs the test program with a change.
func (t *trial) test(ctx context.Context, binary string, i int) (verdict, []byte, error) {
	limited, cancel := context.WithTimeout(ctx, t.bound+30*time.Second)
	defer cancel()
	cmd := t.command(limited, filepath.Join(t.root, t.place.dir), binary, append(t.flags, "-test.timeout="+t.bound.String())...)
	cmd.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(i+1))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, nil, ctx.Err()
	case err == nil:
		return alive, out, nil
	case limited.Err() != nil || bytes.Contains(out, []byte("panic: test timed out")):
		return hung, out, nil
	case errors.As(err, &exit):
		return seen, out, nil
	}
	return 0, nil, err
}
