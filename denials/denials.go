// Package denials says, when an agent's command has ended, what was refused to it and what failed,
// and the command lines that would change that.
package denials

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/advice"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/explain"
	"github.com/postern/postern/plan"
)

const (
	// most bounds what is explained.
	most = 10
	// kept bounds the different troubles that are kept: an agent chooses how many there are.
	kept = 200
	// longest bounds the time that reading a long log may take.
	longest = 3 * time.Second
)

// Command is an agent's command that has ended.
type Command struct {
	// File is the absolute path of the stack file.
	File string
	// Dir has the stack's audit log.
	Dir   string
	Agent string
	// Since is when the command was started.
	Since time.Time
}

// Trouble is a kind of event: the newest one, and how many there were.
type Trouble struct {
	audit.Event
	Times uint64
}

// troubled reports whether the command did not get what it asked for.
func troubled(e *audit.Event) bool {
	switch {
	case e.Verdict == audit.Deny, e.Verdict == audit.Error, e.Reason == plan.ReasonUpstream:
		return accesslog.Advice[e.Reason].Message != ""
	}
	return Refused(e)
}

// Refused reports whether the destination did not accept the credential that was added.
func Refused(e *audit.Event) bool {
	return e.Credential != "" && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden)
}

// Read returns the troubles of the command, the last one first. The log is written after the
// answer: Read waits for the first trouble, at most for patience, and then for a third of patience,
// because a command often ends with the refusal that matters most.
func (c *Command) Read(ctx context.Context, patience time.Duration) []Trouble {
	found := c.read(ctx)
	if patience == 0 {
		return found
	}
	if len(found) == 0 {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := audit.Follow(waiting, c.Dir, c.filter(), func(e audit.Event) error {
			if troubled(&e) {
				return errFound
			}
			return nil
		}); !errors.Is(err, errFound) {
			return nil
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(patience / 3):
	}
	return c.read(ctx)
}

func (c *Command) filter() audit.Filter { return audit.Filter{Agent: c.Agent, Since: c.Since} }

// read returns the troubles that are in the log.
func (c *Command) read(ctx context.Context) []Trouble {
	var found []Trouble
	// What Each returns is that the time is over: what there is, is shown.
	most, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	_ = audit.Each(most, c.Dir, c.filter(), func(e audit.Event) error {
		if !troubled(&e) {
			return nil
		}
		times := max(e.Count, 1)
		i := slices.IndexFunc(found, func(t Trouble) bool { return same(&t.Event, &e) })
		if i >= 0 {
			times += found[i].Times
			found = slices.Delete(found, i, i+1)
		} else if len(found) == kept {
			found = found[1:]
		}
		found = append(found, Trouble{e, times})
		return nil
	})
	slices.Reverse(found)
	return found
}

var errFound = errors.New("found")

func same(a, b *audit.Event) bool {
	return a.Reason == b.Reason && a.Host == b.Host && a.Method == b.Method && a.Path == b.Path && a.Rule == b.Rule &&
		a.Credential == b.Credential && Refused(a) == Refused(b)
}

// Explain writes each of the troubles, at most [most], with what can be done about it.
func (c *Command) Explain(w io.Writer, troubles []Trouble) {
	for i := range troubles {
		if i == most {
			fmt.Fprintf(w, "postern: and %d more: %s\n", len(troubles)-most, c.audit())
			return
		}
		fmt.Fprint(w, c.text(&troubles[i]))
	}
}

// Count writes one line: how often which host was refused to a command that succeeded.
func (c *Command) Count(w io.Writer, troubles []Trouble) {
	var hosts []string
	times := map[string]uint64{}
	for i := range troubles {
		host := printable(troubles[i].Host)
		if host == "" {
			host = "a request without a host"
		}
		host = strings.TrimSuffix(host, ":443")
		if times[host] == 0 {
			hosts = append(hosts, host)
		}
		times[host] += troubles[i].Times
	}
	if len(hosts) == 0 {
		return
	}
	for i, h := range hosts {
		hosts[i] = fmt.Sprintf("%s %d", h, times[h])
	}
	if len(hosts) > most {
		hosts = append(hosts[:most], fmt.Sprintf("and %d more", len(hosts)-most))
	}
	fmt.Fprintf(w, "postern: refused or failed: %s; see: %s\n", strings.Join(hosts, ", "), c.audit())
}

func (c *Command) audit() string {
	return advice.About(c.File, "audit", "--agent", c.Agent, "--denied")
}

// text explains a trouble in one or two lines.
func (c *Command) text(t *Trouble) string {
	message := accesslog.Advice[t.Reason].Message
	if t.Reason == plan.ReasonTLS {
		message = "the client does not trust the sandbox's authority, or left"
	}
	if Refused(&t.Event) {
		message = fmt.Sprintf("%s refused the credential %s (%d)", printable(t.Host), printable(t.Credential), t.Status)
	}
	var about []string
	if t.Times > 1 {
		about = append(about, fmt.Sprintf("%d times", t.Times))
	}
	if t.Rule != "" {
		about = append(about, "rule "+printable(t.Rule)+": "+printable(string(t.Reason)))
	} else {
		about = append(about, printable(string(t.Reason)))
	}
	if t.Reason == plan.ReasonMalformed && t.Detail != "" {
		about = append(about, printable(t.Detail))
	}
	text := fmt.Sprintf("postern: %s: %s (%s)\n", message, request(&t.Event), strings.Join(about, "; "))
	if hint := c.hint(&t.Event); hint != "" {
		text += "  " + hint + "\n"
	}
	return text
}

// request returns what could be read of the request.
func request(e *audit.Event) string {
	what := e.Host
	if e.Method != "CONNECT" {
		what += e.Path
	}
	if what = printable(strings.TrimSpace(e.Method + " " + what)); what == "" {
		return "a request that names no host"
	}
	return what
}

// hint returns what can be done, as lines that can be pasted, or "".
func (c *Command) hint(e *audit.Event) string {
	host, port, ok := pasteable(e.Host)
	r := plan.Request{Agent: e.Agent, Host: host, Port: port, Method: e.Method, Path: e.Path}
	if slices.Contains([]plan.Reason{plan.ReasonMethod, plan.ReasonPath, plan.ReasonCondition}, e.Reason) && ok {
		// Of an allowed repository, only a push asks with another condition.
		if what, line := explain.AllowGit(c.File, r, e.Reason == plan.ReasonCondition); what != "" {
			return "an operator can allow to " + what + ": " + line
		}
	}
	switch {
	case Refused(e):
		return "look at its value where it is kept, then: " + advice.About(c.File, "status")
	case e.Reason == plan.ReasonTLS:
		return "this client has roots of its own: let it read /run/postern/bundle.pem, " +
			"or give the destination mode: tunnel in the stack file, which nothing inspects"
	case e.Reason == plan.ReasonScheme:
		return "only what begins with TLS gets out: use https; for a tunnel, TLS from the first byte " +
			"(Postgres: sslnegotiation=direct); or, in the stack file, gateway: PORT for plain HTTP in the sandbox"
	case e.Reason != plan.ReasonHost && e.Reason != plan.ReasonMethod && e.Reason != plan.ReasonPath:
		where := ""
		if ok {
			where = host
		}
		return accesslog.Hint(e.Reason, accesslog.Words{
			Postern: advice.Postern(), About: " --file " + advice.Path(c.File), Agent: e.Agent, Host: where,
			URL: explain.Quoted("https://" + e.Host + e.Path),
		})
	case !ok:
		return ""
	}
	line, narrow := explain.AllowLine(c.File, r, ""), "an operator can allow it: "
	if e.Method == "" || e.Method == "CONNECT" { // the proxy did not see more
		line, narrow = explain.AllowReading(c.File, r), "an operator can allow reading there: "
	}
	return narrow + line + "   # everything there: without --method and --path"
}

// pasteable returns the host and port of an event, if the host is a name: an agent wrote it, and
// somebody may paste it into a shell.
func pasteable(hostPort string) (host string, port uint16, ok bool) {
	name, number, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", 0, false
	}
	host, err = plan.CanonicalHost(name)
	n, failed := strconv.ParseUint(number, 10, 16)
	return host, uint16(n), err == nil && failed == nil
}

// printable keeps what an agent sent from acting on the operator's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}
