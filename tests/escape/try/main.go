// Command try runs in a sandbox and tries to get out of it. It prints one line for each attempt:
// its name, and "refused" with the reason or "DONE".
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one way out. It returns nil if that led out.
type attempt struct {
	name string
	try  func() error
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "exhaust" {
		for _, what := range os.Args[2:] {
			exhaust(what)
		}
		return
	}
	for _, a := range attempts() {
		said := "DONE"
		if err := a.try(); err != nil {
			said = "refused: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s\t%s\n", a.name, said)
	}
}

// call is a system call as an attempt. A pointer that is needed is to zeros.
func call(name string, number uintptr, args ...uintptr) attempt {
	return attempt{name, func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}}
}

// zeros is where calls find structures.
var zeros [4096]byte

func pointer() uintptr { return uintptr(unsafe.Pointer(&zeros[0])) }

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	return uintptr(unsafe.Pointer(p))
}

func socket(name string, family, kind, protocol int) attempt {
	return attempt{"network: " + name, func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}}
}

func dial(name, network, address string) attempt {
	return attempt{"network: " + name, func() error {
		c, err := net.DialTimeout(network, address, 5*time.Second) //nolint:gosec // where to is the table's
		if err == nil {
			c.Close()
		}
		return err
	}}
}

func write(path string) attempt {
	return attempt{"files: write " + path, func() error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString("x")
		return err
	}}
}

func read(path string) attempt {
	return attempt{"files: read " + path, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if n, err := f.Read(make([]byte, 64)); n == 0 {
			return fmt.Errorf("nothing there: %w", err)
		}
		return nil
	}}
}

func attempts() []attempt {
	host := os.Getenv("ESCAPE_HOST") // PORT of a listener on the host's loopback
	all := []attempt{
		socket("raw IPv4 (ICMP)", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		socket("raw IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
		socket("packets", unix.AF_PACKET, unix.SOCK_RAW, 0x300),
		socket("SCTP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
		socket("MPTCP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
		socket("vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		socket("Bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, 1),
		socket("kernel's cryptography", unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		socket("XDP", unix.AF_XDP, unix.SOCK_RAW, 0),
		socket("IPsec keys", unix.AF_KEY, unix.SOCK_RAW, 2),
		socket("CAN", unix.AF_CAN, unix.SOCK_RAW, 1),
		socket("RDS", unix.AF_RDS, unix.SOCK_SEQPACKET, 0),
		socket("TIPC", unix.AF_TIPC, unix.SOCK_SEQPACKET, 0),
		socket("SMC", unix.AF_SMC, unix.SOCK_STREAM, 0),
		socket("netlink of audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
		socket("netlink of the firewall", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
		socket("netlink of devices", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT),
		socket("netlink of sockets", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG),
		socket("Unix datagrams", unix.AF_UNIX, unix.SOCK_DGRAM, 0),
		dial("a port of the host's loopback", "tcp", "127.0.0.1:"+host),
		dial("a port of the host by IPv6", "tcp", "[::1]:"+host),
		dial("an abstract socket of the host", "unix", "@postern-escape-"+host),
		dial("a host's socket in the working directory", "unix", "host.sock"),
		dial("the container engine's socket", "unix", "/var/run/docker.sock"),
		dial("the socket of `postern run`", "unix", "/run/postern/host/control.sock"),
		{"network: a new interface", newLink},
		{"network: loopback down", loopbackDown},
		write("/etc/passwd"), write("/usr/bin/true"), write("/run/postern/postern-sandbox"),
		write("/run/postern/ca.pem"),
		write("/run/postern/nodes/0/proxy.sock"), write("/new"), write("/dev/new"), write("/proc/sysrq-trigger"),
		write("/proc/sys/kernel/core_pattern"), write("/proc/sys/vm/drop_caches"), write("/proc/sys/kernel/modprobe"),
		write("/sys/fs/cgroup/cgroup.procs"), write("/sys/fs/cgroup/memory/release_agent"),
		write("/sys/kernel/uevent_helper"), write("/sys/power/state"),
		read("/proc/kcore"), read("/proc/kmsg"), read("/proc/keys"), read("/dev/mem"), read("/dev/kmsg"),
		read("/dev/sda"),
		read("/dev/vda"), read("/dev/kvm"), read("/dev/fuse"), read("/dev/net/tun"),
		read("/sys/kernel/security/lockdown"),
		read("/etc/shadow"), read("/root/.ssh/id_rsa"), read(os.Getenv("ESCAPE_SECRET")),
		read("/proc/1/mem"), read("/proc/1/environ"), read("/proc/1/root/etc/passwd"), read("/proc/1/cwd/etc/passwd"),
		call("files: a device", unix.SYS_MKNODAT, ^uintptr(99), text("device"), unix.S_IFBLK|0o666, 8<<8),
		call("files: mount", unix.SYS_MOUNT, text("x"), text("/tmp"), text("tmpfs"), 0, 0),
		call("files: remount writable", unix.SYS_MOUNT, 0, text("/"), 0, unix.MS_REMOUNT|unix.MS_BIND, 0),
		call("files: unmount", unix.SYS_UMOUNT2, text("/proc"), unix.MNT_DETACH),
		call("files: pivot_root", unix.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp")),
		call("files: chroot", unix.SYS_CHROOT, text("/tmp")),
		call("files: open_tree", unix.SYS_OPEN_TREE, ^uintptr(99), text("/"), 1),
		call("files: fsopen", unix.SYS_FSOPEN, text("tmpfs"), 0),
		call("files: mount_setattr", unix.SYS_MOUNT_SETATTR, ^uintptr(99), text("/"), 0, pointer(), 32),
		call("files: open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(99), pointer(), 0),
		call("files: quota", unix.SYS_QUOTACTL, 0, text("/dev/sda"), 0, pointer()),
		{"files: setuid bit", func() error {
			return errors.Join(os.WriteFile("s", nil, 0o755), unix.Chmod("s", 0o4755))
		}},
		{"files: capabilities of a file", func() error {
			return unix.Setxattr("s", "security.capability", append([]byte{1, 0, 0, 2, 0, 4}, make([]byte, 14)...), 0)
		}},
		call("processes: trace the first", unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1),
		call("processes: trace the gate", unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(os.Getppid())),
		{"processes: memory of the gate", func() error {
			f, err := os.Open(fmt.Sprintf("/proc/%d/mem", os.Getppid()))
			if err == nil {
				f.Close()
			}
			return err
		}},
		{"processes: a descriptor of the gate", func() error {
			fd, err := unix.PidfdOpen(os.Getppid(), 0)
			if err != nil {
				return err
			}
			_, err = unix.PidfdGetfd(fd, 6, 0)
			return err
		}},
		{"processes: one of the host", func() error { return outsider(os.Getenv("ESCAPE_PID")) }},
		call("identity: become root", unix.SYS_SETUID, 0),
		call("identity: another group", unix.SYS_SETGID, 0),
		{"identity: a capability", func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			data := [2]unix.CapUserData{{Effective: 1 << unix.CAP_NET_ADMIN, Permitted: 1 << unix.CAP_NET_ADMIN}}
			return unix.Capset(&header, &data[0])
		}},
		call("kernel: keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2), 0),
		call("kernel: add_key", unix.SYS_ADD_KEY, text("user"), text("x"), pointer(), 1, ^uintptr(2)),
		call("kernel: io_uring", unix.SYS_IO_URING_SETUP, 1, pointer()),
		call("kernel: bpf", unix.SYS_BPF, 5, pointer(), 64),
		call("kernel: perf_event_open", unix.SYS_PERF_EVENT_OPEN, pointer(), 0, ^uintptr(0), ^uintptr(0), 0),
		call("kernel: userfaultfd", unix.SYS_USERFAULTFD, 0),
		call("kernel: a module", unix.SYS_INIT_MODULE, pointer(), 1, pointer()),
		call("kernel: kexec", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		call("kernel: reboot", unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2,
			unix.LINUX_REBOOT_CMD_CAD_OFF),
		call("kernel: swap", unix.SYS_SWAPON, text("/tmp/x"), 0),
		call("kernel: accounting", unix.SYS_ACCT, 0),
		call("kernel: log", unix.SYS_SYSLOG, 3, pointer(), 64),
		call("kernel: clock", unix.SYS_CLOCK_SETTIME, 0, pointer()),
		call("kernel: host name", unix.SYS_SETHOSTNAME, text("x"), 1),
		call("kernel: fanotify", unix.SYS_FANOTIFY_INIT, 0, 0),
		call("kernel: setns", unix.SYS_SETNS, 0, 0),
		call("kernel: a call of the x32 interface", 0x40000000+39),
	}
	for _, n := range []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER},
		{"network", unix.CLONE_NEWNET},
		{"mount", unix.CLONE_NEWNS},
		{"PID", unix.CLONE_NEWPID},
		{"IPC", unix.CLONE_NEWIPC},
		{"UTS", unix.CLONE_NEWUTS},
		{"control group", unix.CLONE_NEWCGROUP},
		{"time", unix.CLONE_NEWTIME},
	} {
		all = append(all, call("kernel: a "+n.name+" namespace", unix.SYS_UNSHARE, n.flag))
	}
	// The last: where it succeeds, there is no more.
	return append(all, attempt{"credentials: the caller's environment", environment},
		attempt{"processes: end the first", endFirst})
}

// endFirst ends the sandbox's first process, and thereby the sandbox.
func endFirst() error {
	if err := unix.Kill(1, unix.SIGKILL); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) //nolint:forbidigo // nothing tells the victim of a signal
	return errors.New("it lives")
}

// newLink asks the kernel for an interface.
func newLink() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	message := make([]byte, 16+16+12)
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	binary.NativeEndian.PutUint16(message[32:], 12)
	binary.NativeEndian.PutUint16(message[34:], unix.IFLA_IFNAME)
	copy(message[36:], "escape")
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < 20 {
		return errors.Join(err, errors.New("no answer"))
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[16:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// loopbackDown switches the only interface off: what is captured then would not be.
func loopbackDown() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(0)
	argument := uintptr(unsafe.Pointer(request))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, argument); errno != 0 {
		return errno
	}
	return nil
}

// outsider signals a process of the host, whose number here is nobody's or another one's.
func outsider(pid string) error {
	command, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return err
	}
	if string(command) == os.Getenv("ESCAPE_COMM")+"\n" {
		return nil
	}
	return errors.New("it is another process: " + strings.TrimSpace(string(command)))
}

// environment looks for the caller's secret in what every process here was started with.
func environment() error {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, f := range append(files, "/proc/self/environ") {
		content, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(content), os.Getenv("ESCAPE_CANARY_BEGIN")+"canary") {
			return nil
		}
	}
	return errors.New("it is not there")
}

// resident runs this program from memory from now on. From a file, a kernel that runs out of memory
// takes the program's own pages again and again, for minutes in a machine without KVM, before it
// ends anything.
func resident() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil || strings.HasPrefix(self, "/memfd:") {
		return err
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("try", 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "try")
	if _, err := f.Write(program); err != nil {
		return err
	}
	return unix.Exec(fmt.Sprint("/proc/self/fd/", fd), os.Args, os.Environ())
}

// exhaust uses up one thing and says how much of it there was.
func exhaust(what string) {
	say := func(said any) { fmt.Println(what, said) }
	switch what {
	case "memory":
		if err := resident(); err != nil {
			say(err)
			return
		}
		var held [][]byte
		for i := range 64 { // 16 MiB each
			b := make([]byte, 16<<20)
			for j := 0; j < len(b); j += 4096 {
				b[j] = 1
			}
			held = append(held, b)
			say(16 * (i + 1))
		}
		_ = held
	case "processes":
		for i := range 400 {
			cmd := exec.Command("/proc/self/exe", "exhaust", "wait")
			if err := cmd.Start(); err != nil {
				say(err)
				return
			}
			defer func() { // they hold memory
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			say(i + 1)
		}
	case "wait":
		time.Sleep(time.Minute) //nolint:forbidigo // it is only there
	case "disk", "shm":
		dir := map[string]string{"disk": "/tmp", "shm": "/dev/shm"}[what]
		f, err := os.Create(filepath.Join(dir, "full"))
		if err != nil {
			say(err)
			return
		}
		defer os.Remove(f.Name()) //nolint:errcheck // where memory is scratch, others need it
		defer f.Close()
		for i := range 64 { // 1 MiB each
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				say(err)
				return
			}
			say(i + 1)
		}
	}
}
