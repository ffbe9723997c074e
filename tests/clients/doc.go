// Package clients runs the programs and libraries that agents really use, in real sandboxes,
// against its own servers. An allowed request arrives with the credential, which the client never
// had. A denied request ends with an error that a person can read. docs/clients.md has the matrix
// in words.
package clients
