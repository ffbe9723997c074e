// Package stacks reads and edits stack files: the YAML descriptions of the
// environments in this folder.
//
// [Load] is strict and all or nothing: it reports every mistake of a file at
// once, each as a [yaml.Problem] with its position, and compiles a file without
// mistakes into a [plan.Plan]. [Allow] and [Revoke] change a file in place and
// leave every other byte of it alone.
package stacks
