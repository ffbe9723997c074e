// Package yaml reads the YAML that stack files are written in: a tree with positions, the values
// in it, and the mistakes, each with its place and what to write instead. It knows nothing of what
// the values mean.
package yaml
