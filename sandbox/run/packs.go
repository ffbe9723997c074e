package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
)

// packPatience bounds the time in which git reads a pack.
const packPatience = 10 * time.Minute

// packScript prints the index that git makes of the pack, which is its input. Its arguments are the
// hash of the names, and how many bytes the index may have.
const packScript = `
unset GIT_DIR GIT_COMMON_DIR
/usr/bin/prlimit --nproc=64 --as=8589934592 --core=0 --nofile=256 --fsize="$2" \
	/usr/bin/git -c core.bigFileThreshold=16m -c pack.writeReverseIndex=false index-pack \
	--object-format="$1" --threads=1 -o /out/x.idx /proc/self/fd/0 >/dev/null &&
exec /bin/cat /out/x.idx`

// CheckPack says why the index is not the one that git makes of the pack: then a name leads to
// other content, or the pack is damaged or is not whole. An agent may have written both, so git
// reads them where there is nothing else.
func CheckPack(ctx context.Context, registry hostpath.Registry, pack, index *os.File) (err error) {
	ctx, cancel := context.WithTimeout(ctx, packPatience)
	defer cancel()
	folders, err := registry.Folders()
	if err != nil {
		return err
	}
	info, err := index.Stat()
	if err != nil {
		return err
	}
	// Nothing is in the folder: it stands for git's.
	empty, err := os.MkdirTemp("", "postern-pack-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(empty)) }()
	var owner unix.Stat_t
	if err := unix.Fstat(int(pack.Fd()), &owner); err != nil {
		return err
	}
	if os.Geteuid() == 0 { // git runs as the folder's owner
		if err := os.Lchown(empty, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	l := Leaked{git: empty}
	if err := unix.Lstat(empty, &l.id); err != nil {
		return err
	}
	complaint := limitedBuffer{left: 4 << 10}
	out := &comparison{with: index}
	size := fmt.Sprint(info.Size() + 1)
	err = l.confined(ctx, folders, []string{"--perms", "0700", "--size", size, "--tmpfs", "/out"}, pack, out,
		&complaint, "/bin/sh", "-c", packScript, "sh", format(index, info.Size()), size)
	if out.other != nil {
		err = out.other
	} else if err == nil {
		err = out.end()
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("check a pack: it takes more than %v", packPatience)
	case out.other == nil && err != nil && complaint.Len() > 0:
		return fmt.Errorf("check a pack: %w", complaint.explain(err))
	}
	return err
}

// format returns the hash that the names in the index are by its size. For git's own index that is
// the one: the parts of another one have another size.
func format(index io.ReaderAt, size int64) string {
	const count, names = 8 + 4*255, 8 + 4*256
	var n [4]byte
	if _, err := index.ReadAt(n[:], count); err == nil &&
		size >= names+int64(binary.BigEndian.Uint32(n[:]))*(sha256.Size+8)+2*sha256.Size {
		return "sha256"
	}
	return "sha1"
}

// errIndex means that names of the index are not those of what the pack has.
var errIndex = errors.New("the index is not that of the pack, and git would believe it: " +
	"use nothing that the agent made of it")

// comparison takes what must be the content of a file.
type comparison struct {
	with  io.Reader
	other error
}

func (c *comparison) Write(p []byte) (int, error) {
	is := make([]byte, len(p))
	if _, err := io.ReadFull(c.with, is); err != nil || !bytes.Equal(is, p) {
		c.other = errIndex
		return 0, c.other
	}
	return len(p), nil
}

// end says whether the file ends here.
func (c *comparison) end() error {
	if n, err := c.with.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return errIndex
	}
	return nil
}
