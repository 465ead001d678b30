package reasons

import (
	"fmt"
	"slices"
	"testing"
)

// A client's graph may lead from a step to another one in more ways than anybody can go: each step is compared once.
func TestManyWays(t *testing.T) {
	graph := func(base string) *Build {
		b := &Build{Vertices: []Vertex{{Name: "[1/90] FROM busybox", Key: base, Lines: []string{"operation image", "manifest " + base}}}}
		for i := 1; i < 90; i++ {
			v := Vertex{Name: fmt.Sprintf("[%d/90] RUN %d", i+1, i), Key: fmt.Sprint(base, i), Lines: []string{"operation exec", fmt.Sprintf("command %d", i)}}
			for in := range 3 {
				v.Inputs = append(v.Inputs, i-1)
				v.Lines = append(v.Lines, fmt.Sprintf("input %d %s%d output %d", in, base, i-1, in))
			}
			b.Vertices = append(b.Vertices, v)
		}
		return b
	}
	now := graph("sha256:2")
	for _, vertex := range []int{89, 1} { // the last one first: nothing is known of those before it
		got := Compare(graph("sha256:1"), now).Step(vertex)
		if want := "base image busybox moved from sha256:1 to sha256:2"; len(got) != 1 || got[0].Text != want {
			t.Errorf("step %d has %d reasons, the first is %+v, want %q", vertex, len(got), got[0], want)
		}
	}
	// With inputs that differ each by itself the reasons are many, and bounded.
	wide := func(base string) *Build {
		b := &Build{}
		last := Vertex{Name: "[2/2] RUN x", Key: base, Lines: []string{"operation exec"}}
		for i := range 3 * maxReasons {
			b.Vertices = append(b.Vertices, Vertex{Name: fmt.Sprintf("[s%d 1/1] FROM %d", i, i), Key: fmt.Sprint(base, i), Lines: []string{"operation image", "manifest " + base}})
			last.Inputs = append(last.Inputs, i)
			last.Lines = append(last.Lines, fmt.Sprintf("input %d %s%d output 0", i, base, i))
		}
		b.Vertices = append(b.Vertices, last)
		return b
	}
	if got := Compare(wide("1"), wide("2")).Step(3 * maxReasons); len(got) != maxReasons {
		t.Errorf("%d reasons", len(got))
	}
}

// What codes of another store stand for is not known: they neither differ nor are the same.
func TestOtherCodes(t *testing.T) {
	graph := func(codes, version, code string) *Build {
		return &Build{Codes: codes, Vertices: []Vertex{{Name: "[2/2] RUN x", Key: codes + version + code, Lines: []string{
			"operation exec", "environment VERSION=" + version, "environment SECRET ~" + code,
		}}}}
	}
	for _, tt := range []struct {
		before, now *Build
		want        string
	}{
		{graph("a", "1", "x"), graph("a", "1", "y"), "environment variable SECRET changed"},
		{graph("", "1", "x"), graph("a", "1", "y"), "environment variable SECRET changed"}, // of the time before there were names of keys
		{graph("a", "1", "x"), graph("b", "1", "y"), ""},
		{graph("a", "1", "x"), graph("b", "2", "y"), "environment variable VERSION changed 1 -> 2"},
	} {
		lines := slices.Clone(tt.before.Vertices[0].Lines)
		if got := text(Compare(tt.before, tt.now).Step(0)); got != tt.want {
			t.Errorf("from %v to %v: %q, want %q", tt.before, tt.now, got, tt.want)
		}
		if !slices.Equal(lines, tt.before.Vertices[0].Lines) {
			t.Error("what was compared is changed")
		}
	}
}
