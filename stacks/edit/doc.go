// Package edit changes the text of stack files: it allows an agent hosts, and revokes them. It
// leaves every other byte of a file alone, and writes nothing by which more changes than was asked.
package edit
