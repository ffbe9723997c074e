package sandbox

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The list of system calls is right if what agents use works. Each script ends
// with the line ok, and fails where something is missing.
func TestProgramsWork(t *testing.T) {
	t.Parallel()
	scripts := map[string]string{
		"git":      `git init -q r && cd r && git config user.email a@b.test && git config user.name a && echo x > f && git add f && git commit -qm x && git gc -q && git clone -q . ../c && test -f ../c/f`,
		"debugger": `printf 'int main(){volatile int x=42;return x-42;}' > d.c && gcc -g -o d d.c && gdb -batch -ex 'break main' -ex run -ex next -ex bt -ex continue ./d > gdb.out 2>&1; grep -q 'Breakpoint 1, main' gdb.out || { cat gdb.out; false; }`,
		"tracer":   `strace -f -o trace true && grep -q execve trace`,
		"go": `printf 'package main
func main(){}
' > m.go && gofmt -l m.go && go env GOROOT >/dev/null && GOTOOLCHAIN=local go list std >/dev/null`,
		"python": `cat > p.py <<'E'
import multiprocessing as m, threading, socket, tempfile, os, asyncio, subprocess, sqlite3, mmap, select, resource
def f(x): return x * x
if __name__ == "__main__":
    with m.get_context("fork").Pool(2) as p: assert p.map(f, range(4)) == [0, 1, 4, 9]
    with m.get_context("forkserver").Manager() as mg:
        d = mg.dict(); d["x"] = 1; assert d["x"] == 1
    a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
    async def main():
        s = await asyncio.start_unix_server(lambda r, w: w.close(), path="py.sock")
        r, w = await asyncio.open_unix_connection("py.sock"); await r.read(); s.close()
        p = await asyncio.create_subprocess_exec("true"); await p.wait()
        await asyncio.to_thread(lambda: None)
    asyncio.run(main())
    c = sqlite3.connect("x.db"); c.execute("pragma journal_mode=wal"); c.execute("create table t(x)"); c.commit()
    assert socket.getaddrinfo("localhost", 80)
    socket.if_nameindex()
E
/usr/bin/python3 p.py`,
		"node": `node -e '
const cp = require("child_process"), net = require("net"), wt = require("worker_threads"), os = require("os"), fs = require("fs"), assert = require("assert");
os.networkInterfaces(); fs.watch("."); cp.execSync("true"); setTimeout(() => process.exit(3), 20000).unref();
const s = net.createServer(c => c.end("x")).listen("node.sock", () => net.connect("node.sock").on("data", d => {
  const w = new wt.Worker("require(\"worker_threads\").parentPort.postMessage(1)", {eval: true});
  w.on("message", () => { fs.writeFileSync("k.js", "process.send(1); process.disconnect()"); const k = cp.fork("./k.js"); k.on("message", () => { s.close(); process.exitCode = 0; setTimeout(() => process.exit(0), 50) }) });
}));'`,
		"java":  `printf 'public class P { public static void main(String[] a) throws Exception { Thread t = new Thread(() -> {}); t.start(); t.join(); new ProcessBuilder("true").start().waitFor(); java.net.NetworkInterface.getNetworkInterfaces(); new java.net.ServerSocket(0).close(); } }' > P.java && java P.java`,
		"shell": `set -e; tar cf a.tar /usr/share/doc/bash 2>/dev/null || true; mkdir -p t && tar xf a.tar -C t; cp -a t u; rm -r t; find u -type f | xargs -P4 -n1 cat >/dev/null; mkfifo p; (echo x > p &) ; cat p; chmod 755 a.tar; chmod +t u; install -m 755 a.tar b.tar; flock a.tar true; timeout 5 true; nice true; setsid true; mktemp >/dev/null; ip addr >/dev/null`,
		"perl":  `perl -e 'use Socket; socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die $!; my $c = fork // die; exit 0 unless $c; waitpid $c, 0; use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local=>"perl.sock", Listen=>1) or die $!;'`,
	}
	eachCaller(t, func(t *testing.T, b *box) {
		for name, script := range scripts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := newBox(t, b.uid)
				out, status := b.run(t, "sh", "-c", script+"\n status=$?; [ $status = 0 ] && echo ok; exit $status")
				require.Zero(t, status, "%s", out)
				require.Contains(t, out, "ok\n")
			})
		}
	})
}
