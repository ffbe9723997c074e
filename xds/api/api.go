// Package api is the control plane's operator API: what the CLI and the
// Pulumi provider say to a running `posternd control` over its Unix socket,
// as JSON over HTTP. The socket's file mode (0600) is the authentication.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
)

// Status is the state of the fleet at one moment.
type Status struct {
	Stack string `json:"stack"`
	// Version is the live plan's version, "" before the first.
	Version string `json:"version"`
	// Wanted is the version that is being rolled out, or Version.
	Wanted string `json:"wanted"`
	// Seq is the number of the live publication.
	Seq uint64 `json:"seq"`
	// Killed are the agents that an operator has stopped.
	Killed []string `json:"killed,omitempty"`
	// Rejected is the last version that a node refused, or nil.
	Rejected *Rejection `json:"rejected,omitempty"`
	// PID of the control plane.
	PID int `json:"pid"`
	// Refused counts, by reason, the connections and joins of machines that are
	// not nodes of this stack, since the control plane started.
	Refused map[string]uint64 `json:"refused,omitempty"`
	// RefusedNodes are the nodes that were recently refused. Such a node still serves the version
	// that it had.
	RefusedNodes []RefusedNode `json:"refused_nodes,omitempty"`
	Nodes        []Node        `json:"nodes"`
	Credentials  []Credential  `json:"credentials,omitempty"`
	// Published are the ports of this machine that lead into sandboxes.
	Published []Published `json:"published,omitempty"`
	// Problem says why the control plane does not serve the newest publication, and what to do. It
	// is "" if it serves it.
	Problem string `json:"problem,omitempty"`
	// Replica is the name of the control plane that answers, "" if it is the
	// only one of its stack.
	Replica string `json:"replica,omitempty"`
	// Replicas are all replicas, this one included, as they report to the store.
	Replicas []Replica `json:"replicas,omitempty"`
}

// Live returns the number of nodes that serve the live version.
func (s *Status) Live() int {
	n := 0
	for _, node := range s.Nodes {
		if node.Connected && node.Version == s.Version && node.Problem == "" {
			n++
		}
	}
	return n
}

// Replica is the report of one of several control planes.
type Replica struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// Seq is the number of the publication that its nodes have acknowledged,
	// and Version that one's plan.
	Seq     uint64 `json:"seq"`
	Version string `json:"version"`
	// Nodes is the number of nodes that the replica accepts. Connected is the number of nodes with
	// a stream to it.
	Nodes     int `json:"nodes"`
	Connected int `json:"connected"`
	// Failed is the number of a publication that its nodes did not take, or 0.
	Failed uint64 `json:"failed,omitempty"`
	// FailedHash is the hash of that publication. Another may have its number by now.
	FailedHash string `json:"failed_hash,omitempty"`
	Problem    string `json:"problem,omitempty"`
	// Hash is the hash of the signed object of publication Seq.
	Hash string `json:"hash,omitempty"`
	// Removed says when nodes were removed, here or at another replica. It lists nodes whose
	// certificates may still be valid.
	Removed map[string]time.Time `json:"removed,omitempty"`
	// Fleet lists accepted nodes as far as there is room, nodes with trouble first. It leaves out
	// the times of their acknowledgements.
	Fleet []Node `json:"fleet,omitempty"`
	// Rejected and Credentials are as in the replica's Status.
	Rejected    *Rejection   `json:"rejected,omitempty"`
	Credentials []Credential `json:"credentials,omitempty"`
	// Stale means that it has not reported for so long that it counts as gone.
	Stale bool `json:"stale,omitempty"`
}

// Node is what the control plane knows about one node.
type Node struct {
	ID        string `json:"id"`
	Connected bool   `json:"connected"`
	// Since is the time at which the node connected or was lost. It is zero if the node has not
	// connected since the control plane started.
	Since time.Time `json:"since,omitzero"`
	// Streams is the number of the node's streams. More than one means that another process uses
	// its ID.
	Streams int `json:"streams,omitempty"`
	// Version is the newest version of which the node has acknowledged
	// every resource, or "".
	Version string `json:"version"`
	// Problem says why a connected node does not serve its agents. It is "" if the node serves
	// them, or is on another machine.
	Problem string `json:"problem,omitempty"`
	// Joined is set for a node that is part of the stack by its certificate
	// alone: it leaves the list when it has been away for an hour.
	Joined bool `json:"joined,omitempty"`
	// LastAck and LastNack are zero if there was none.
	LastAck  time.Time `json:"last_ack,omitzero"`
	LastNack time.Time `json:"last_nack,omitzero"`
	// Nack is Envoy's own message of the last refusal.
	Nack string `json:"nack,omitempty"`
	// Types says, per resource type, what the node has acknowledged.
	Types []Type `json:"types,omitempty"`
}

// recordAgain is the time between two attempts to have a control plane record published ports.
const recordAgain = time.Second

// Published says which ports of this machine lead into the sandbox of one command, and which tools
// the command has outside.
type Published struct {
	Agent string `json:"agent"`
	// Tools are the names of the tools.
	Tools []string `json:"tools,omitempty"`
	// Addresses are those that are listened on, such as 127.0.0.1:3000.
	Addresses []string  `json:"addresses"`
	Since     time.Time `json:"since,omitzero"`
}

// RefusedNode is a node that the control plane does not serve.
type RefusedNode struct {
	// ID is the name that the node gave.
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Type is one node's record for one xDS resource type.
type Type struct {
	// URL is the short name: "secrets", "clusters", "scopes", "listeners".
	Name    string    `json:"name"`
	Version string    `json:"version"`
	AckedAt time.Time `json:"acked_at,omitzero"`
	Nack    string    `json:"nack,omitempty"`
}

// Credential is the state of one credential's secret. Never its value.
type Credential struct {
	Name string `json:"name"`
	// OK is false if the secret is unavailable. Its routes then fail closed.
	OK bool `json:"ok"`
	// Problem says why OK is false, and what to do. If OK is true, it says why OK will soon be
	// false, or why the value may be out of date.
	Problem string `json:"problem,omitempty"`
	// Source is the kind of place it comes from: the scheme of its URL.
	Source string `json:"source,omitempty"`
	// Version names the value in use without revealing anything of it: the source's own ID, or a
	// salted hash. For a minted token it is the version of the secret.
	Version string `json:"version,omitempty"`
	// Since is the time at which this version came into use. Troubled is the time at which the
	// problem began. Either may be zero.
	Since    time.Time `json:"since,omitzero"`
	Troubled time.Time `json:"troubled,omitzero"`
}

// Rejection is a version that the fleet did not take.
type Rejection struct {
	Version string `json:"version"`
	Node    string `json:"node"`
	// Type is the short name of the resource type.
	Type string `json:"type"`
	// Message is Envoy's own.
	Message string `json:"message"`
	// Rules are the IDs of the rules that the message is about, or, if it tells
	// no more, Agents the agents. Both may be empty.
	Rules  []string `json:"rules,omitempty"`
	Agents []string `json:"agents,omitempty"`
}

func (r *Rejection) Error() string {
	return fmt.Sprintf("node %s rejected %s of version %s: %s", r.Node, r.Type, r.Version, r.Message)
}

// Converged is the answer to Sync.
type Converged struct {
	// Seq is the publication's number.
	Seq     uint64 `json:"seq,omitempty"`
	Version string `json:"version"`
	// Nodes is the number of nodes that have acknowledged all of Version.
	Nodes int `json:"nodes"`
	// Millis is the time that this took, in milliseconds.
	Millis float64 `json:"millis"`
	// Missing are the nodes of the stack that are not connected. They take
	// the version when they are back.
	Missing []Missing `json:"missing,omitempty"`
	// Confirmed are the names of the nodes that have acknowledged all of Version.
	Confirmed []string `json:"confirmed,omitempty"`
	// Late names a connected node that had not acknowledged in time, for a publication that stays
	// all the same. It is "" if all have acknowledged.
	Late string `json:"late,omitempty"`
	// Unkept is the reason why the control plane could not save what it serves, or "" if it has
	// saved it. The control plane tries until it can.
	Unkept string `json:"unkept,omitempty"`
}

// Imposed is a publication that is never taken back, such as a kill, with its mark:
// both as they were signed.
type Imposed struct {
	Publication []byte `json:"publication"`
	Mark        []byte `json:"mark"`
}

// Missing is a node that is not connected.
type Missing struct {
	Node string `json:"node"`
	// Since is the time at which the node was lost. It is zero if the node has not connected since
	// the control plane started.
	Since time.Time `json:"since,omitzero"`
}

// Error is a refusal by the control plane.
type Error struct {
	Message string `json:"message"`
	// Rejection is set if a node refused the version; the previous one is live again.
	Rejection *Rejection `json:"rejection,omitempty"`
	// Cause is not told to others.
	Cause error `json:"-"`
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// Client talks to the control plane behind one socket. It may be used by
// several goroutines at once.
type Client struct {
	socket string
	http   *http.Client
}

// Dial returns a client for the control plane that listens on the Unix socket.
// It does not connect yet.
func Dial(socket string) *Client {
	dialer := &net.Dialer{}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

// Bounds of waiting. A healthy control plane answers at once, and waits only for its nodes.
const (
	// SyncTimeout bounds a roll-out, including taking it back.
	SyncTimeout = 40 * time.Second
	// ImposeTimeout bounds the wait for the nodes with a publication that is never taken back, such
	// as a kill. If the nodes do not answer, whoever kills has more to do.
	ImposeTimeout = 8 * time.Second
	// WatchTimeout bounds a client's wait for a change, after which it is told that there was none.
	WatchTimeout = 30 * time.Second
	// answerTimeout bounds everything else.
	answerTimeout = 5 * time.Second
	// margin is the time that the answer itself may take.
	margin = 2 * time.Second
	// patience is the time that a person waits without a message.
	patience = time.Second
)

// HungError means that the control plane is there and does not answer.
type HungError struct {
	Socket string
	After  time.Duration
}

func (e *HungError) Error() string {
	return fmt.Sprintf("the control plane at %s is there, but has not answered for %s: it hangs, or is stopped",
		e.Socket, e.After)
}

type progressKey struct{}

// WithProgress makes clients report what they wait for, if a request with ctx takes longer than a
// second.
func WithProgress(ctx context.Context, say func(string)) context.Context {
	return context.WithValue(ctx, progressKey{}, say)
}

type logKey struct{}

// WithLog makes clients write a line for each request that is made with ctx:
// method, path and how long it took. Never a body: a value could be in it.
func WithLog(ctx context.Context, log *slog.Logger) context.Context {
	return context.WithValue(ctx, logKey{}, log)
}

// Status returns the state of the fleet.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Watch calls each with the state of the fleet now, and again whenever it has
// changed, until ctx is done (it then returns nil) or an error. Changes that
// come within a few milliseconds may be told as one.
func (c *Client) Watch(ctx context.Context, each func(*Status) error) error {
	for tag := ""; ; {
		var s Status
		next, err := c.exchange(ctx, WatchTimeout+margin, http.MethodGet, "/v1/status?wait="+url.QueryEscape(tag), nil,
			&s)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if next == "" {
			return errors.New("the answer of the control plane has no ETag, so its state cannot be watched: run `go " +
				"run . up`, which starts the control plane of this version")
		}
		if next == tag {
			continue // nothing has changed for a while
		}
		tag = next
		if err := each(&s); err != nil {
			return err
		}
	}
}

// Sync makes the control plane read the bundle store now and returns when
// every connected node has acknowledged all of the version found there. If a
// node refuses it, or ctx or the control plane's own timeout (30 s) ends first,
// the version that was live before stays live and the error is an [*Error].
func (c *Client) Sync(ctx context.Context) (*Converged, error) {
	var v Converged
	return &v, c.callWithin(ctx, SyncTimeout+margin, http.MethodPost, "/v1/sync", nil, &v)
}

// Impose makes the control plane take a proven publication, whether or not the store has it. It
// answers after at most [ImposeTimeout], with what was reached until then. Nothing is taken back.
func (c *Client) Impose(ctx context.Context, p Imposed) (*Converged, error) {
	var v Converged
	return &v, c.callWithin(ctx, ImposeTimeout+margin, http.MethodPost, "/v1/impose", p, &v)
}

// Live returns the signed publication that the control plane serves if its number is higher than
// after, and otherwise nil.
func (c *Client) Live(ctx context.Context, after uint64) ([]byte, error) {
	var sealed []byte
	err := c.call(ctx, http.MethodGet, "/v1/bundle?after="+strconv.FormatUint(after, 10), nil, &sealed)
	return sealed, err
}

// Called says that a run begins or has ended a call of a tool of the operator's own.
type Called struct {
	Agent string `json:"agent"`
	Tool  string `json:"tool"`
	// Digest is that of the tool as the run has it.
	Digest string `json:"digest"`
	// Ended says how the call has ended. "" means that it begins.
	Ended string `json:"ended,omitempty"`
}

// Called makes the control plane record a call. An error means that no call may begin: the agent is
// killed, or what is live has another tool of that name or none, or the event cannot be written.
func (c *Client) Called(ctx context.Context, call Called) error {
	return c.call(ctx, http.MethodPost, "/v1/called", call, nil)
}

// StatusCut is the answer to a report of the ports of an agent that is killed.
const StatusCut = http.StatusForbidden

var errCut = errors.New("the agent is killed, so no port may lead to it, and it has no tools")

// Published makes the control plane record the ports, and returns once it has. They count as closed
// when ctx is done. Until then it makes a control plane that was started again record them, too.
// Once the agent is killed it calls cut, which has to close the ports, and no port of a killed agent
// is recorded.
func (c *Client) Published(ctx context.Context, p Published, cut func()) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode published ports: %w", err)
	}
	recorded, err := c.published(ctx, body)
	if err != nil {
		return err
	}
	go func() {
		for {
			_, _ = io.Copy(io.Discard, recorded) // until the control plane or ctx ends
			recorded.Close()
			for wait := recordAgain / 100; ; wait = recordAgain { // the first time it may be for a kill
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
				recorded, err = c.published(ctx, body)
				if errors.Is(err, errCut) {
					cut()
					return
				}
				if err == nil {
					break
				}
			}
		}
	}()
	return nil
}

// published is Published for one control plane. Its answer ends when the control plane does, or when
// ctx is done.
func (c *Client) published(ctx context.Context, body []byte) (io.ReadCloser, error) {
	waiting, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(answerTimeout, cancel)
	const url = "http://control/v1/published"
	req, err := http.NewRequestWithContext(waiting, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("build request: %w", err)
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // it is held until ctx is done
	switch {
	case !late.Stop():
		cancel()
		return nil, &HungError{Socket: c.socket, After: answerTimeout}
	case err != nil:
		cancel()
		return nil, fmt.Errorf("reach the control plane at %s: %w", c.socket, err)
	case resp.StatusCode == StatusCut:
		cancel()
		return nil, errCut
	case resp.StatusCode/100 != 2:
		cancel()
		return nil, &Error{Message: "the control plane did not record the published ports: " + resp.Status}
	}
	context.AfterFunc(ctx, cancel)
	return resp.Body, nil
}

// AddNode makes the control plane accept the node. It is idempotent.
func (c *Client) AddNode(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPut, "/v1/nodes/"+id, nil, nil)
}

// RemoveNode makes the control plane refuse the node from now on. It is idempotent.
func (c *Client) RemoveNode(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/nodes/"+id, nil, nil)
}

// Differing returns which of the environment variables have another value in
// the control plane. The values go no further than its memory.
func (c *Client) Differing(ctx context.Context, environment map[string]string) ([]string, error) {
	var names []string
	err := c.call(ctx, http.MethodPost, "/v1/environment", environment, &names)
	return names, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	return c.callWithin(ctx, answerTimeout, method, path, in, out)
}

func (c *Client) callWithin(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	_, err := c.exchange(ctx, limit, method, path, in, out)
	return err
}

// exchange makes one request, and returns the tag of the answer.
func (c *Client) exchange(ctx context.Context, limit time.Duration, method, path string, in,
	out any,
) (tag string, err error) {
	hung := &HungError{Socket: c.socket, After: limit}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, hung)
	defer cancel()
	if say, ok := ctx.Value(progressKey{}).(func(string)); ok && limit < WatchTimeout {
		late := time.AfterFunc(patience, func() {
			say(fmt.Sprintf("waiting for the control plane at %s to answer, for %s at most", c.socket, limit))
		})
		defer late.Stop()
	}

	body, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("encode %s %s: %w", method, path, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("build %s %s: %w", method, path, err)
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	began := time.Now()
	resp, err := c.http.Do(req)
	if log, ok := ctx.Value(logKey{}).(*slog.Logger); ok {
		log.Debug("control plane", "method", method, "path", path, "millis", time.Since(began).Milliseconds(), "error",
			err)
	}
	if errors.Is(context.Cause(ctx), hung) {
		return "", hung
	}
	if err != nil {
		return "", fmt.Errorf("reach the control plane at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	b, err := readAnswer(resp.Body, maxAnswer)
	if errors.Is(context.Cause(ctx), hung) {
		return "", hung
	}
	if err != nil {
		return "", fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		e := &Error{}
		if json.Unmarshal(b, e) != nil || e.Message == "" {
			e.Message = strings.TrimSpace(string(b))
		}
		return "", e
	}
	tag = resp.Header.Get("ETag")
	if out == nil {
		return tag, nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return "", fmt.Errorf("decode the answer to %s %s: %w", method, path, err)
	}
	return tag, nil
}
