package dataplane

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// newTalker starts an HTTP/1.1 server for the hosts: of events without end, or of
// WebSockets that echo.
func newTalker(t *testing.T, f *fleet.Fleet, hosts ...string) *plan.Upstream {
	t.Helper()
	path := filepath.Join(f.Home.Root, "talker.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	m := http.NewServeMux()
	m.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	m.Handle("/socket", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	s := &http.Server{
		Handler: m, ReadHeaderTimeout: time.Minute,
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, hosts...)}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)}
}

// talk is a connection of an agent to the talker, over one way in.
type talk struct {
	net.Conn
	r *bufio.Reader
}

// connect makes the way to host: through CONNECT, with TLS to whom ca is, or, if
// host is "", plain to a gateway.
func connect(t *testing.T, f *fleet.Fleet, agent, host string, ca *fleet.CA) *talk {
	t.Helper()
	c, err := f.Dial("n1", agent)(t.Context(), "", "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	if host != "" {
		_, err = fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host)
		require.NoError(t, err)
		answer := make([]byte, len("HTTP/1.1 200 OK"))
		_, err = io.ReadFull(c, answer)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200 OK", string(answer))
		for end := []byte{}; !bytes.HasSuffix(end, []byte("\r\n\r\n")); {
			one := make([]byte, 1)
			_, err = c.Read(one)
			require.NoError(t, err)
			end = append(end, one...)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca.PEM)
		c = tls.Client(c, &tls.Config{ServerName: host, RootCAs: pool, NextProtos: []string{"http/1.1"}})
	}
	return &talk{Conn: c, r: bufio.NewReader(c)}
}

// ask sends a request and reads the head of the answer.
func (k *talk) ask(t *testing.T, host, path, more, status string) {
	t.Helper()
	_, err := fmt.Fprintf(k, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, host, more)
	require.NoError(t, err)
	for first := true; ; first = false {
		line, err := k.r.ReadString('\n')
		require.NoError(t, err)
		if first {
			require.Contains(t, line, status)
		}
		if line == "\r\n" {
			return
		}
	}
}

const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " +
	"AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: https://talk.test\r\n"

// echo sends a frame and waits for its echo: a masked "x" (RFC 6455, section 5.2).
func (k *talk) echo(t *testing.T) {
	t.Helper()
	_, err := k.Write([]byte{0x81, 0x81, 0, 0, 0, 0, 'x'})
	require.NoError(t, err)
	b := make([]byte, 3)
	_, err = io.ReadFull(k.r, b)
	require.NoError(t, err)
	require.Equal(t, []byte{0x81, 1, 'x'}, b)
}

// requireOpen requires that nobody has ended the connection.
func (k *talk) requireOpen(t *testing.T) {
	t.Helper()
	require.NoError(t, k.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := io.Copy(io.Discard, k.r)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, k.SetReadDeadline(time.Time{}))
}

func (k *talk) requireCut(t *testing.T) {
	t.Helper()
	require.NoError(t, k.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := io.Copy(io.Discard, k.r)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it goes on")
}

// TestEverythingOpenIsCut: whatever an agent may have open ends
// when the agent is killed or loses something; when it gains, nothing does.
func TestEverythingOpenIsCut(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	talker := newTalker(t, f, "talk.test", "tunnel.test")
	rules := func(agent string) []plan.Rule {
		r := func(id, host string) plan.Rule {
			return plan.Rule{
				ID: agent + "/" + id, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath},
				Upstream: talker,
			}
		}
		all := []plan.Rule{r("talk", "talk.test"), r("tunnel", "tunnel.test")}
		all[0].Gateway = 8080
		all[1].Mode, all[1].Methods, all[1].Paths = plan.ModeTunnel, nil, nil
		return all
	}
	with := func(change func(r []plan.Rule) []plan.Rule) *plan.Plan {
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{
			{Name: "a", Rules: change(rules("a"))}, {Name: "b", Rules: rules("b")},
		}}
	}
	none := with(func(r []plan.Rule) []plan.Rule { return r })
	open := func(agent string) map[string]*talk {
		all := map[string]*talk{
			"events": connect(t, f, agent, "talk.test", f.CA), "socket": connect(t, f, agent, "talk.test", f.CA),
			"tunnel": connect(t, f, agent, "tunnel.test", f.UpstreamCA), "gateway": connect(t, f, agent, "", nil),
			"gateway socket": connect(t, f, agent, "", nil),
		}
		all["events"].ask(t, "talk.test", "/events", "", " 200 ")
		all["tunnel"].ask(t, "tunnel.test", "/socket", upgrade, " 101 ")
		all["socket"].ask(t, "talk.test", "/socket", upgrade, " 101 ")
		all["gateway"].ask(t, "localhost:8080", "/events", "", " 200 ")
		all["gateway socket"].ask(t, "localhost:8080", "/socket", upgrade, " 101 ")
		for _, name := range []string{"socket", "tunnel", "gateway socket"} {
			all[name].echo(t)
		}
		return all
	}
	f.MustPublish(none)
	others := open("b")
	for name, end := range map[string]func(){
		"narrowed": func() {
			f.MustPublish(with(func(r []plan.Rule) []plan.Rule {
				return append(r, plan.Rule{
					ID: "a/no", Deny: true, Host: "no.test", Port: 443, Methods: []string{plan.AnyMethod},
					Paths: []string{plan.AnyPath},
				})
			}))
		},
		"killed": func() {
			_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
			require.NoError(t, err)
		},
	} {
		mine := open("a")
		f.MustPublish(with(func(r []plan.Rule) []plan.Rule {
			r[0].Methods, r[0].Reason = []string{"GET", "POST"}, "more of it"
			return append(r, plan.Rule{
				ID: "a/more", Host: "more.test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath},
			})
		}))
		for kind, k := range mine {
			t.Log("widened", kind)
			k.requireOpen(t)
		}
		end()
		for kind, k := range mine {
			t.Log(name, kind)
			k.requireCut(t)
		}
		if name == "killed" {
			_, err := f.Operator().Unkill(t.Context(), bundle.Killed{Agents: []string{"a"}})
			require.NoError(t, err)
		}
	}
	for _, kind := range []string{"socket", "tunnel", "gateway socket"} {
		others[kind].echo(t)
	}
	for _, k := range others {
		k.requireOpen(t)
	}
}
