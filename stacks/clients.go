package stacks

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/stacks/clients"
)

// ClientHosts asks a package client of this machine which hosts it is configured to talk to: see
// [clients.URLs].
func ClientHosts(ctx context.Context, client string) ([]HostPort, error) {
	urls, err := clients.URLs(ctx, client)
	if err != nil {
		return nil, err
	}
	var hosts []HostPort
	for _, u := range urls {
		hp, err := hostOf(u)
		if err != nil {
			return nil, fmt.Errorf("ask %s for its hosts: %w", client, err)
		}
		if !slices.Contains(hosts, hp) {
			hosts = append(hosts, hp)
		}
	}
	return hosts, nil
}

// clientAnswers holds the answers of clients such as pip. Each is asked once for a file, because an
// edit compiles the file several times.
type clientAnswers struct {
	mu   sync.Mutex
	said map[string]clientAnswer
}

type clientAnswer struct {
	hosts []HostPort
	err   error
}

// clientPatience bounds how long a package client may take to answer.
const clientPatience = 30 * time.Second

// hostsOf returns the hosts of a package client.
func (f *File) hostsOf(client string) ([]HostPort, error) {
	f.clients.mu.Lock()
	defer f.clients.mu.Unlock()
	a, ok := f.clients.said[client]
	if !ok {
		ctx, cancel := context.WithTimeout(context.Background(), clientPatience)
		defer cancel()
		a.hosts, a.err = f.Ask(ctx, client)
		if f.clients.said == nil {
			f.clients.said = map[string]clientAnswer{}
		}
		f.clients.said[client] = a
	}
	return a.hosts, a.err
}

// hostOf never quotes the URL, because the URL may contain a password.
func hostOf(raw string) (HostPort, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return HostPort{}, errors.New("it has a URL that cannot be parsed; correct the client's configuration")
	}
	if u.Scheme != "https" {
		return HostPort{}, fmt.Errorf("it reaches %s over %s; only https can be allowed", u.Hostname(), u.Scheme)
	}
	host := u.Hostname()
	if u.Port() != "" {
		host += ":" + u.Port()
	}
	return ParseHostPort(host)
}
