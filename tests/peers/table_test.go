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
	// low and high are how much it differed within the run, if not 0.
	low, high float64
}

// String is the value with its range.
func (c column) String() string {
	if c.high == 0 {
		return number(c.value)
	}
	return number(c.value) + " (" + number(c.low) + "-" + number(c.high) + ")"
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
			fmt.Fprintf(os.Stdout, " | %18s", c.name)
		}
		fmt.Fprintf(os.Stdout, " |\n|%s%s|\n", strings.Repeat("-", 38), strings.Repeat("|--------------------", len(rows[0].columns)))
		for _, r := range rows {
			fmt.Fprintf(os.Stdout, "| %-36s", r.name)
			for _, c := range r.columns {
				fmt.Fprintf(os.Stdout, " | %18s", c.String())
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
		columns := []column{{name: "req/s", value: r.rate()}, {name: "p50 ms", value: ms(r.each, 0.5)}, {name: "p99 ms", value: ms(r.each, 0.99)}}
		if p.pid != 0 {
			columns = append(columns, column{name: "CPU ms/1k", value: r.perThousand()}, column{name: "RSS MB", value: r.rss})
		}
		if i == 0 {
			b.ReportMetric(r.rate(), "req/s")
			b.ReportMetric(ms(r.each, 0.5), "ms-p50")
			b.ReportMetric(r.perThousand(), "ms-cpu/1k")
			columns = append(columns, column{name: "our rate / its", value: 1}, column{name: "our CPU / its", value: 1})
			table.add(title, p.name, columns)
			continue
		}
		low, mid, high := ratio(rs[0].rates, r.rates)
		b.ReportMetric(mid, "x-rate/"+metric(p))
		columns = append(columns, column{"our rate / its", mid, low, high})
		if p.pid != 0 {
			low, mid, high := ratio(rs[0].cpu, r.cpu)
			b.ReportMetric(mid, "x-cpu/"+metric(p))
			columns = append(columns, column{"our CPU / its", mid, low, high})
		}
		table.add(title, p.name, columns)
	}
	b.ReportMetric(0, "ns/op")
}
