package view

import (
	"slices"

	"github.com/postern/postern/hostpath/places"
)

// InEach returns what the settings of this machine's people, and the caller's environment, name in
// each folder: see [places.InEach].
func InEach(environ []string) (all []places.Named) {
	m, caller := &machine{}, newEnviron(environ)
	home := m.homeOf(caller)
	people, _ := m.homes()
	if !slices.Contains(people, home) {
		people = append(people, home)
	}
	for _, h := range people {
		set := map[string]string{}
		if h == home {
			set = caller.values
		}
		all = append(all, places.InEach(h, set, m.readSmall)...)
	}
	return all
}

// InRepository returns what the settings in a file of git's name in the repository.
func InRepository(file string, environ []string) []places.Named {
	m := &machine{}
	return places.InRepository(file, m.homeOf(newEnviron(environ)), m.readSmall)
}

// homeOf returns the caller's real home.
func (m *machine) homeOf(caller environ) string {
	home, _ := m.callerHome(caller.get("HOME"))
	return m.real(home)
}
