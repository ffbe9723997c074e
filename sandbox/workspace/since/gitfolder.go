package since

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// Deceives says how git deceives because of the content of the file that dir has under the name, or
// that it is [tool.TooLarge], and what tells that from another content: see [tool.Deceives]. The
// file is at the path in each of the roots, of which the first is asked first, and git has it as
// the path as.
func Deceives(dir *os.File, name, at, as string, roots ...*os.File) (who, state string) {
	whole, may := tool.IsReadWhole(as), tool.MayDeceive(as)
	if !whole && !may {
		return "", ""
	}
	f, is, err := beneath.OpenRegular(dir, name)
	if err != nil {
		return "", "" // nor does git
	}
	defer f.Close()
	switch {
	case whole && is.Size > tool.MaxWhole:
		return tool.TooLarge, fmt.Sprint(*is)
	case !may:
		return "", ""
	}
	content := io.Reader(f)
	if hole, err := f.Seek(0, unix.SEEK_HOLE); err == nil && hole < is.Size {
		content = io.MultiReader(io.LimitReader(f, hole), holed{})
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		content = holed{}
	}
	size := 0
	if tool.IsIndex(as) {
		size = tool.IDSize(at, func(at string) io.ReadCloser {
			for _, root := range roots {
				if config, _, err := beneath.OpenRegular(root, at); err == nil {
					return config
				}
			}
			return nil
		})
	}
	return tool.Deceives(as, size, content)
}

// holed is the rest of a file that has a hole. Git makes none, and an agent's hole is as large as
// it likes: nobody reads terabytes of nothing.
type holed struct{}

func (holed) Read([]byte) (int, error) {
	return 0, errors.New("it has a hole, which git does not make")
}

// IsBare reports whether git takes the folder, in one of the layers, for its own.
func IsBare(layers ...*os.File) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(layers, func(dir *os.File) bool {
			if dir == nil {
				return false
			}
			e, err := beneath.Look(dir, name)
			return err == nil && e != nil && !e.IsWhiteout()
		})
	}
	return has("HEAD") && (has("commondir") || has("objects") && has("refs"))
}
