// Package clients runs the programs and libraries that agents really use, in
// real sandboxes, against servers of its own: what is allowed arrives with the
// credential that the client never had, and what is denied ends with an error
// that a person can read. docs/clients.md is the matrix in words.
package clients
