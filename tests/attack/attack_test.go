package attack

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(worldVariable) != "":
		err = serveWorld(os.Getenv(worldVariable))
	case os.Getenv(networkVariable) != "":
		err = networks[os.Getenv(networkVariable)]()
	case os.Getenv(relayVariable) != "":
		err = serveRelay()
	default:
		status := m.Run()
		if path := os.Getenv(tableVariable); path != "" {
			if err := writeHostTable(path + ".host"); err != nil {
				fmt.Fprintln(os.Stderr, err)
				status = 1
			}
		}
		os.Exit(status)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// tableVariable names the file that the table is written to.
const tableVariable = "POSTERN_ATTACK_TABLE"

// ids is section 2.2 of rivals.md; G has no numbers there. X is what issue 4
// also asks for: bad input.
var ids = map[string]int{"A": 11, "B": 12, "C": 10, "D": 9, "E": 9, "F": 10, "G": 7, "X": 8}

// inapplicable are the cases that cannot be tried on one machine, and why.
var inapplicable = map[string]string{
	"D7": "AWS only: what security groups do not filter; components/aws has checks of its own, of what is declared",
	"D8": "GCP only: what firewall rules do not filter; GCP is not built",
	"D9": "cloud only: policies of private endpoints to storage; components/aws has checks of its own, of what is declared",
	"E9": "nothing of a body decides anything here, so there is no inspection to skip; size limits are the upstream's or the stack file's",
}

// cases is everything, in order.
var cases = slices.Concat(names, fronting, upgrades, addresses, sideChannels, framing, framing2, readings, credentials, isolation, storms, advisories, certificates, generated, balancers)

// TestEveryAttackIsThere: no ID is forgotten, and none is both tried and not.
func TestEveryAttackIsThere(t *testing.T) {
	t.Parallel()
	var want []string
	for letter, n := range ids {
		for i := range n {
			want = append(want, fmt.Sprint(letter, i+1))
		}
	}
	have := map[string]bool{}
	for _, c := range cases {
		require.NotContains(t, inapplicable, c.ID)
		require.NotEmpty(t, c.Ways, c.What)
		have[c.ID] = true
	}
	for id := range inapplicable {
		have[id] = true
	}
	for _, id := range want {
		require.True(t, have[id], "%s is neither tried nor listed as inapplicable", id)
		delete(have, id)
	}
	require.Empty(t, have, "these are in no list")
}

// only restricts a run to one ID, for whoever works on it.
var only = flag.String("attack", "", "try only the attacks of this `ID`, such as E5")

// concurrent is how many cases run at a time; most of them wait.
const concurrent = 12

// TestAttacks runs every case by every way in, each as an agent of its own, on
// one Envoy.
func TestAttacks(t *testing.T) {
	t.Parallel()
	var seats []*seat
	for i := range cases {
		if *only != "" && cases[i].ID != *only {
			continue
		}
		for _, way := range cases[i].Ways {
			name := fmt.Sprintf("%s-%d%c", strings.ToLower(cases[i].ID), i, way[0])
			seats = append(seats, &seat{Case: &cases[i], way: way, name: name})
		}
	}
	a := newArena(t, seats)
	var wg sync.WaitGroup
	turn := make(chan struct{}, concurrent)
	for _, s := range seats {
		s.arena = a
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			s.execute()
		})
	}
	wg.Wait()
	// Whatever came late, such as a second event for one decision.
	all, err := audit.Read(a.fleet.Home.AuditDir(), audit.Filter{})
	require.NoError(t, err)
	late := map[string][]audit.Event{}
	for _, e := range all {
		if e.Over() {
			late[e.Agent] = append(late[e.Agent], e)
		}
	}
	for _, s := range seats {
		if s.quiet || len(s.failures) > 0 || s.way == Operator {
			continue
		}
		if events := late[s.name]; len(events) != len(s.wanted) {
			s.Errorf("%d events at the end, want %d: %+v", len(events), len(s.wanted), events)
		}
	}
	for _, s := range seats {
		t.Run(s.ID+"/"+string(s.way)+"/"+strings.ReplaceAll(s.What, " ", "_"), func(t *testing.T) {
			t.Logf("took %v", s.took)
			switch {
			case s.Known == "":
				require.Empty(t, s.failures, strings.Join(s.failures, "\n"))
			case len(s.failures) == 0:
				t.Error("it holds: remove the case's Known")
			default:
				t.Logf("KNOWN FAILURE: %s\n%s", s.Known, strings.Join(s.failures, "\n"))
			}
		})
	}
	t.Run("nowhere", a.nowhere)
	report(t, seats)
}

// report writes the table.
func report(t *testing.T, seats []*seat) {
	t.Helper()
	path := os.Getenv(tableVariable)
	if path == "" {
		return
	}
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	w := tabwriter.NewWriter(f, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\twhat\tways in\tverdict")
	failed, tried := 0, 0
	for i := range cases {
		var ways, broken []string
		for _, s := range seats {
			if s.Case == &cases[i] {
				ways = append(ways, string(s.way))
				tried++
				if len(s.failures) > 0 {
					broken = append(broken, string(s.way))
				}
			}
		}
		verdict := "held"
		if len(broken) > 0 {
			failed += len(broken)
			verdict = "FAILED"
			if len(broken) < len(ways) {
				verdict += " (" + strings.Join(broken, ", ") + ")"
			}
			if k := cases[i].Known; k != "" {
				verdict += ", known: " + k
			}
		}
		if len(ways) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", cases[i].ID, cases[i].What, strings.Join(ways, ", "), verdict)
	}
	require.NoError(t, w.Flush())
	fmt.Fprintf(f, "\n%d attacks, each by each way in: %d tried, %d held, %d FAILED\n\nnot tried here:\n", len(cases), tried, tried-failed, failed)
	var not []string
	for id, why := range inapplicable {
		not = append(not, fmt.Sprintf("  %s  %s", id, why))
	}
	slices.Sort(not)
	fmt.Fprintln(f, strings.Join(not, "\n"))
}
