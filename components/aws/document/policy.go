// Package document builds the documents that resources on AWS get as text: IAM policies,
// cloud-config, container definitions. Each document is a value of a Go type that an encoder
// writes. testdata has each document as text, for people to review.
package document

import (
	"encoding/json"
	"fmt"
)

// Policy is an IAM policy document (IAM User Guide, "IAM JSON policy elements reference"): of an
// identity, a resource, an endpoint or a trust.
type Policy struct {
	Version   string
	Statement []Statement
}

// Statement is one statement of a policy.
type Statement struct {
	Sid       string
	Effect    Effect
	Principal *Principal `json:",omitempty"`
	Action    []string
	Resource  []ARN     `json:",omitempty"`
	Condition Condition `json:",omitempty"`
}

// Effect is Allow or Deny.
type Effect string

// The effects.
const (
	Allow Effect = "Allow"
	Deny  Effect = "Deny"
)

// Principal is the subject of a statement in a resource's policy.
type Principal struct {
	AWS     []ARN    `json:",omitempty"`
	Service []string `json:",omitempty"`
}

// Anybody is every principal. With Allow, a statement needs a condition that says which ones.
var Anybody = &Principal{AWS: []ARN{"*"}}

// Condition is operator, key, values.
type Condition map[string]map[string][]string

// Everything is the resource of actions that have none. It is also the resource of policies that
// belong to the one resource that they cover, such as a key's policy.
var Everything = []ARN{"*"}

// NewPolicy returns a policy in the current version of the language.
func NewPolicy(statements ...Statement) Policy {
	return Policy{Version: "2012-10-17", Statement: statements}
}

// Text returns the policy as JSON.
func (p Policy) Text() string { return text(p) }

// text marshals a value that can always be marshalled.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("document: %v", err))
	}
	return string(b)
}
