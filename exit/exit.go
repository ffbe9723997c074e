// Package exit has the exit statuses of postern. Only this package states which there are, and what
// each means: help, the manual pages and docs/reference-cli.md are made from its table.
package exit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The exit statuses. The statuses of `postern run` are those of the agent's command, besides
// [Sandbox], [NotExecutable], [NotFound] and [Usage].
const (
	Done   = 0
	Failed = 1
	Usage  = 2
	// Unseen: a person must see the difference first.
	Unseen = 3
	// Partial: a part is done, and the message says what remains.
	Partial = 4
	// OtherChanges: more would have been published than was asked for.
	OtherChanges = 5
	// Open: a proof fails, or a guardrail is broken.
	Open = 6
	// Unproved: it is not known whether a proof holds.
	Unproved = 7
	// Sandbox: the sandbox could not be set up, or had to be ended.
	Sandbox = 125
	// NotExecutable and NotFound are those of a shell.
	NotExecutable = 126
	NotFound      = 127
)

// Meaning is what a status means.
type Meaning struct {
	Status int
	Means  string
	// Commands are the commands that have the status, without "postern". nil: every command that
	// has no other meaning for it.
	Commands []string
}

// publishing are the commands that publish.
var publishing = []string{"allow", "revoke", "push", "rollback", "learn"}[:5:5]

// Table has every status of every command.
var Table = []Meaning{
	{Done, "the command did its work", nil},
	{Done, "nothing differs", []string{"diff", "drift"}},
	{Done, "the request is allowed", []string{"explain"}},
	{Done, "every case passed", []string{"test"}},
	{Failed, "the command failed", nil},
	{Failed, "a case failed, or the command did", []string{"test"}},
	{Failed, "something has drifted and --expect-no-changes is given, or the command failed", []string{"refresh"}},
	{Failed, "something differs", []string{"diff", "drift"}},
	{Done, "no guardrail is broken, besides those that are waived", []string{"check"}},
	{Failed, "the request is denied, or the command failed", []string{"explain"}},
	{Failed, "the command failed: nothing is checked", []string{"check"}},
	{Open, "a guardrail is broken", []string{"check"}},
	{Usage, "the command line is not valid", nil},
	{Usage, "the command line is not valid, or it is not known whether something differs", []string{"diff", "drift"}},
	{Unseen, "nothing was done, because a person must see the difference first", append(publishing,
		"up", "init", "operator", "secret put")},
	{Unseen, "nothing was done, because a person must decide it on a terminal", []string{"workdir forget"}},
	{Partial, "a part is done; the message says what remains", append(publishing,
		"kill", "unkill", "evict", "status", "workspace apply")},
	{
		OtherChanges, "nothing was done: the stack file has other changes that are not live",
		[]string{"allow", "revoke", "learn"},
	},
	{Done, "every assertion holds", []string{"prove"}},
	{Failed, "the command failed: nothing is proved", []string{"prove"}},
	{Open, "an assertion fails", []string{"prove"}},
	{Unproved, "it is not known whether every assertion holds", []string{"prove"}},
	{Done, "the audit log is what was written", []string{"audit verify"}},
	{Failed, "the command failed: nothing is verified", []string{"audit verify"}},
	{Open, "the audit log is not what was written", []string{"audit verify"}},
	{Unproved, "it is not known whether the audit log is what was verified before", []string{"audit verify"}},
	{
		Sandbox, "the sandbox could not be set up or had to be ended, or the stack could not be found or brought up",
		[]string{"run"},
	},
	{NotExecutable, "the agent's command cannot be executed", []string{"run"}},
	{NotFound, "the agent's command was not found", []string{"run"}},
}

// Of returns what each status of the command means, without "postern", sorted by status.
func Of(command string) []Meaning {
	var out []Meaning
	for _, m := range Table {
		own := slices.Contains(m.Commands, command)
		other := slices.ContainsFunc(Table, func(o Meaning) bool {
			return o.Status == m.Status && slices.Contains(o.Commands, command)
		})
		if own || m.Commands == nil && !other {
			out = append(out, m)
		}
	}
	if command == "run" {
		// Every other status is that of the agent's command.
		out = slices.DeleteFunc(out, func(m Meaning) bool { return m.Status == Done || m.Status == Failed })
	}
	return out
}

// Help returns the lines that explain the statuses of the command.
func Help(command string) string {
	var b strings.Builder
	if command == "run" {
		b.WriteString("  any  that of the agent's command; 128 and the signal's number if a signal has ended it\n")
	}
	for _, m := range Of(command) {
		fmt.Fprintf(&b, "  %-3d  %s\n", m.Status, m.Means)
	}
	return b.String()
}

// Error is an error with an exit status.
type Error struct {
	Status int
	error
}

// With returns err with an exit status.
func With(status int, err error) error { return Error{status, err} }

// BadUsage returns the error for a command line that is not valid.
func BadUsage(err error) error { return Error{Usage, err} }

func (e Error) Unwrap() error { return e.error }

// ExitStatus returns the status.
func (e Error) ExitStatus() int { return e.Status }

// Status returns the exit status for err: that of the first error in its chain with a method
// ExitStatus, or [Failed].
func Status(err error) int {
	var own interface{ ExitStatus() int }
	switch {
	case err == nil:
		return Done
	case errors.As(err, &own):
		return own.ExitStatus()
	}
	return Failed
}
