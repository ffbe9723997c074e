package node

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"regexp"
	"strings"

	"golang.org/x/time/rate"
)

// output passes on those of Envoy's messages that are known to contain nothing from an agent, a
// destination or a credential. Envoy writes requests' headers, with the credentials, to standard
// error: at level debug, and at every level when it crashes.
type output struct {
	// mark begins every message of Envoy's logger. Nobody else knows it, so bytes from a request
	// are never taken for a message.
	mark string
	log  *slog.Logger
	// few bounds the lines: an agent must not fill the disk by making Envoy warn.
	few *rate.Limiter
	// unknown counts the lines of an unknown form. many counts the lines that few refused.
	unknown, many int
}

const (
	// maxOutputLine bounds, in bytes, a line that is passed on.
	maxOutputLine = 16 << 10
	// outputRate bounds the lines per second, after the first outputBurst.
	outputRate, outputBurst = 10, 200
)

func newOutput(log *slog.Logger) *output {
	return &output{mark: rand.Text(), log: log, few: rate.NewLimiter(outputRate, outputBurst)}
}

// format is Envoy's --log-format. %j is the message as the content of a JSON
// string, and so on one line.
func (o *output) format() string { return o.mark + " %l %n %j" }

// spoken are the components of Envoy's logger whose warnings and errors are about
// Envoy and its configuration. A message of another component is reported without
// its text.
var spoken = map[string]bool{"admin": true, "config": true, "init": true, "main": true, "runtime": true, "upstream": true}

// crashForms are the messages of component backtrace that are passed on.
var crashForms = []*regexp.Regexp{
	regexp.MustCompile(`^Caught [A-Za-z ]{1,40}, suspect faulting address 0x[0-9a-f]{1,16}$`),
	regexp.MustCompile(`^Envoy version: [0-9a-f]{40}/[0-9.]{1,20}/[A-Za-z/]{1,40}$`),
	regexp.MustCompile(`^#[0-9]{1,3}: .*\[0x[0-9a-f]{1,16}\]$`),
}

// frame matches the part of a backtrace's line that is passed on: not the symbol.
var frame = regexp.MustCompile(`^(#[0-9]{1,3}: ).*(\[0x[0-9a-f]{1,16}\])$`)

// plainForms are the lines that are passed on although Envoy's logger did not write
// them: why the program cannot start, and where the module ended.
var plainForms = []*regexp.Regexp{
	regexp.MustCompile(`^\S{1,200}: error while loading shared libraries: [\w.+-]{1,100}: cannot open shared object file: No such file or directory$`),
	regexp.MustCompile(`^\S{1,200}: \S{1,200}: version .GLIBC\w*_[0-9.]{1,20}. not found \(required by \S{1,200}\)$`),
	regexp.MustCompile(`^PARSE ERROR: Argument: \S{0,100}$`),
	regexp.MustCompile(`^\[signal SIG[A-Z]{1,10}: [a-z ]{1,40} code=0x[0-9a-f]{1,8} addr=0x[0-9a-f]{1,16} pc=0x[0-9a-f]{1,16}\]$`),
	regexp.MustCompile(`^goroutine [0-9]{1,10} .{0,20}\[[a-z ]{1,40}(, locked to thread)?\]:$`),
	regexp.MustCompile(`^\t/[\w./@+-]{1,200}\.(go|c):[0-9]{1,6}( \+0x[0-9a-f]{1,8})?$`),
}

// copy reads until r ends.
func (o *output) copy(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxOutputLine)
	for {
		line, err := lines.ReadSlice('\n')
		whole := err == nil
		for err == bufio.ErrBufferFull { //nolint:errorlint // ReadSlice returns it as it is
			_, err = lines.ReadSlice('\n')
		}
		if text := strings.TrimSuffix(string(line), "\n"); whole || err != nil && text != "" {
			o.line(text, whole)
		}
		if err != nil {
			break
		}
	}
	if o.unknown+o.many > 0 {
		o.log.Warn("left out lines of Envoy's output", "of an unknown form, so they may contain a request", o.unknown, "too many at once", o.many)
	}
}

// line passes on one line, if it may be. A line that is not whole was cut off.
func (o *output) line(text string, whole bool) {
	rest, ours := strings.CutPrefix(text, o.mark+" ")
	if !ours {
		for _, form := range plainForms {
			if whole && form.MatchString(text) {
				o.say(slog.LevelError, "", text)
				return
			}
		}
		o.unknown++
		return
	}
	fields := strings.SplitN(rest, " ", 3)
	if len(fields) != 3 {
		o.unknown++
		return
	}
	level, ok := map[string]slog.Level{"warning": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError}[fields[0]]
	if !ok {
		o.unknown++ // somebody has raised Envoy's level: such messages have headers
		return
	}
	component, message := fields[1], ""
	if !whole || json.Unmarshal([]byte(`"`+fields[2]+`"`), &message) != nil {
		message = ""
	}
	switch {
	case component == "backtrace":
		if !safeCrash(message) {
			return
		}
		message = frame.ReplaceAllString(message, "$1$2")
	case !spoken[component]:
		message = ""
	}
	o.say(level, component, message)
}

func safeCrash(message string) bool {
	for _, form := range crashForms {
		if form.MatchString(message) {
			return true
		}
	}
	return false
}

func (o *output) say(level slog.Level, component, message string) {
	if !o.few.Allow() {
		o.many++
		return
	}
	if message == "" {
		message = "withheld: it may contain a request"
	}
	o.log.Log(context.Background(), level, "envoy says", "component", component, "message", message)
}
