package xds

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// TestUnbuiltTouchesNothing: for a plan of which no resources can be made no secret is read, and
// what was wanted of the nodes stays as it was.
func TestUnbuiltTouchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(t, "a")
	w.Controls = []*api.Client{w.dial(t, c)}
	w.write(t, "secret", []byte("value"))
	good := policyOf("one.test")
	good.Credentials = []plan.Credential{{
		Name: "key", Kind: plan.KindBearer, Header: "authorization", Secret: "file://" + w.path("secret"),
	}}
	good.Agents[0].Rules[0].Credential = "key"
	_, err := w.Publish(t.Context(), good)
	require.NoError(t, err)
	version := c.Status().Version
	require.NotEmpty(t, version)

	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(watch)
	w.write(t, "other", []byte("other"))
	_, err = unix.InotifyAddWatch(watch, w.path("other"), unix.IN_OPEN)
	require.NoError(t, err)
	bad := policyOf("one.test", "two.test", "three.test")
	bad.Credentials = []plan.Credential{good.Credentials[0], good.Credentials[0]}
	bad.Credentials[1].Name, bad.Credentials[1].Secret = "other", "file://"+w.path("other")
	bad.Agents[0].Rules[0].Credential, bad.Agents[0].Rules[1].Credential = "key", "other"
	bad.Agents[0].Rules[2].Credential = "nobody"
	_, err = w.Publish(t.Context(), bad)
	require.ErrorContains(t, err, "build the Envoy resources")
	_, err = unix.Read(watch, make([]byte, 1024))
	require.ErrorIs(t, err, unix.EAGAIN, "a secret was read for it")
	require.Equal(t, version, c.Status().Version)
	require.Equal(t, c.wanted, version)
}
