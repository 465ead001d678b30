package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// columns are the heads of the table that a row is in: rows of clients, which have no bound, and those of warm builds have tables of their own.
func columns(r row) []string {
	if r.warm {
		return []string{"row", "what", "slipway --warm", "slipway", "BuildKit", "BuildKit/slipway", "BuildKit/slipway --warm", "wanted"}
	}
	if r.client {
		return []string{"row", "what", "slipway", "BuildKit", "BuildKit/slipway", "server's MB", "wanted"}
	}
	return []string{"row", "what", "slipway", "bound", "slipway/bound", "buildah", "buildah/slipway", "peak MB", "wanted"}
}

// cells are a result as a line of the table. Times are "best / median"; ratios are of the best.
func cells(r *result) []string {
	all := []string{r.row.name, r.what, times(&r.slipway)}
	if r.row.warm {
		return append(all, times(&r.bound), times(&r.other), ratio(&r.other, &r.bound), ratio(&r.other, &r.slipway), r.row.goal)
	}
	if !r.row.client {
		all = append(all, times(&r.bound), ratio(&r.slipway, &r.bound))
	}
	return append(all, times(&r.other), ratio(&r.other, &r.slipway), peaks(&r.slipway, &r.other), r.row.goal)
}

func times(o *outcome) string {
	best, ok := o.best()
	if !ok {
		return o.why
	}
	median, _ := o.median()
	return duration(best) + " / " + duration(median)
}

// ratio is a/b of the best times, or nothing when one has none.
func ratio(a, b *outcome) string {
	x, okA := a.best()
	y, okB := b.best()
	if !okA || !okB || y <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x.Seconds()/y.Seconds())
}

// peaks is slipway's peak memory and, in brackets, the other's.
func peaks(slipway, other *outcome) string {
	text := "-"
	if slipway.peak > 0 {
		text = fmt.Sprintf("%d", slipway.peak/1e6)
	}
	if other.peak > 0 {
		text += fmt.Sprintf(" (%d)", other.peak/1e6)
	}
	return text
}

// duration has three digits that count.
func duration(d time.Duration) string {
	ms := d.Seconds() * 1000
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// size is a number of bytes, in units of a thousand.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f kB", float64(n)/1e3)
}

// writeTable writes the results, as markdown or in columns of spaces; those of clients and of warm builds in tables of their own.
func writeTable(w io.Writer, results []result, markdown bool) error {
	for _, of := range []row{{}, {client: true}, {warm: true}} {
		lines := [][]string{columns(of)}
		for _, r := range results {
			if r.row.client == of.client && r.row.warm == of.warm {
				lines = append(lines, cells(&r))
			}
		}
		if len(lines) == 1 {
			continue
		}
		write := writeColumns
		if markdown {
			write = writeMarkdown
		}
		if err := write(w, lines); err != nil {
			return err
		}
	}
	return nil
}

func writeColumns(w io.Writer, lines [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, cells := range lines {
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}

func writeMarkdown(w io.Writer, lines [][]string) error {
	line := func(cells []string) string {
		escaped := make([]string, len(cells))
		for i, c := range cells {
			escaped[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		return "| " + strings.Join(escaped, " | ") + " |\n"
	}
	rule := make([]string, len(lines[0]))
	for i, c := range lines[0] {
		rule[i] = "---"
		switch c {
		case "row", "what", "wanted":
		default:
			rule[i] = "--:"
		}
	}
	text := line(lines[0]) + line(rule)
	for _, cells := range lines[1:] {
		text += line(cells)
	}
	_, err := io.WriteString(w, text+"\n")
	return err
}

// ownPeak is the most memory that this process had, in bytes, or 0 when that is not known. It is
// not what getrusage(2) says, in which the process that started this one counts too.
func ownPeak() int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	n, _ := statusField(string(data), "VmHWM")
	return n
}

// writeNotes tells how the table came about and what failed.
func writeNotes(w io.Writer, m *room, results []result) error {
	var b strings.Builder
	b.WriteString("Times are best / median, ratios those of the best. Peak memory is that of the largest process (the other's in brackets), in rows of clients the server's")
	if n := ownPeak(); n > 0 {
		fmt.Fprintf(&b, "; nothing below %d MB can be seen", n/1e6)
	}
	b.WriteString(".\nBounds:\n")
	for _, r := range results {
		if r.bound.what != "" {
			fmt.Fprintf(&b, "- %s: %s; n=%d\n", r.row.name, r.bound.what, r.n)
		}
		if c := r.counted; c != nil {
			fmt.Fprintf(&b, "- %s: %s: %d system calls, %d each\n", r.row.name, c.what, c.calls, c.calls/int64(c.parts))
		}
	}
	var uts unix.Utsname
	kernel := "unknown"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	fmt.Fprintf(&b, "Machine: %d CPUs, Linux %s, %s; stores on %s; %s", runtime.NumCPU(), kernel, runtime.Version(), m.settings.tmpfs,
		firstLine(m.settings.slipway, "version"))
	for _, other := range []string{"buildah", "runc"} {
		if v := firstLine(other, "--version"); v != "" {
			b.WriteString("; " + v)
		}
	}
	if len(m.buildah) > 0 {
		fmt.Fprintf(&b, "; buildah with --isolation chroot --layers, at most %d times", otherTurns)
	}
	b.WriteString(".\n")
	for _, r := range results {
		for _, o := range []struct {
			who string
			*outcome
		}{{"bound", &r.bound}, {"the other", &r.other}} { // slipway's failures are the program's
			if o.err != nil {
				fmt.Fprintf(os.Stderr, "bench: %s: %s failed: %v\n", r.row.name, o.who, o.err)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
