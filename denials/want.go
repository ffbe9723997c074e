package denials

import (
	"cmp"
	"slices"
	"strings"

	"github.com/postern/postern/explain"
	"github.com/postern/postern/plan"
)

// Want is what would have to be allowed at a host, so that what was refused there is allowed, and
// nothing else.
type Want struct {
	Host    string
	Port    uint16
	Methods []string
	// Paths are patterns. There is none if the proxy saw no more of the request than the host: then
	// the methods are those that read.
	Paths []string
}

// Wanted sorts out what was refused: wants are what a rule for a host would allow, sorted, and
// others have to be looked at. The words of both are an agent's.
func Wanted(troubles []Trouble) (wants []Want, others []Trouble) {
	refused := []plan.Reason{plan.ReasonHost, plan.ReasonMethod, plan.ReasonPath}
	for i := range troubles {
		e := &troubles[i].Event
		host, port, ok := pasteable(e.Host)
		w := Want{Host: host, Port: port, Methods: []string{"GET", "HEAD"}}
		if seen := e.Method != "" && e.Method != "CONNECT"; seen {
			path := explain.JustPath(e.Path)
			w.Methods, w.Paths = []string{e.Method}, []string{path}
			ok = ok && path != ""
		}
		if !ok || !slices.Contains(refused, e.Reason) {
			others = append(others, troubles[i])
			continue
		}
		// Not one rule for all methods: it would allow each of them on every path.
		same := slices.IndexFunc(wants, func(o Want) bool {
			return o.Host == host && o.Port == port && slices.Equal(o.Methods, w.Methods) &&
				(o.Paths == nil) == (w.Paths == nil)
		})
		if same < 0 {
			wants = append(wants, w)
		} else if w.Paths != nil && !slices.Contains(wants[same].Paths, w.Paths[0]) {
			wants[same].Paths = append(wants[same].Paths, w.Paths[0])
		}
	}
	for i := range wants {
		slices.Sort(wants[i].Paths)
	}
	slices.SortFunc(wants, func(a, b Want) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port),
			slices.Compare(a.Methods, b.Methods))
	})
	return wants, others
}
