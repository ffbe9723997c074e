// Package aws reads the section aws of a stack file: where a stack runs in an account, on which
// machines, and how long it keeps events.
package aws
