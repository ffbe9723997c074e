package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// blame says where a refusal by Envoy comes from, such as
// "rule demo/echo (stacks/local.yaml:12)", or "" if the message does not tell.
func blame(p *plan.Plan, source func(rule string) string, message string) string {
	rules, agents := envoy.Blame(p, message)
	var out []string
	for _, r := range rules {
		out = append(out, "rule "+withSource(r, source(r)))
	}
	if len(rules) == 0 {
		for _, a := range agents {
			out = append(out, "agent "+a)
		}
	}
	const most = 5
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}

// blamed adds to the error of a publication of p where the refusal comes from.
func blamed(err error, p *plan.Plan, source func(rule string) string) error {
	var refused *api.Error
	if source == nil || !errors.As(err, &refused) || refused.Rejection == nil {
		return err
	}
	if where := blame(p, source, refused.Rejection.Message); where != "" {
		return fmt.Errorf("%w\nit is about %s", err, where)
	}
	return err
}
