// Command goclient is Go's HTTP client: one JSON object per case on stdout.
package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	direct := http.DefaultTransport.(*http.Transport).Clone()
	direct.Proxy = nil
	for client, transport := range map[string]http.RoundTripper{"go": http.DefaultTransport, "go-direct": direct} {
		for name, url := range map[string]string{
			"allowed": "https://api.test/v1/echo/" + client, "path": "https://api.test/v2/" + client, "host": "https://denied.test/" + client,
		} {
			text, err := get(&http.Client{Transport: transport, Timeout: 10 * time.Second}, url)
			if err != nil {
				text = err.Error()
			}
			_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"client": client, "case": name, "text": text})
		}
	}
}

func get(c *http.Client, url string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Api-Key", "postern")
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}
