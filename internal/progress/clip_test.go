package progress

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/internal/terminal"
)

// play gives output of one step to streams, each piece so many seconds after the first, and returns
// what is shown before the step ends, and then.
func play(s *streams, failure string, pieces ...piece) (shown, end string) {
	v, began := vertex("RUN x").event(), time.Unix(1000, 0)
	text := func(all []*client.SolveStatus) (text string) {
		for _, ev := range all {
			for _, l := range ev.Logs {
				text += string(l.Data)
			}
		}
		return text
	}
	for _, p := range pieces {
		shown += text(s.pass(&client.SolveStatus{Logs: []*client.VertexLog{{
			Vertex: v.Digest, Stream: 1, Data: []byte(p.data), Timestamp: began.Add(p.after),
		}}}))
	}
	v.Completed, v.Error = &began, failure
	return shown, text(s.pass(&client.SolveStatus{Vertexes: []*client.Vertex{v}}))
}

type piece struct {
	after time.Duration
	data  string
}

func TestClip(t *testing.T) {
	kb := func(n int, letter string) string { return strings.Repeat(letter, n<<10) }
	for name, tc := range map[string]struct {
		limits Limits
		pieces []piece
		shown  string
		end    string
	}{
		"nothing to clip": {DefaultLimits, []piece{{0, kb(100, "a")}, {1, kb(100, "b")}}, kb(100, "a") + kb(100, "b"), ""},
		"speed": {DefaultLimits, []piece{{0, kb(150, "a")}, {1, kb(100, "b")}, {2, kb(100, "c")}},
			kb(150, "a") + kb(50, "b") + "\n[output clipped, log limit 200KiB/s reached]\n", kb(100, "b") + kb(100, "c")},
		"speed, and shown again": {DefaultLimits, []piece{{0, kb(250, "a")}, {1500 * time.Millisecond, kb(100, "b")}},
			kb(200, "a") + "\n[output clipped, log limit 200KiB/s reached]\n" + kb(100, "b"), kb(156, "a") + kb(100, "b")},
		"size": {Limits{300 << 10, -1}, []piece{{0, kb(400, "a")}, {time.Hour, kb(400, "b")}},
			kb(300, "a") + "\n[output clipped, log limit 300KiB reached]\n", kb(256, "b")},
		"size later": {DefaultLimits, []piece{{time.Hour, kb(2048, "a")}, {2 * time.Hour, "b"}},
			kb(2048, "a") + "\n[output clipped, log limit 2MiB reached]\n", "b"},
		"no limit": {Limits{-1, -1}, []piece{{0, kb(9000, "a")}}, kb(9000, "a"), ""},
		"nothing":  {Limits{0, -1}, []piece{{0, "a\n"}}, "\n[output clipped, log limit 0B reached]\n", "a\n"},
	} {
		pieces := append([]piece{{0, ""}}, tc.pieces...) // the first one is when it begins
		shown, end := play(newStreams(tc.limits), "", pieces...)
		if shown != tc.shown || end != tc.end {
			t.Errorf("%s: %d bytes, then %d: want %d, then %d; it shows %.60q", name, len(shown), len(end), len(tc.shown), len(tc.end), shown[max(0, len(shown)-60):])
		}
	}
}

// TestTailIsBounded: what is kept of what was dropped is not more than twice what is shown of it.
func TestTailIsBounded(t *testing.T) {
	var c clip
	for i := range 5000 {
		c.cut(Limits{0, -1}, bytes.Repeat([]byte{byte(i)}, 1000), 0)
		if cap(c.tail) > 4*tailSize {
			t.Fatalf("%d bytes are kept", cap(c.tail))
		}
	}
}

// TestTreeIsBounded: a live tree keeps all it is given, so that it is not given everything.
func TestTreeIsBounded(t *testing.T) {
	s := newStreams(Limits{-1, -1})
	s.bounded, s.budget = true, treeBudget
	shown, end := play(s, "", piece{0, strings.Repeat("y\n", treeBudget/60)}, piece{0, "more\n"})
	if !strings.HasSuffix(shown, "[output clipped, the display's limit for all steps is reached]\n") || end != "" {
		t.Errorf("shown to %.80q, then %.80q", shown[max(0, len(shown)-80):], end)
	}
	if shown, end := play(s, "", piece{0, "quiet\n"}); shown+end != "" {
		t.Errorf("after the limit it is shown %q, then %q", shown, end)
	}
	if shown, end := play(s, context.Canceled.Error(), piece{0, "quiet\n"}); shown+end != "" {
		t.Errorf("of a step that was cancelled it is shown %q, then %q", shown, end)
	}
	if shown, end := play(s, "exit code: 2", piece{0, "why\n"}); shown != "" || end != "why\n" {
		t.Errorf("of a step that fails it is shown %q, then %q", shown, end)
	}
}

// TestNamesAreLines: a step is a line wherever it is shown, and its name is not repeated whole when it fails.
func TestNamesAreLines(t *testing.T) {
	name := "[2/2] RUN set -e;\tmake\n#9 DONE " + strings.Repeat("&& \\\n    make more ", 100) + "the end"
	run := func(sink Sink) {
		s := Start(sink, vertex(name))
		s.Done(errors.New("exit code: 2\n  tried a\n  try b"))
	}
	for _, tty := range []bool{false, true} {
		var out bytes.Buffer
		d := display(t, DisplayOptions{Mode: "plain", Out: &out, Terminal: tty, Limits: DefaultLimits})
		run(d)
		d.Wait()
		if got := out.String(); !strings.Contains(got, "#1 [2/2] RUN set -e; make #9 DONE && ") || strings.Count(got, "the end") > 1 || strings.Contains(got, "\n#9") || strings.Contains(got, "tried") || !strings.Contains(got, "#1 ERROR: exit code: 2\n") {
			t.Errorf("it is shown as %q", got)
		}
	}
	var out bytes.Buffer
	l := NewLog(&out)
	run(l)
	if err := l.Close(); err != nil || strings.Count(out.String(), "\n") != 4 {
		t.Errorf("the log is %q, %v", out.String(), err)
	}
	out.Reset()
	d := display(t, DisplayOptions{Mode: "rawjson", Out: &out, Limits: DefaultLimits})
	run(d)
	d.Wait()
	if !strings.Contains(out.String(), `;\tmake\n#9`) {
		t.Errorf("a program is told %q", out.String())
	}
}

const evil = "\x1b]0;t\a\x1b]52;c;eA==\a\x1b[6n\x1b[2J\u009b1m\u202e"

// TestTerminalIsSafe: nothing that comes from outside is obeyed by a terminal, in any part of an event.
func TestTerminalIsSafe(t *testing.T) {
	for _, tty := range []bool{true, false} {
		var out bytes.Buffer
		d := display(t, DisplayOptions{Mode: "plain", Out: &out, Terminal: tty, Limits: DefaultLimits})
		v := vertex("RUN name" + evil)
		s := Start(d, v)
		s.Stdout().Write([]byte("\x1b[32mgreen\x1b[0m 1%\r2%" + evil + "!\n"))
		s.Stderr().Write([]byte("half \x1b]0;"))
		s.Stderr().Write([]byte("a title\a!\n"))
		s.Status("sha256:status"+evil, 1, 2, false)
		s.Status("sha256:status"+evil, 2, 2, true)
		s.Warn("warning"+evil, nil, "", nil)
		s.Done(errors.New("failed" + evil))
		d.Wait()
		got := out.String()
		if !tty {
			if !strings.Contains(got, evil+"!\n") {
				t.Errorf("a file gets something else than the step printed: %q", got)
			}
			continue
		}
		for _, want := range []string{"\x1b[32mgreen\x1b[0m 1%\r2%1m!\n", "half !\n", "RUN name^[]0;t^G", "sha256:status^[", "warning^[", "failed^["} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
		left := strings.NewReplacer("\x1b[32m", "", "\x1b[0m", "", "\r", "").Replace(got)
		if terminal.Text(left) != left {
			t.Errorf("a terminal would obey %q", got)
		}
	}
}
