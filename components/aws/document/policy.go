// Package document has the documents that resources on AWS are given as text,
// as typed values: IAM policies, cloud-config, container definitions. Nothing
// in them is assembled from strings, and testdata has each of them as it comes
// out, for people to review.
package document

import (
	"encoding/json"
	"fmt"
)

// Policy is an IAM policy document (IAM User Guide, "IAM JSON policy elements
// reference"): of an identity, a resource, an endpoint or a trust.
type Policy struct {
	Version   string
	Statement []Statement
}

// Statement is a part of a policy.
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

// Principal is who a statement of a resource's policy is about.
type Principal struct {
	AWS     []ARN    `json:",omitempty"`
	Service []string `json:",omitempty"`
}

// Anybody is every principal. With Allow it needs a condition that says which.
var Anybody = &Principal{AWS: []ARN{"*"}}

// Condition is operator, key, values.
type Condition map[string]map[string][]string

// Everything is the resource of actions that have none, and of policies that
// belong to the one resource that they are about, such as a key's.
var Everything = []ARN{"*"}

// NewPolicy has the current version of the language.
func NewPolicy(statements ...Statement) Policy {
	return Policy{Version: "2012-10-17", Statement: statements}
}

// Text is the policy as JSON.
func (p Policy) Text() string { return text(p) }

// text marshals what always can be.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("document: %v", err))
	}
	return string(b)
}
