// Package terminal runs commands on a terminal of their own, for tests of what
// only a person may answer.
package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Consent is the question of a command that a person must agree with: see package publish.
const Consent = `Type (yes \d{4}): `

// Run runs the command on a terminal, types the answer as soon as the command has
// written what matches question and meanwhile, if not nil, has returned, and returns all
// that the command has written. The answer yes to [Consent] is the one that it asks for.
// The error is the command's.
func Run(cmd *exec.Cmd, question, answer string, meanwhile func()) (string, error) {
	ours, theirs, err := open()
	if err != nil {
		return "", fmt.Errorf("open a terminal: %w", err)
	}
	defer ours.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	if closed := theirs.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", err
	}
	var said bytes.Buffer
	asked := regexp.MustCompile(question)
	answered := false
	for part := make([]byte, 4096); ; {
		n, err := ours.Read(part)
		said.Write(part[:n])
		if m := asked.FindSubmatch(said.Bytes()); !answered && m != nil {
			answered = true
			if answer == "yes" && len(m) > 1 {
				answer = string(m[1])
			}
			if meanwhile != nil {
				meanwhile()
			}
			if _, err := ours.WriteString(answer + "\n"); err != nil {
				return said.String(), err
			}
		}
		if err != nil { // EIO: the command has ended
			break
		}
	}
	return said.String(), cmd.Wait()
}

// open returns both ends of a new terminal.
func open() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(ours.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, fs.FileMode(0))
	}
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	return ours, theirs, nil
}
