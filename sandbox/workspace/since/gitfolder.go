package since

import (
	"io"
	"os"
	"slices"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// Deceives says how git deceives because of the content of the file that dir has under the name,
// and what tells that content from another: see [tool.Deceives]. The file is at the path in each of
// the roots, of which the first is asked first, and git has it as the path as.
func Deceives(dir *os.File, name, at, as string, roots ...*os.File) (who, state string) {
	if !tool.MayDeceive(as) {
		return "", ""
	}
	f, _, err := beneath.OpenRegular(dir, name)
	if err != nil {
		return "", "" // nor does git
	}
	defer f.Close()
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
	return tool.Deceives(as, size, f)
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
