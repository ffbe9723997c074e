package bundle

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

// TestLiveIsNotOlder: a control plane that was taken over has every publication that was ever
// signed. One that is older than the number that it states is not believed to be live.
func TestLiveIsNotOlder(t *testing.T) {
	t.Parallel()
	o, lost := folder(t, "test"), folder(t, "test")
	lost.Key, lost.Trusted = o.Key, o.Trusted // the same operator, whose store has none of them
	old, stated, newer := o.store(t, policy("one.test", "two.test")), o.store(t, policy("one.test")), o.store(t,
		policy("three.test"))
	for _, c := range []struct {
		name  string
		sends []byte
		live  *Bundle
		err   string
	}{
		{"an older one", old.Sealed(), nil, "it serves publication 2, and now answers with an older one"},
		{"none", nil, nil, "answers with an older one"},
		{"the one that it states", stated.Sealed(), stated, ""},
		{"one that is newer by now", newer.Sealed(), newer, ""},
		{"one that nobody signed", []byte("{}"), nil, "publication"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := http.NewServeMux()
			m.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
				assert.NoError(t, json.NewEncoder(w).Encode(api.Status{Seq: stated.Seq, Version: stated.version()}))
			})
			m.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, _ *http.Request) {
				assert.NoError(t, json.NewEncoder(w).Encode(c.sends))
			})
			asks := &Operator{Store: lost.Store, Key: o.Key, Controls: []*api.Client{controlled(t, m)}}
			live, asked, err := asks.Live(t.Context())
			require.True(t, asked)
			if c.live == nil {
				require.Error(t, err)
				require.Regexp(t, c.err, err.Error())
				require.Nil(t, live)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.live.Hash(), live.Hash())
		})
	}
}
