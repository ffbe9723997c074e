package inside

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// refusals asks the proxy for what a command has tried in vain, so that the audit log has it, and
// the command's end explains it: connections to ports that no rule names, and what is not TLS. The
// proxy decides on these as on everything else, and refuses them.
type refusals struct {
	fleet *fleet
	mu    sync.Mutex
	told  map[string]bool
}

// mostTold bounds what one command can have told.
const mostTold = 64

// tell asks the proxy, unless what is asked is not new or too much has been told.
func (r *refusals) tell(what string, ask func(l *link)) {
	r.mu.Lock()
	isNew := !r.told[what] && len(r.told) < mostTold
	if isNew {
		r.told[what] = true
	}
	r.mu.Unlock()
	if !isNew {
		return
	}
	if l, err := r.fleet.dial(); err == nil {
		ask(l)
		l.end()
	}
}

// connection tells of a connection to the host and port.
func (r *refusals) connection(authority string) {
	r.tell(authority, func(l *link) { _ = connect(l.UnixConn, authority) }) // it is refused
}

// plain tells of a connection to the host and port that does not begin with TLS.
func (r *refusals) plain(authority string) {
	r.tell("plain "+authority, func(l *link) {
		_ = l.SetDeadline(time.Now().Add(connectTime))
		fmt.Fprintf(l, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", authority)
		_, _ = l.Read(make([]byte, maxAnswer)) // the answer: the event is written then
	})
}

// refused tells of a connection of the command that nobody has taken. What is on the sandbox's own
// addresses is the command's own business.
func (g *gate) refused(ip net.IP, port int) {
	if ip.IsLoopback() || ip.IsUnspecified() || port == 0 {
		return
	}
	host := ip.String()
	if name, ok := g.names.nameOf(ip); ok {
		host = name
	}
	go g.refusals.connection(net.JoinHostPort(host, strconv.Itoa(port)))
}

// mayBeHTTP reports whether what a client sends first may be the beginning of a request: capital
// letters, and a space after them.
func mayBeHTTP(first []byte) bool {
	for i, c := range first {
		if c < 'A' || c > 'Z' {
			return c == ' ' && i > 0
		}
	}
	return true
}
