package publish

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postern/postern/explain"
	"github.com/postern/postern/xds/api"
)

// About says where a resource that Envoy refused comes from, such as "rule demo/echo
// (stacks/local.yaml:12)", or returns "" if the message does not tell.
func About(r *api.Rejection, source func(rule string) string) string {
	var out []string
	for _, rule := range r.Rules {
		out = append(out, "rule "+explain.WithSource(rule, source(rule)))
	}
	for _, a := range r.Agents {
		out = append(out, "agent "+a)
	}
	const most = 5
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}

// Refused adds to the error of a publication where the refusal comes from.
func Refused(err error, source func(rule string) string) error {
	var refused *api.Error
	if source == nil || !errors.As(err, &refused) || refused.Rejection == nil {
		return err
	}
	if where := About(refused.Rejection, source); where != "" {
		return fmt.Errorf("%w\nit is about %s", err, where)
	}
	return err
}
