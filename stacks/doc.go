// Package stacks reads stack files: the YAML descriptions of the environments in this folder.
//
// [Load] is strict and all or nothing: it reports every mistake of a file at once, each as a
// [yaml.Problem] with its position, and compiles a file without mistakes into a [plan.Plan].
package stacks
