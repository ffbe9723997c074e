// Package cloud asks and tells a live account in a cloud what operators need after an `up`: how the
// account differs from the plan, the values of secrets, the audit log. The drivers, such as package
// cloud/aws, register themselves. A program has the drivers that it imports, and the others cost it
// nothing.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/graph"
)

// Account is an account and region in which we are somebody.
type Account interface {
	// Drift compares the account with the plan and returns every difference, the
	// worst first; nil if there is none.
	Drift(ctx context.Context, g *graph.Graph) ([]Difference, error)
	// Live returns what exists in the networks, as a state of Pulumi would have it, and what the
	// cloud did not answer: with that, nothing is known. say is told what is asked next.
	Live(ctx context.Context, n Networks, say func(string)) (*graph.Graph, []Unread, error)
	// PutSecret makes value the current version of a secret that exists, and
	// returns the version's ID. The value is in no error.
	PutSecret(ctx context.Context, name string, value []byte) (version string, err error)
	// Secret returns what is known of the secret, [ErrNoSecret] if there is none.
	Secret(ctx context.Context, name string) (*Secret, error)
	// Events returns the selected events of the stack, the oldest first.
	Events(ctx context.Context, stack string, f audit.Filter) ([]audit.Event, error)
	// FollowEvents calls each with the selected events, and continues with new ones until ctx is
	// done.
	FollowEvents(ctx context.Context, stack string, f audit.Filter, each func(audit.Event) error) error
}

// Risks of a difference, the worst first.
const (
	// Critical: an agent may have a way out around the proxies.
	Critical = "critical"
	// High: one layer of several is weaker than planned.
	High = "high"
	// Medium: something does not work, or exists although nobody planned it.
	Medium = "medium"
)

// Risks are all risks, the worst first.
var Risks = []string{Critical, High, Medium}

// Difference is one difference between the account and the plan.
type Difference struct {
	Risk string `json:"risk"`
	// Resource is the resource's name in the plan, or its ID if the plan does not have it.
	Resource string `json:"resource"`
	ID       string `json:"id,omitempty"`
	What     string `json:"what"`
	// Do says how to undo the difference.
	Do string `json:"do"`
}

// Networks says which networks of an account are meant: those with the tag of a stack, unless Stack
// is "", and those with these IDs.
type Networks struct {
	Stack string
	IDs   []string
}

// Unread is a question that a cloud has not answered.
type Unread struct {
	// Action is its name in the cloud's policies.
	Action string
	Why    string
}

// Secret is what a cloud's store says about a secret, without its value.
type Secret struct {
	Name string
	// Version is the ID of the current version, or "" if the secret is empty.
	Version string
	// Versions is the number of versions, the current one included.
	Versions int
	// Changed is the time of the last change of its value or settings.
	Changed time.Time
	// Deleting is set while the secret waits for its deletion.
	Deleting bool
}

// ErrNoSecret says that no secret has that name.
var ErrNoSecret = errors.New("there is no such secret")

var drivers = map[string]func(ctx context.Context, account, region string) (Account, error){}

// Register makes open the driver of the target, which is one of a stack file's targets. Call it in
// init.
func Register(target string, open func(ctx context.Context, account, region string) (Account, error)) {
	drivers[target] = open
}

// Linked reports whether this program has the driver of the target.
func Linked(target string) bool { return drivers[target] != nil }

// Open finds out who we are, and refuses if that is somebody in another account than the given one.
// An account or a region that is "" is that of this user's settings.
func Open(ctx context.Context, target, account, region string) (Account, error) {
	open := drivers[target]
	if open == nil {
		return nil, fmt.Errorf("this program was built without the driver of %s", target)
	}
	return open(ctx, account, region)
}
