package container

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/view"
)

// hangs is an engine that takes every call and answers none.
type hangs struct{}

func (hangs) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestEngineThatHangs: a call ends, and says what to do.
func TestEngineThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{Socket: "/run/x.sock", client: &http.Client{Transport: hangs{}}}
		_, err := e.Info(t.Context())
		require.EqualError(t, err, "ask about the container engine: the container engine on /run/x.sock has not "+
			"answered for 1m0s: systemctl restart docker")
	})
}

// TestUsers: a container's user is the owner of the working directory, whatever the engine makes of
// users.
func TestUsers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options         []string
		root            string
		id              int
		inside, outside int
	}{
		{nil, "/var/lib/docker", 1000, 1000, 1000},
		{[]string{"name=seccomp,x=y", "name=userns"}, "/var/lib/docker/700000.700000", 701234, 1234, 701234},
		{[]string{"name=userns"}, "/var/lib/docker/700000.700000", 1000, 1000, 701000},
		{[]string{"name=userns"}, "/var/lib/docker/700000.700000", 699999, 699999, 1399999},
		{[]string{"name=userns"}, "/var/lib/docker", 1000, 1000, 1000},
	} {
		users := (&Info{SecurityOptions: c.options, DockerRootDir: c.root}).Users()
		require.Equal(t, c.inside, users.inside(c.id), c)
		require.Equal(t, c.outside, users.Outside(c.id), c)
	}
	rootless := Info{SecurityOptions: []string{"name=rootless"}}
	require.Zero(t, rootless.Users().inside(1000), "root there is the caller")
}

// TestNamesThatAreNotText: the engine's API cannot say them, and would say others.
func TestNamesThatAreNotText(t *testing.T) {
	t.Parallel()
	v := &view.View{Mounts: []view.Mount{{Kind: view.Bind, Source: "/x\xff", Target: "/x\xff", Writable: true}}}
	_, err := render(v, &Options{}, "/host", nil)
	require.ErrorContains(t, err, `"/x\xff" is not UTF-8`)
	v.Mounts = []view.Mount{
		{Kind: view.Bind, Source: "/x", Target: "/x"}, {Kind: view.Layer, Source: "/y\xff", Target: "/x"},
	}
	_, err = render(v, &Options{}, "/host", nil)
	require.ErrorContains(t, err, `"/y\xff" cannot be a layer of an overlay`)
}
