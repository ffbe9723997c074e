// Package service is how package secret asks a cloud's service for a secret. The drivers, such as
// package xds/secret/aws, register themselves. A program has the drivers that it imports, and the
// others cost it nothing.
package service

import (
	"context"
	"net/http"

	"github.com/postern/postern/plan"
)

// Service is a cloud's store of secrets, as whoever runs the program. It is safe for concurrent
// use.
type Service interface {
	// Fetch asks for the secret once, until ctx is done. The version is the service's own. The
	// error is a [*Trouble].
	Fetch(ctx context.Context, ref plan.Reference) (value []byte, version string, err error)
	Close()
}

// Trouble is why a service did not give a secret out.
type Trouble struct {
	// Text is in our own words: never those of the service or of a library, which may quote what
	// they read.
	Text string
	// Down is set if the service said nothing about the secret, so that its last answer still
	// counts.
	Down bool
	// Name and Cause are set if Cause may have happened on the way to or from the service, which
	// people call Name. Otherwise only Text counts. Cause is not printed.
	Name  string
	Cause error
}

func (t *Trouble) Error() string { return t.Text }

// NoIdentity is the trouble if the cloud's library finds no identity.
func NoIdentity(cloud string) *Trouble {
	return &Trouble{
		Text: "the control plane has no identity in " + cloud + ": give it one as that cloud's own tools have it", Down: true,
	}
}

var drivers = map[string]func(*http.Client) Service{}

// Register makes open the driver for the secrets of this source, which is one of package plan's
// sources. The client that open gets bounds every request. Call it in init.
func Register(source string, open func(*http.Client) Service) { drivers[source] = open }

// Open returns the services whose drivers are linked in, by source.
func Open(client *http.Client) map[string]Service {
	all := make(map[string]Service, len(drivers))
	for source, open := range drivers {
		all[source] = open(client)
	}
	return all
}
