package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"
)

// allowedCalls are the system calls that the command may make with any arguments: those that
// Docker's default profile grants to a container without capabilities. Left out are calls that
// checkedCalls decides by arguments, calls that reach keys, other namespaces, file handles and NUMA
// placement, and calls that have no user here. If an architecture does not have a call, it is
// skipped there.
//
// ptrace and process_vm_readv stay, for debuggers: they reach only processes of the same user
// namespace, which is the command's own. The gate is in the namespace above.
var allowedCalls = []string{
	// Files.
	"access", "faccessat", "faccessat2", "chdir", "fchdir", "chown", "fchown", "fchownat", "lchown", "close", "close_range", "dup", "dup2", "dup3",
	"copy_file_range", "fadvise64", "fallocate", "fdatasync", "flock", "fsync", "ftruncate", "truncate", "getcwd", "getdents", "getdents64",
	"link", "linkat", "symlink", "symlinkat", "readlink", "readlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
	"lseek", "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "readahead", "sendfile", "splice", "tee", "vmsplice",
	"stat", "fstat", "lstat", "newfstatat", "fstatat", "statx", "statfs", "fstatfs", "sync", "syncfs", "sync_file_range", "umask",
	"utime", "utimes", "futimesat", "utimensat", "cachestat",
	"getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
	"inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	// Waiting.
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2",
	"poll", "ppoll", "select", "pselect6", "eventfd", "eventfd2", "signalfd", "signalfd4", "pause", "nanosleep", "clock_nanosleep", "pipe", "pipe2",
	"timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
	"alarm", "getitimer", "setitimer", "futex", "futex_waitv", "futex_wake", "futex_wait", "futex_requeue",
	// Memory.
	"brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "mlock", "mlock2", "mlockall", "munlock", "munlockall", "msync", "membarrier", "memfd_create", "mseal",
	"pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages", "map_shadow_stack",
	"shmat", "shmctl", "shmdt", "shmget", "semctl", "semget", "semop", "semtimedop", "msgctl", "msgget", "msgrcv", "msgsnd",
	"mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink",
	// Processes and threads.
	"execve", "execveat", "exit", "exit_group", "fork", "vfork", "wait4", "waitid", "kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal", "process_mrelease",
	"getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "set_tid_address", "set_robust_list", "get_robust_list", "rseq", "restart_syscall",
	"rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack",
	"prctl", "arch_prctl", "get_thread_area", "set_thread_area", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
	"getrlimit", "setrlimit", "prlimit64", "getrusage", "times", "sysinfo", "uname", "getcpu", "getrandom", "getpriority", "setpriority", "ioprio_get", "ioprio_set",
	"sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
	"sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval",
	"ptrace", "process_vm_readv", "process_vm_writev",
	// Identity, of which there is only one.
	"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
	"setgroups", "capget", "capset",
	// Time.
	"time", "gettimeofday", "clock_gettime", "clock_getres",
	// Sockets, once opened.
	"accept", "accept4", "bind", "listen", "getpeername", "getsockname", "getsockopt", "setsockopt", "shutdown",
	"recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg",
}

// forbiddenCalls fail with EPERM, as they do for an ordinary user of a kernel that has them. Every
// other call that is not allowed fails with ENOSYS, which programs take for an older kernel and do
// without.
var forbiddenCalls = []string{
	"mount", "umount2", "pivot_root", "chroot", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
	"setns", "unshare", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
	"sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "vhangup", "syslog",
	"open_by_handle_at", "name_to_handle_at", "kcmp", "lookup_dcookie", "fanotify_init", "process_madvise",
}

// check is true if the lower 32 bits of an argument, masked, are the value. Every argument that is
// looked at is an int, or flags of which the kernel ignores the rest.
type check struct {
	arg         int
	mask, value uint32
}

// outcome says what is done if all checks hold.
type outcome struct {
	when []check
	do   uint32
}

// checkedCall is decided by its arguments: by the first outcome whose checks hold, or else by the
// last word.
type checkedCall struct {
	names    []string
	outcomes []outcome
	// otherwise applies to arguments that no outcome covers.
	otherwise uint32
	why       string
}

const (
	whole = ^uint32(0)
	// setID are the mode bits that give a program its file's owner or group.
	setID = unix.S_ISUID | unix.S_ISGID
	// creates are the flags with which open's mode counts.
	creates = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	// newNamespaces are the flags of clone that make a namespace.
	newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// socketKind is the part of a socket's type that is not flags.
	socketKind  = 0xf
	tioclinux   = 0x541c
	fiosetown   = 0x8901
	siocspgrp   = 0x8902
	noRandomize = 0x0040000
	// ioctlKind is the part of an ioctl's number that says whose it is. The two file systems make
	// subvolumes and snapshots for everybody who may write a folder.
	ioctlKind = 0xff00
	btrfs     = 0x9400
	bcachefs  = 0xbc00
)

// isOneOf are outcomes: one for each value of the argument.
func isOneOf(do uint32, arg int, mask uint32, values ...uint32) []outcome {
	out := make([]outcome, len(values))
	for i, v := range values {
		out[i] = outcome{when: []check{{arg: arg, mask: mask, value: v}}, do: do}
	}
	return out
}

// setTo forbids one value of one of fcntl's commands.
func setTo(command, value uint32) outcome {
	return outcome{do: errForbidden, when: []check{
		{arg: 1, mask: whole, value: command}, {arg: 2, mask: whole, value: value},
	}}
}

// modeless lets a call pass unless its mode has one of the bits of setID.
func modeless(arg int, names ...string) checkedCall {
	return checkedCall{
		names: names, otherwise: errForbidden, why: "a setuid program left in the working directory is its owner's, who may be root, to whoever starts it outside",
		outcomes: []outcome{{when: []check{{arg: arg, mask: setID}}, do: retAllow}},
	}
}

// opens is modeless for a call whose mode counts only if a file is made.
func opens(flags, mode int, names ...string) checkedCall {
	c := modeless(mode, names...)
	c.outcomes = append(c.outcomes, outcome{when: []check{{arg: flags, mask: uint32(creates)}}, do: retAllow})
	return c
}

// checkedCalls are the calls that pass with some arguments only; the most frequent first.
var checkedCalls = []checkedCall{
	opens(2, 3, "openat"),
	opens(1, 2, "open"),
	{
		names: []string{"ioctl"}, otherwise: retAllow,
		why: "input into, the clipboard of, and another protocol for a terminal that others use too; before Linux 6.8 who owns the working folder can have a snapshot in it of the whole subvolume that the folder is in",
		outcomes: slices.Concat(
			isOneOf(errForbidden, 1, whole, unix.TIOCSTI, tioclinux, unix.TIOCSETD),
			isOneOf(errForbidden, 1, whole, fiosetown, siocspgrp),                            // as fcntl's F_SETOWN_EX
			isOneOf(retAllow, 1, whole, unix.FICLONE, unix.FICLONERANGE, unix.FIDEDUPERANGE), // btrfs's numbers, every file system's calls
			isOneOf(errForbidden, 1, ioctlKind, btrfs, bcachefs),
		),
	},
	{
		names: []string{"fcntl"}, otherwise: retAllow,
		why: "whoever holds a lease on a file makes everybody else who opens the file wait for it, for 45 s; " +
			"a file sends its owner, or the owner's group, any signal: see firstProcessCalls",
		outcomes: append(
			isOneOf(errForbidden, 1, whole, unix.F_SETLEASE, unix.F_SETOWN_EX), // whose owner is in memory
			setTo(unix.F_SETOWN, 1), setTo(unix.F_SETOWN, whole), // group 1
			setTo(unix.F_SETSIG, uint32(unix.SIGSTOP)),
		),
	},
	{
		names: []string{"clone"}, otherwise: errForbidden, why: "in a namespace of its own an agent would have capabilities, and with them the kernel's rarely tried paths",
		outcomes: []outcome{{when: []check{{arg: 0, mask: newNamespaces}}, do: retAllow}},
	},
	{
		names: []string{"socket"}, otherwise: errNoFamily,
		why: "a network namespace isolates these families and no others (AF_VSOCK reaches a virtual machine's host); a datagram can name a socket of the host's in memory, where no filter sees it",
		outcomes: []outcome{
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET}, {arg: 1, mask: socketKind, value: unix.SOCK_STREAM}, {arg: 2, mask: whole}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET}, {arg: 1, mask: socketKind, value: unix.SOCK_STREAM}, {arg: 2, mask: whole, value: unix.IPPROTO_TCP}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET}, {arg: 1, mask: socketKind, value: unix.SOCK_DGRAM}, {arg: 2, mask: whole}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET}, {arg: 1, mask: socketKind, value: unix.SOCK_DGRAM}, {arg: 2, mask: whole, value: unix.IPPROTO_UDP}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET6}, {arg: 1, mask: socketKind, value: unix.SOCK_STREAM}, {arg: 2, mask: whole}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET6}, {arg: 1, mask: socketKind, value: unix.SOCK_STREAM}, {arg: 2, mask: whole, value: unix.IPPROTO_TCP}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET6}, {arg: 1, mask: socketKind, value: unix.SOCK_DGRAM}, {arg: 2, mask: whole}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET6}, {arg: 1, mask: socketKind, value: unix.SOCK_DGRAM}, {arg: 2, mask: whole, value: unix.IPPROTO_UDP}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_UNIX}, {arg: 1, mask: socketKind, value: unix.SOCK_STREAM}}, do: retAllow},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_UNIX}, {arg: 1, mask: socketKind, value: unix.SOCK_SEQPACKET}}, do: retAllow},
			// For getifaddrs of glibc and Go. The others reach firewalls, audit and other
			// processes' sockets.
			{when: []check{{arg: 0, mask: whole, value: unix.AF_NETLINK}, {arg: 2, mask: whole, value: unix.NETLINK_ROUTE}}, do: retAllow},
			// What Go takes for an older kernel.
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET}}, do: errNoProtocol},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_INET6}}, do: errNoProtocol},
			{when: []check{{arg: 0, mask: whole, value: unix.AF_UNIX}}, do: errNoProtocol},
		},
	},
	{
		names: []string{"socketpair"}, otherwise: errNoProtocol, why: "as for socket: also a pair's datagrams can be addressed",
		outcomes: isOneOf(retAllow, 1, socketKind, unix.SOCK_STREAM, unix.SOCK_SEQPACKET),
	},
	modeless(1, "chmod", "fchmod", "creat", "mknod"),
	modeless(2, "fchmodat", "fchmodat2", "mknodat"),
	{
		names: []string{"personality"}, otherwise: errForbidden, why: "the interfaces of other systems are old code that nobody tries; debuggers turn off the randomisation of addresses",
		outcomes: isOneOf(retAllow, 0, whole, 0, 0x8, 0x20000, 0x20008, noRandomize, whole),
	},
}

// ioprioProcess is IOPRIO_WHO_PROCESS.
const ioprioProcess = 1

// firstProcessCalls are what a command in a container may not do to another process. The first one
// there, which ends the sandbox, has the command's user. If it is stopped, or gets no processor,
// the command outlives `postern run`. On Linux no signal stops it, but on gVisor's kernel.
var firstProcessCalls = []checkedCall{
	{
		names:     []string{"sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "prlimit64"},
		otherwise: errForbidden, why: "the first process would get no processor, or no descriptors",
		outcomes: isOneOf(retAllow, 0, whole, 0),
	},
	{
		names: []string{"setpriority"}, otherwise: errForbidden, why: "as for sched_setscheduler",
		outcomes: []outcome{{
			when: []check{{arg: 0, mask: whole, value: unix.PRIO_PROCESS}, {arg: 1, mask: whole}}, do: retAllow,
		}},
	},
	{
		names: []string{"ioprio_set"}, otherwise: errForbidden, why: "as for sched_setscheduler",
		outcomes: []outcome{{
			when: []check{{arg: 0, mask: whole, value: ioprioProcess}, {arg: 1, mask: whole}}, do: retAllow,
		}},
	},
	{
		names:     []string{"pidfd_open"},
		otherwise: retAllow, why: "its descriptor is another name of the first process",
		outcomes: isOneOf(errForbidden, 0, whole, 1),
	},
	{
		names: []string{"kill", "rt_sigqueueinfo"}, otherwise: retAllow,
		why:      "a first process that is ended ends all at once",
		outcomes: isOneOf(errForbidden, 0, whole, 1),
	},
	{
		names: []string{"tgkill", "rt_tgsigqueueinfo"}, otherwise: retAllow, why: "as for kill",
		outcomes: isOneOf(errForbidden, 0, whole, 1),
	},
}

// signalCalls are the calls that send signals. See [stops].
var signalCalls = []checkedCall{
	{names: []string{"kill", "rt_sigqueueinfo"}, otherwise: retAllow, why: "see stops"},
	{names: []string{"tgkill", "rt_tgsigqueueinfo"}, otherwise: retAllow, why: "see stops"},
	{names: []string{"tkill", "pidfd_send_signal"}, otherwise: retAllow, why: "see stops"},
}

// stops returns when a call stops another process, where the command could stop one of ours: the
// gate, or on gVisor's kernel the first process. If these are stopped, nothing ends with `postern
// run`. They handle every signal but SIGSTOP. gVisor takes the number of any thread for its
// process's. It also sends what a child's clone asked for to whoever is the child's parent.
func stops(call string) []outcome {
	const (
		whatEnds = 0xff // the part of clone's flags that is a signal
		setSig   = 10   // F_SETSIG: for what happens to a descriptor, F_SETOWN says to whom
	)
	switch call {
	case "kill", "tkill":
		return isOneOf(errForbidden, 1, whole, uint32(unix.SIGSTOP))
	case "tgkill":
		return isOneOf(errForbidden, 2, whole, uint32(unix.SIGSTOP))
	case "clone":
		return isOneOf(errForbidden, 0, whatEnds, uint32(unix.SIGSTOP))
	case "fcntl":
		return []outcome{{do: errForbidden, when: []check{
			{arg: 1, mask: whole, value: setSig}, {arg: 2, mask: whole, value: uint32(unix.SIGSTOP)},
		}}}
	}
	return nil
}
