package yaml

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProblemIsOneLine: a value that a problem quotes writes no line of its own.
func TestProblemIsOneLine(t *testing.T) {
	t.Parallel()
	p := &Problems{File: "s\n.yaml"}
	p.At(&Node{Line: 1, Col: 2}, "write\nit", "%s does not exist", "/x\nnothing changes for any agent")
	require.EqualError(t, p.Err(), `s\n.yaml:1:2: /x\nnothing changes for any agent does not exist; write\nit`)
}
