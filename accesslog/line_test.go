package accesslog

import (
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestFields: a line has a place for each field that Envoy is told to write, and for no other.
func TestFields(t *testing.T) {
	t.Parallel()
	var l Line
	written := map[string]bool{"k": true, "agent": true, "connect": true, "rule": true, "sni": true}
	for kind := range formats {
		for name, command := range Format(kind, map[string]string{"agent": "a"}) {
			text, number := l.Field(name)
			require.NotEqual(t, text != nil, number != nil, "%s of %s", name, kind)
			require.NotEmpty(t, command)
			written[name] = true
		}
		require.Equal(t, kind, Format(kind, nil)["k"])
	}
	v := reflect.ValueOf(&l).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("json")
		text, number := l.Field(name)
		places := []any{v.Field(i).Addr().Interface()}
		require.True(t, slices.Contains(places, any(text)) || slices.Contains(places, any(number)), "%s is another field's", name)
		require.True(t, written[name], "nothing writes %s", name)
	}
	text, number := l.Field("other")
	require.Nil(t, text)
	require.Nil(t, number)
	require.NotContains(t, formats[Request], "agent", "Format changes no other line's fields")
}

// TestFormat: what Envoy writes of each kind, written out. No header besides method, host and path is among it.
func TestFormat(t *testing.T) {
	t.Parallel()
	more := map[string]string{"agent": "demo"}
	require.Equal(t, map[string]string{
		"k": "request", "agent": "demo", "t": "%START_TIME(%s.%6f)%", "conn": "%CONNECTION_ID%", "type": "%ACCESS_LOG_TYPE%",
		"method": "%REQ(:METHOD)%", "authority": "%REQ(:AUTHORITY)%", "path": "%PATH(NQ:PATH)%", "route": "%ROUTE_NAME%",
		"status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
		"failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"rx": "%BYTES_RECEIVED%", "tx": "%BYTES_SENT%", "ms": "%DURATION%",
	}, Format(Request, more))
	require.Equal(t, map[string]string{
		"k": "tunnel", "agent": "demo", "t": "%START_TIME(%s.%6f)%", "conn": "%CONNECTION_ID%", "type": "%ACCESS_LOG_TYPE%",
		"sni": "%REQUESTED_SERVER_NAME%", "flags": "%RESPONSE_FLAGS%", "details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"rx": "%BYTES_RECEIVED%", "tx": "%BYTES_SENT%", "ms": "%DURATION%",
	}, Format(Tunnel, more))
	require.Equal(t, map[string]string{
		"k": "connection", "agent": "demo", "t": "%START_TIME(%s.%3f)%", "sni": "%REQUESTED_SERVER_NAME%",
		"flags": "%RESPONSE_FLAGS%", "details": "%CONNECTION_TERMINATION_DETAILS%",
		"failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "rx": "%BYTES_RECEIVED%", "tx": "%BYTES_SENT%", "ms": "%DURATION%",
	}, Format(Connection, more))
}

func TestRoute(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Route{
		"allowed api.test:443 key api": {plan.ReasonAllowed, "api.test:443", "key", "a/api"},
		"host_not_allowed   default":   {plan.ReasonHost, "", "", "a/default"},
		"allowed   with space":         {plan.ReasonAllowed, "", "", "a/with space"},
	} {
		require.Equal(t, want, ParseRoute(name, "a"))
		require.Equal(t, name, want.String())
	}
	for _, name := range []string{"", Leads, "allowed", "allowed a b"} {
		require.Zero(t, ParseRoute(name, "a"), "%q decides nothing", name)
	}
}
