// Command inside is postern-sandbox, for the tests of package
// sandbox, and, under its other arguments, an agent that tries things.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside"
	"github.com/postern/postern/sandbox/wire"
)

func main() {
	if len(os.Args) == 1 || os.Args[1] == wire.Join || os.Args[1] == wire.End {
		os.Exit(inside.Main())
	}
	if err := try(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func try(what string, args []string) error {
	switch what {
	case "dial": // NETWORK ADDRESS: connect, write, read one byte
		conn, err := net.DialTimeout(args[0], args[1], 5*time.Second)
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			return err
		}
		fmt.Println("connected")
	case "dns": // NETWORK SERVER NAME TYPE
		q := new(dns.Msg)
		q.SetQuestion(args[2], dns.StringToType[args[3]])
		q.SetEdns0(1232, false)
		m, _, err := (&dns.Client{Net: args[0], Timeout: 3 * time.Second}).Exchange(q, args[1])
		if err != nil {
			return err
		}
		fmt.Println(dns.RcodeToString[m.Rcode], len(m.Answer))
		for _, rr := range append(m.Answer, m.Extra...) {
			fmt.Println(rr)
		}
	case "pass": // send descriptors that nobody receives, as many as the kernel takes, and stay
		for {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			for err == nil {
				err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(0, 0, 0, 0), nil, unix.MSG_DONTWAIT)
			}
			if errors.Is(err, unix.ETOOMANYREFS) {
				fmt.Println("all are on their way")
				return unix.Pause()
			}
		}
	case "interfaces":
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range all {
			fmt.Println(i.Name)
		}
	case "socket", "socketpair": // FAMILY TYPE [PROTOCOL]
		var n [3]int
		for i := range args {
			n[i], _ = strconv.Atoi(args[i])
		}
		if what == "socketpair" {
			if _, err := unix.Socketpair(n[0], n[1], n[2]); err != nil {
				return err
			}
			fmt.Println("opened")
			return nil
		}
		fd, err := unix.Socket(n[0], n[1], n[2])
		if err != nil {
			return err
		}
		unix.Close(fd)
		fmt.Println("opened")
	case "syscall": // NUMBER [ARGUMENT]..., each a number or a path
		var n [7]uintptr
		for i := range args {
			v, err := strconv.ParseUint(args[i], 0, 64)
			if err != nil { // a path
				p, err := unix.BytePtrFromString(args[i])
				if err != nil {
					return err
				}
				v = uint64(uintptr(unsafe.Pointer(p)))
			}
			n[i] = uintptr(v)
		}
		if _, _, errno := unix.Syscall6(n[0], n[1], n[2], n[3], n[4], n[5], n[6]); errno != 0 {
			return errno
		}
		fmt.Println("done")
	case "descriptors": // the numbers of those that are open
		dir, err := os.Open("/proc/self/fd")
		if err != nil {
			return err
		}
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return err
		}
		var open []string
		for _, n := range names {
			// Not the folder's own, nor what Go's poller has opened for it.
			if target, err := os.Readlink("/proc/self/fd/" + n); err == nil && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "anon_inode:[event") {
				open = append(open, n)
			}
		}
		slices.Sort(open)
		fmt.Println(strings.Join(open, " "))
	case "listen": // PATH: accept once, from another process
		l, err := net.Listen("unix", args[0])
		if err != nil {
			return err
		}
		fmt.Println("listening")
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.Copy(conn, conn)
		return err
	case "hog": // MEBIBYTES: use that much memory, in processes of 16 each
		n, _ := strconv.Atoi(args[0])
		b := make([]byte, 16<<20)
		for i := range b {
			b[i] = byte(i)
		}
		if n > 16 {
			cmd := exec.Command("/proc/self/exe", "hog", strconv.Itoa(n-16)) //nolint:noctx // it ends with its parent
			cmd.Stdout = os.Stdout
			if err := cmd.Run(); err != nil {
				return err
			}
		} else {
			fmt.Println("used")
		}
		runtime.KeepAlive(b)
	case "swap": // OWN HOST: connect often to OWN while another thread writes HOST over its path
		return swap(args[0], args[1])
	case "ptrace": // PID
		pid, _ := strconv.Atoi(args[0])
		return unix.PtraceAttach(pid)
	case "write": // PATH
		f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		fmt.Println("opened")
		return f.Close()
	case "signals": // COUNT: say "ready", then name each signal
		n, _ := strconv.Atoi(args[0])
		got := make(chan os.Signal, 16)
		signal.Notify(got, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
		fmt.Println("ready")
		for range n {
			fmt.Println(unix.SignalName((<-got).(syscall.Signal)))
		}
	default:
		return errors.New("no such thing to try")
	}
	return nil
}

// swap tries to get past whoever checks an address, or a descriptor, before it is used: both change all the time.
func swap(own, host string) error {
	l, err := net.Listen("unix", own)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	var addresses [2]unix.RawSockaddrUnix
	for i, path := range []string{own, host} {
		addresses[i].Family = unix.AF_UNIX
		for k := range path {
			addresses[i].Path[k] = int8(path[k])
		}
	}
	target := addresses[0]
	done := make(chan struct{})
	defer close(done)
	var fd int
	go func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			target = addresses[i%2]
		}
	}()
	good, refused := 0, 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&target)), unsafe.Sizeof(target)); errno != 0 {
			refused++
		} else {
			good++
			if name, err := unix.Getpeername(fd); err == nil && name.(*unix.SockaddrUnix).Name == host {
				return errors.New("reached the host")
			}
		}
		unix.Close(fd)
	}
	fmt.Println("tried", good > 0, refused > 0)
	return nil
}
