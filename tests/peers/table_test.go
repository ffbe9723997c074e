package peers

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

type column struct {
	name  string
	value float64
}

// tables is what is printed at the end.
type tables struct {
	titles []string
	rows   map[string][]row
}

type row struct {
	name    string
	columns []column
}

var table = &tables{rows: map[string][]row{}}

// add sets a row: a benchmark runs more than once.
func (t *tables) add(title, name string, columns []column) {
	if !slices.Contains(t.titles, title) {
		t.titles = append(t.titles, title)
	}
	rows := t.rows[title]
	if i := slices.IndexFunc(rows, func(r row) bool { return r.name == name }); i >= 0 {
		rows[i].columns = columns
		return
	}
	t.rows[title] = append(rows, row{name, columns})
}

func (t *tables) print() {
	for _, title := range t.titles {
		rows := t.rows[title]
		fmt.Fprintf(os.Stdout, "| %-36s", title)
		for _, c := range rows[0].columns {
			fmt.Fprintf(os.Stdout, " | %16s", c.name)
		}
		fmt.Fprintf(os.Stdout, " |\n|%s%s|\n", strings.Repeat("-", 38), strings.Repeat("|------------------", len(rows[0].columns)))
		for _, r := range rows {
			fmt.Fprintf(os.Stdout, "| %-36s", r.name)
			for _, c := range r.columns {
				fmt.Fprintf(os.Stdout, " | %16s", number(c.value))
			}
			fmt.Fprintln(os.Stdout, " |")
		}
		fmt.Fprintln(os.Stdout, "|")
	}
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// metric is the name of a proxy where no space may be.
func metric(p *proxy) string { return strings.ReplaceAll(strings.ToLower(p.name), " ", "-") }

// report adds what requests took, with the first proxy's ratios to the others.
func report(b *testing.B, title string, ps []*proxy, rs []*result) {
	b.Helper()
	for i, p := range ps {
		r := rs[i]
		columns := []column{{"req/s", r.rate()}, {"p50 ms", ms(r.each, 0.5)}, {"p99 ms", ms(r.each, 0.99)}}
		if p.pid != 0 {
			columns = append(columns, column{"CPU ms/1k", r.perThousand()}, column{"RSS MB", r.rss},
				column{"x rate", r.rate() / rs[0].rate()}, column{"x CPU", r.perThousand() / rs[0].perThousand()})
		}
		table.add(title, p.name, columns)
		if i == 0 {
			b.ReportMetric(r.rate(), "req/s")
			b.ReportMetric(ms(r.each, 0.5), "ms-p50")
			b.ReportMetric(r.perThousand(), "ms-cpu/1k")
			continue
		}
		b.ReportMetric(rs[0].rate()/r.rate(), "x-rate/"+metric(p))
		if p.pid != 0 {
			b.ReportMetric(rs[0].perThousand()/r.perThousand(), "x-cpu/"+metric(p))
		}
	}
	b.ReportMetric(0, "ns/op")
}
