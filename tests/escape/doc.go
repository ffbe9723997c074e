// Package escape runs one program inside each runtime that tries to get out, and holds that every
// attempt is refused: `make escape` prints the table.
package escape
