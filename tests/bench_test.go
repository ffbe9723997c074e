package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/fleet"
)

// median of durations, in seconds.
func median(ds []time.Duration) float64 {
	slices.Sort(ds)
	return ds[len(ds)/2].Seconds()
}

// timed is how long a command takes that must succeed.
func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", out)
	return time.Since(start)
}

// BenchmarkAllow is the time of a whole `postern allow`: edit, publish, and
// converge on two nodes. Its baseline is the same change brought by `up`.
func BenchmarkAllow(b *testing.B) {
	p := newPath(b)
	var allow, up, converge []time.Duration
	i := 0
	for b.Loop() {
		i++
		host := fmt.Sprintf("new%d.test", i)
		start := time.Now()
		out := p.ok(p.postern("allow", host, "--agent", "demo", "--yes"))
		allow = append(allow, time.Since(start))
		var version string
		var live, all int
		var millis float64
		_, err := fmt.Sscanf(out[lastLine(out):], "version %s live on %d/%d nodes after %f ms", &version, &live, &all, &millis)
		require.NoError(b, err, out)
		converge = append(converge, time.Duration(millis*float64(time.Millisecond)))

		p.edit("allow: [echo", fmt.Sprintf("allow: [echo, up%d", i))
		p.edit("agents:", fmt.Sprintf("  up%d: {host: up%d.test}\nagents:", i, i))
		up = append(up, timed(b, p.command("up", "local", "--yes")))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(allow)/median(up), "x-up")
	b.ReportMetric(median(allow)*1000, "ms-allow")
	b.ReportMetric(median(up)*1000, "ms-up")
	b.ReportMetric(median(converge)*1000, "ms-converge")
}

func lastLine(s string) int {
	for i := len(s) - 2; i >= 0; i-- {
		if s[i] == '\n' {
			return i + 1
		}
	}
	return 0
}

// BenchmarkRun is what `postern run` takes beyond the bare `bwrap`, turn by turn: time, and CPU of the
// command with all that it starts. The command does nothing, in folders of several sizes, or has many
// small files. The goal for the first is at most 15 ms.
func BenchmarkRun(b *testing.B) {
	p := newPath(b)
	const files = "for i in $(seq 1000); do echo $i > f$i; done; cat f* > /dev/null; rm f*"
	for _, c := range []struct {
		name, command   string
		files, packages int
	}{
		{name: "true", command: "true"},
		{name: "true/files=2000", command: "true", files: 2000},
		{name: "true/files=50000", command: "true", files: 10000, packages: 40000},
		{name: "files", command: files},
	} {
		b.Run(c.name, func(b *testing.B) {
			work := filepath.Join(p.dir, fmt.Sprint("work", c.files))
			project(b, work, "src", c.files)
			project(b, work, "node_modules", c.packages)
			cpu := func(cmd *exec.Cmd) time.Duration {
				return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			var ours, plain, more, used []time.Duration
			for b.Loop() {
				bare := exec.CommandContext(b.Context(), "bwrap", "--unshare-all", "--die-with-parent",
					"--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
					"--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
					"--bind", work, work, "--chdir", work, "sh", "-c", c.command)
				plain = append(plain, timed(b, bare))
				run := exec.CommandContext(b.Context(), postern(b),
					"run", "--file", p.stackFile(), "--agent", "demo", "--", "sh", "-c", c.command)
				run.Dir, run.Env = work, p.environ
				ours = append(ours, timed(b, run))
				more = append(more, ours[len(ours)-1]-plain[len(plain)-1])
				used = append(used, cpu(run)-cpu(bare))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(more)*1000, "ms-more")
			b.ReportMetric(median(used)*1000, "cpu-ms-more")
			b.ReportMetric(median(ours)/median(plain), "x-bwrap")
			b.ReportMetric(median(ours)*1000, "ms-run")
			b.ReportMetric(median(plain)*1000, "ms-bwrap")
		})
	}
}

// project makes the folder, with so many small files in a part of it, 20 in each folder.
func project(b *testing.B, dir, part string, files int) {
	b.Helper()
	require.NoError(b, os.MkdirAll(dir, 0o700))
	for i := range files {
		in := filepath.Join(dir, part, fmt.Sprint("p", i/20))
		require.NoError(b, os.MkdirAll(in, 0o700))
		require.NoError(b, os.WriteFile(filepath.Join(in, fmt.Sprint("f", i, ".go")), []byte("package p\n"), 0o600))
	}
}

var buildEmpty = fleet.Built("empty", "./tests/testdata/empty")

// BenchmarkStart is the time of `postern --help` beyond that of a Go program that does nothing, turn by
// turn: what every command waits for before it does anything. The goal is at most 10 ms.
func BenchmarkStart(b *testing.B) {
	empty, err := buildEmpty()
	require.NoError(b, err)
	program := postern(b)
	var ours, nothing, more []time.Duration
	for b.Loop() {
		nothing = append(nothing, timed(b, exec.CommandContext(b.Context(), empty)))
		ours = append(ours, timed(b, exec.CommandContext(b.Context(), program, "--help")))
		more = append(more, ours[len(ours)-1]-nothing[len(nothing)-1])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(more)*1000, "ms-more")
	b.ReportMetric(median(ours)*1000, "ms-postern")
	b.ReportMetric(median(nothing)*1000, "ms-empty")
}
