package objects

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Why changes are refused.
var (
	ErrElsewhere = errors.New("git would take objects from where the agent has them: " +
		"`git clone --no-local` and `git fetch` compute their names")
	errOther     = errors.New("git never changes an object, and yours of this name has other content: keep yours")
	errDerived   = errors.New("git makes it from objects, and believes it: run `git gc` if you want it")
	errLone      = errors.New("a pack and its index are only applied together")
	errUnpacked  = errors.New("unpacked, git's objects are more than the layer may have: apply it by its path")
	errUnchecked = errors.New("its objects cannot be checked here")
)

// Checker decides which of the files that an agent made may come to a folder of the host.
type Checker struct {
	// Agents and Host open the regular file at a path of the agent's and of the host's folder.
	Agents, Host func(at string) (*os.File, error)
	// Pack says why an index is not that of the pack. Without it, no pack may come.
	Pack func(pack, index *os.File) error
	// Left is how many bytes may still be unpacked.
	Left int64

	// packs has what was found of a pack and its index, by their path without the ending.
	packs map[string]error
}

// Refuses says why what the agent has at the path may not come, or nil. kind is the type of that,
// and there is set if the host has a file of the same type.
func (c *Checker) Refuses(at string, kind fs.FileMode, there bool) error {
	file := Of(at)
	switch {
	case file.Kind == None, kind.IsDir():
		return nil
	case file.Kind == Folder:
		if kind&fs.ModeSymlink != 0 { // a repository's, or of one that shares it
			return ErrElsewhere
		}
		return nil
	case !kind.IsRegular(), file.Kind == Alternates:
		return ErrElsewhere
	case file.Kind == Derived:
		return errDerived
	case file.Kind == Common:
		return c.common(at)
	case there:
		return c.same(at) // of another mode
	case file.Kind == Pack || file.Kind == Index:
		return c.pack(at)
	}
	return c.named(at, file)
}

// ownCommon is what git writes into the commondir of a linked worktree.
const ownCommon = "../..\n"

// common refuses a commondir that leads to another repository than the one that it is in.
func (c *Checker) common(at string) error {
	f, err := c.Agents(at)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, int64(len(ownCommon)+1)))
	if err == nil && string(content) != ownCommon {
		err = ErrElsewhere
	}
	return err
}

// named compares an object with its name.
func (c *Checker) named(at string, file File) error {
	f, err := c.Agents(at)
	if err != nil {
		return err
	}
	defer f.Close()
	check := Check
	if file.Kind == Large {
		check = CheckLarge
	}
	read, err := check(f, file.Name, c.Left)
	c.Left -= read
	switch {
	case errors.Is(err, ErrLarge):
		return errUnpacked
	case errors.Is(err, ErrForged):
		return fmt.Errorf("%w, and git would believe it: use nothing that the agent made of it", err)
	}
	return err
}

// same compares the agent's file with the host's.
func (c *Checker) same(at string) error {
	a, err := c.Agents(at)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := c.Host(at)
	if err != nil {
		return err
	}
	defer b.Close()
	equal, err := Same(a, b)
	if err == nil && !equal {
		err = errOther
	}
	return err
}

// Same reports whether both files have the same content.
func Same(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errX := io.ReadFull(a, x)
		m, errY := io.ReadFull(b, y)
		if n != m || string(x[:n]) != string(y[:m]) {
			return false, nil
		}
		ended := func(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
		switch {
		case errX != nil && !ended(errX):
			return false, errX
		case errY != nil && !ended(errY):
			return false, errY
		case errX != nil: // both have ended
			return true, nil
		}
	}
}

// pack checks the pack and the index at the path, once.
func (c *Checker) pack(at string) error {
	stem := at[:strings.LastIndexByte(at, '.')]
	err, known := c.packs[stem]
	if known {
		return err
	}
	if c.packs == nil {
		c.packs = map[string]error{}
	}
	err = c.both(stem)
	c.packs[stem] = err
	return err
}

func (c *Checker) both(stem string) error {
	var files []*os.File
	for _, at := range []string{stem + ".pack", stem + ".idx"} {
		f, err := c.Agents(at)
		if errors.Is(err, fs.ErrNotExist) {
			return errLone
		}
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
		// What an earlier command applied must be the same file.
		if err := c.same(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if c.Pack == nil {
		return errUnchecked
	}
	return c.Pack(files[0], files[1])
}
