package hostpath

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// presence is a name in this machine's network, which ends with its process. By it commands know
// each other that use one folder, whatever list and user is theirs. A lock of the folder would do
// less: an agent, and what it starts, takes locks of the folder, too. No agent is in that network.
func presence(f folder) string {
	return fmt.Sprintf("postern-uses-%d.%d.%d", f.id.device, f.id.inode, f.id.born)
}

// enter says that a command uses the folder, until the file is closed. It waits while another one
// leaves, but not for ever: everybody on this machine may take such a name. Without one, the
// command goes on.
func enter(f folder) *os.File {
	defer take(presence(f)).Close()
	held, _ := bind(presence(f) + "." + rand.Text())
	return held
}

// alone calls last if no command uses the folder. None enters meanwhile.
func alone(f folder, last func()) {
	turn := take(presence(f))
	if turn == nil {
		return // one may enter meanwhile
	}
	defer turn.Close()
	names, err := os.ReadFile("/proc/self/net/unix")
	if err != nil || bytes.Contains(names, []byte("@"+presence(f)+".")) {
		return // the next one that leaves does it
	}
	last()
}

// take takes the name, for which another command waits a moment only. It returns nil if it cannot.
func take(name string) *os.File {
	for until := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		held, err := bind(name)
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(until) {
			return held
		}
	}
}

// bind returns a socket that has the name, and nothing listens to.
func bind(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
