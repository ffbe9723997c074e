package attack

import (
	"bytes"
	"io"
	"net"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// preface begins every HTTP/2 connection.
const preface = http2.ClientPreface

// h2conn is HTTP/2 frame by frame, so that an attack can send what no client would.
type h2conn struct {
	s      *seat
	framer *http2.Framer
	next   uint32
}

// h2 begins HTTP/2 on a connection.
func (s *seat) h2(c net.Conn) *h2conn {
	s.Helper()
	_, err := io.WriteString(c, preface)
	require.NoError(s, err)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(s, f.WriteSettings())
	return &h2conn{s: s, framer: f, next: 1}
}

// encode compresses a header without a memory of earlier ones.
func (c *h2conn) encode(block *bytes.Buffer, header ...string) {
	c.s.Helper()
	e := hpack.NewEncoder(block)
	for i := 0; i < len(header); i += 2 {
		require.NoError(c.s, e.WriteField(hpack.HeaderField{Name: header[i], Value: header[i+1]}))
	}
}

// ask sends one request without a body, whose header is name, value, ..., and
// returns the status of the answer, or "reset" if the stream or the connection is.
func (c *h2conn) ask(header ...string) string {
	c.s.Helper()
	return c.post("", 0, header...)
}

// post is ask with a body: a frame, so many times.
func (c *h2conn) post(frame string, times int, header ...string) string {
	c.s.Helper()
	id := c.next
	c.next += 2
	method := ""
	if header[0] == ":method" {
		method = header[1]
	}
	var block bytes.Buffer
	c.encode(&block, header...)
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: method != "CONNECT" && times == 0})
	for i := range times {
		_ = c.framer.WriteData(id, i == times-1, []byte(frame))
	}
	status := ""
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			require.False(c.s, answer{Err: err}.hung(), "no answer")
			return "reset"
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			_ = c.framer.WritePing(true, f.Data)
		case *http2.GoAwayFrame:
			return "reset"
		case *http2.RSTStreamFrame:
			if f.StreamID == id && status == "" {
				return "reset"
			}
			if f.StreamID == id {
				return status
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && status == "" {
				status = f.PseudoValue("status")
				if method == "CONNECT" || f.StreamEnded() {
					return status
				}
			}
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return status
			}
		}
	}
}
