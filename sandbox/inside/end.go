package inside

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"
)

const (
	// engineTime is the time for which an engine may still make what the host has asked for.
	engineTime = 30 * time.Second
	endEvery   = 500 * time.Millisecond
)

// endContainers waits, on the host, until its standard input ends, as it does when `postern run` ends
// in whatever way. Then it has the engine that listens on the socket remove the containers, by their
// paths in its API: what is in a container may have stopped all that looks for that end there.
// `postern run` ends this process if it has removed them itself.
func endContainers(socket string, containers []string) int {
	signal.Ignore() // what ends `postern run` need not end this process
	_, _ = io.Copy(io.Discard, os.Stdin)
	for until := time.Now().Add(engineTime); time.Now().Before(until); time.Sleep(endEvery) {
		for _, path := range containers {
			_ = remove(socket, path) // again, in a moment
		}
	}
	return 0
}

// remove asks for the removal of one container. One that is not there is no error.
func remove(socket, path string) error {
	conn, err := net.Dial("unix", socket) //nolint:gosec,noctx // the engine's, and the deadline is the caller's
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(engineTime)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "DELETE %s?force=1&v=1 HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n", path)
	if err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
