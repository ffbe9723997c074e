// Package publish is the operator's side of publishing a stack file. It reads what is live,
// compares the file with it, and decides who must see the difference before it counts. If an agent
// may have written the file, no command publishes it unless a person has seen the difference.
package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// Operator returns the operator who publishes to the stack of the state folder. Control planes
// elsewhere find publications in the store. say reports progress, and may be nil.
func Operator(home home.Folder, say func(string)) *bundle.Operator {
	o := &bundle.Operator{
		Store: &bundle.Store{URL: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), Authority: bundle.CertificateIn(home.CACert())},
		Key:   home.OperatorKey(), Say: say,
	}
	if !Elsewhere(home) {
		o.Controls = []*api.Client{api.Dial(home.ControlSocket())}
		o.Kept = home.KeptBundles()
	}
	return o
}

// Elsewhere reports whether the stack's control planes are on other machines.
func Elsewhere(home home.Folder) bool {
	_, err := os.Stat(home.ControlSocket())
	return err != nil && !strings.HasPrefix(home.BundleURL(), "file://")
}

// Live is the publication that decides on agents' requests now.
type Live struct {
	// Plan is empty if nothing is live.
	Plan *plan.Plan
	// Seq is the number of the publication, 0 if nothing is live.
	Seq uint64
	// Note, if not "", is a line about something odd: the control plane could not be asked, or a
	// newer publication is not live.
	Note string
}

// ReadLive asks what is live, and makes o publish only over what was published at that time: so the
// difference that a person is shown stays the whole difference.
func ReadLive(ctx context.Context, o *bundle.Operator) (*Live, error) {
	b, asked, err := o.Live(ctx)
	switch {
	case errors.Is(err, bundle.ErrNone):
		b = &bundle.Bundle{Plan: &plan.Plan{}}
	case err != nil:
		return nil, err
	}
	l := &Live{Plan: b.Plan, Seq: b.Seq}
	newest, err := o.Newest(ctx)
	switch {
	case errors.Is(err, bundle.ErrNone):
		o.Over = &bundle.Bundle{}
		return l, nil
	case err != nil:
		return nil, err
	}
	o.Over = newest
	same, err := sameVersion(b, newest)
	if err != nil {
		return nil, err
	}
	switch {
	case newest.Seq != l.Seq && !same:
		l.Note = fmt.Sprintf("publication %d, by %s, is not live; %s, and this compares with that", newest.Seq, newest.By, l.served())
	case !asked && len(o.Controls) > 0:
		l.Note = "the control plane does not answer; this compares with the last publication that it rolled out"
	}
	return l, nil
}

func (l *Live) served() string {
	if l.Seq == 0 {
		return "nothing is live"
	}
	return fmt.Sprintf("publication %d is", l.Seq)
}

func sameVersion(a, b *bundle.Bundle) (bool, error) {
	was, err := a.Version()
	if err != nil {
		return false, err
	}
	is, err := b.Version()
	return was == is, err
}
