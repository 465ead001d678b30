package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func printed(text string) *client.SolveStatus {
	return &client.SolveStatus{Logs: []*client.VertexLog{{Data: []byte(text)}}}
}

// told reads a log that has ended.
func told(t *testing.T, l *eventLog) (text string, steps int) {
	t.Helper()
	there, err := l.follow(context.Background(), func(r *controlapi.StatusResponse) error {
		for _, out := range r.Logs {
			text += string(out.Msg)
		}
		steps += len(r.Vertexes)
		return nil
	})
	must(t, err)
	if !there {
		t.Fatal("it is not there")
	}
	return text, steps
}

// While a log cannot be written, what a build tells of itself is kept longer than what its steps print, and both are bounded.
func TestLogOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	full := true
	l := newEventLog(func() (*os.File, error) {
		if full {
			return nil, errors.New("no space left on device")
		}
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	})
	for range 1000 {
		l.Write(printed(strings.Repeat("x", 10_000)))
	}
	l.Write(&client.SolveStatus{Vertexes: []*client.Vertex{{Name: "kept"}}})
	if len(l.rest) > mostUnwritten+1000 || l.lost == 0 {
		t.Errorf("%d bytes wait, %d are lost", len(l.rest), l.lost)
	}
	for range 100 {
		l.Write(&client.SolveStatus{Vertexes: []*client.Vertex{{Name: strings.Repeat("y", 100_000)}}})
	}
	if len(l.rest) > 2*mostUnwritten {
		t.Errorf("%d bytes wait", len(l.rest))
	}
	full = false
	l.Write(printed("last"))
	l.end()
	text, steps := told(t, l)
	if !strings.HasSuffix(text, "xlast") || steps == 0 || steps > 30 {
		t.Errorf("told are %d bytes and %d steps", len(text), steps)
	}
	sum, size, err := l.save()
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	if digest.FromBytes(data) != sum || int64(len(data)) != size {
		t.Errorf("the file has %d bytes of %s, said was %d of %s", len(data), digest.FromBytes(data), size, sum)
	}
	l.forget()
	if there, _ := l.follow(context.Background(), nil); there {
		t.Error("it is still there")
	}
}

// A log is read from its file, by many at once, each at its own pace.
func TestLogIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	l := newEventLog(func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) })
	type got struct {
		text string
		err  error
	}
	all := make(chan got, 4)
	for range cap(all) {
		go func() {
			var text strings.Builder
			_, err := l.follow(context.Background(), func(r *controlapi.StatusResponse) error {
				for _, out := range r.Logs {
					text.Write(out.Msg)
				}
				return nil
			})
			all <- got{text.String(), err}
		}()
	}
	var want strings.Builder
	for i := range 3000 {
		text := fmt.Sprintln(i, strings.Repeat("z", i))
		want.WriteString(text)
		l.Write(printed(text))
	}
	l.Write(printed(strings.Repeat("long", 100_000)))
	want.WriteString(strings.Repeat("long", 100_000))
	l.end()
	l.Write(printed("too late"))
	for range cap(all) {
		if g := <-all; g.err != nil || g.text != want.String() {
			t.Errorf("told are %d bytes, want %d: %v", len(g.text), want.Len(), g.err)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	open := newEventLog(nil)
	cancel(errors.New("gone"))
	if _, err := open.follow(ctx, nil); err == nil || err.Error() != "gone" {
		t.Errorf("who has gone is told %v", err)
	}
}

// A damaged log is an error, and one that is cut off is told as far as it goes.
func TestReplayDamaged(t *testing.T) {
	send := func(*controlapi.StatusResponse) error { return nil }
	for text, want := range map[string]string{"": "", "\x05\x00\x00\x00ab": "", "\xff\xff\xff\xff": "damaged", "\x01\x00\x00\x00\xff": "reading the log"} {
		err := replay(context.Background(), strings.NewReader(text), send)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("replaying %q is %v, want %q", text, err, want)
		}
	}
}

// How many builds there may be is bounded, and so is what is remembered of those that are over.
func TestJobsAreBounded(t *testing.T) {
	js := newJobs(2)
	add := func(ref string) (*job, error) { j := &job{ref: ref, log: newEventLog(nil)}; return j, js.add(j) }
	a, err := add("a")
	must(t, err)
	_, err = add("b")
	must(t, err)
	if _, err := add("c"); err == nil || !strings.Contains(err.Error(), "2 builds run") {
		t.Errorf("a third one is %v", err)
	}
	js.remove(a, false)
	for i := range 2 * maxOver {
		j, err := add(fmt.Sprint(i))
		must(t, err)
		js.remove(j, false)
	}
	if len(js.over) != maxOver {
		t.Errorf("%d are remembered", len(js.over))
	}
	if j, _ := js.find("a"); j != nil || a.log.kept {
		t.Error("the oldest one is remembered")
	}
	late := js.over[0]
	js.forget(late)
	if j, _ := js.find(late.ref); j != nil || late.log.kept {
		t.Error("one is remembered after its time")
	}
}
