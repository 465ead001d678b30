package progress

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// replayed are the events of a sink, as the display "rawjson" writes them.
func replayed(t *testing.T, tell func(Sink)) string {
	t.Helper()
	var out bytes.Buffer
	d, err := NewDisplay(context.Background(), DisplayOptions{Mode: "rawjson", Out: &out, Limits: DefaultLimits})
	if err != nil {
		t.Fatal(err)
	}
	tell(d)
	d.Wait()
	return out.String()
}

// TestReplay: what a display has written as lines is told as it was; a build that begins anew has other steps, and those that had not ended are cancelled. When
// it has ended well, so have all.
func TestReplay(t *testing.T) {
	lines := replayed(t, func(s Sink) {
		step := Start(s, Vertex{Digest: digest.Digest("sha256:" + strings.Repeat("a", 64)), Name: "[1/2] RUN make"})
		step.Stdout().Write([]byte("one\n"))
		step.Done(errors.New("exit code 1"))
		Start(s, Vertex{Digest: digest.Digest("sha256:" + strings.Repeat("b", 64)), Name: "[2/2] RUN sleep"})
	})
	var events []*client.SolveStatus
	r := NewReplay(SinkFunc(func(s *client.SolveStatus) { events = append(events, s) }))
	for line := range strings.Lines(lines) {
		if !r.Line([]byte(line)) {
			t.Errorf("no event: %s", line)
		}
	}
	r.Again()
	for line := range strings.Lines(lines) {
		r.Line([]byte(line))
	}
	r.End()
	if r.Line([]byte("ERROR: failed to solve")) || r.Line([]byte(`{"containerimage.digest":"x"}`)) {
		t.Error("what is no event was taken for one")
	}
	ends, output := map[string]string{}, ""
	for _, ev := range events {
		for _, v := range ev.Vertexes {
			if v.Completed != nil {
				ends[v.Digest.String()] = v.Error
			}
		}
		for _, l := range ev.Logs {
			output += string(l.Data)
		}
	}
	if well := slices.Index(slices.Collect(maps.Values(ends)), ""); len(ends) != 4 || well < 0 || ends["sha256:"+strings.Repeat("a", 64)] != "exit code 1" || ends["sha256:"+strings.Repeat("b", 64)] != "context canceled" {
		t.Errorf("the steps ended so: %v", ends)
	}
	if output != "one\none\n" {
		t.Errorf("output %q", output)
	}
}

// FuzzReplay: whatever claims to be an event, displays take what is made of it.
func FuzzReplay(f *testing.F) {
	const v = `"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`
	begun := `{"vertexes":[{"digest":` + v + `,"name":"x","started":"2026-01-01T00:00:00Z"}]}` + "\n"
	for _, line := range []string{
		`{"vertexes":[null,{"digest":"x"},{"digest":` + v + `,"completed":"2026-01-01T00:00:00Z"}]}`,
		`{"logs":[null,{"vertex":` + v + `,"stream":7,"data":"AAAA"},{"vertex":` + v + `,"stream":-1,"data":"AAAA"}]}`,
		`{"statuses":[null,{"id":"again","vertex":` + v + `},{"id":"ran again: x","vertex":` + v + `,"completed":"2026-01-01T00:00:00Z"}]}`,
		`{"warnings":[null,{"vertex":` + v + `,"short":"AAAA","range":[null,{}]}]}`,
	} {
		f.Add([]byte(begun + line))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, mode := range []string{"plain", "rawjson"} {
			d, err := NewDisplay(context.Background(), DisplayOptions{Mode: mode, Out: &bytes.Buffer{}, Terminal: true})
			if err != nil {
				t.Fatal(err)
			}
			r := NewReplay(Multi(d, NewLog(&bytes.Buffer{})))
			for line := range bytes.Lines(data) {
				r.Line(line)
			}
			r.Again()
			d.Wait()
		}
	})
}
