// Command inside is postern-sandbox, for the tests of package
// sandbox, and, under its other arguments, an agent that tries things.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside"
)

func main() {
	if len(os.Args) == 1 {
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
	case "interfaces":
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range all {
			fmt.Println(i.Name)
		}
	case "socket": // FAMILY TYPE
		family, _ := strconv.Atoi(args[0])
		kind, _ := strconv.Atoi(args[1])
		fd, err := unix.Socket(family, kind, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fmt.Println("opened")
	case "syscall": // NUMBER ARG0 ARG1
		var n [3]uintptr
		for i := range args {
			v, _ := strconv.ParseUint(args[i], 0, 64)
			n[i] = uintptr(v)
		}
		if _, _, errno := unix.Syscall(n[0], n[1], n[2], 0); errno != 0 {
			return errno
		}
		fmt.Println("done")
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
