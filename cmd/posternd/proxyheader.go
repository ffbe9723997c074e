package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// signature begins a header of the PROXY protocol, version 2 (HAProxy, "The
// PROXY protocol", section 2.2). No request of HTTP begins like that.
var signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// fixedHeader is the signature, the command, the family, and the length of the rest.
const fixedHeader = 16

// checked is a listener whose connections may begin with a header of the PROXY protocol, which it
// skips. A load balancer that writes the header for agents also writes it for its health checks.
// Its content is not used.
type checked struct{ net.Listener }

func (l checked) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &checkedConn{Conn: conn, r: bufio.NewReader(conn)}, nil
}

type checkedConn struct {
	net.Conn
	r    *bufio.Reader
	once sync.Once
	err  error
}

// Read skips the header before the first byte. It is not in Accept, which one
// silent connection would block; the server bounds how long that takes.
func (c *checkedConn) Read(b []byte) (int, error) {
	c.once.Do(func() { c.err = c.skip() })
	if c.err != nil {
		return 0, c.err
	}
	return c.r.Read(b)
}

func (c *checkedConn) skip() error {
	first, err := c.r.Peek(1)
	if err != nil || first[0] != signature[0] {
		return err
	}
	header, err := c.r.Peek(fixedHeader)
	if err != nil || !bytes.HasPrefix(header, signature) {
		return err
	}
	_, err = io.CopyN(io.Discard, c.r, fixedHeader+int64(binary.BigEndian.Uint16(header[14:])))
	return err
}
