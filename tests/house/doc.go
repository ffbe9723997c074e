// Package house holds the repository to its own rules: how much one package and one file may have,
// how wide a line may be, and that documents and headings that are cited exist.
package house
