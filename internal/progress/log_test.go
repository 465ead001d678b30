package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestLogIsComplete(t *testing.T) {
	var out bytes.Buffer
	log := NewLog(&out)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s := Start(log, vertex(fmt.Sprintf("RUN %d", i)))
			for j := range 500 {
				fmt.Fprintf(s.Stdout(), "line %d ", j)
				fmt.Fprintf(s.Stderr(), "error %d\n", j)
				fmt.Fprintf(s.Stdout(), "of %d\n\n", i)
			}
			s.Status("sha256:aa", 5, 10, false)
			s.Status("sha256:aa", 10, 10, true)
			io.WriteString(s.Stderr(), "half a line")
			s.Done([]error{nil, errors.New("boom")}[i%2])
		}()
	}
	wg.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		for _, want := range []string{fmt.Sprintf("RUN %d\n", i), fmt.Sprintf(" line 0 of %d\n", i), fmt.Sprintf(" line 499 of %d\n", i)} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("log has no %q", want)
			}
		}
	}
	for want, n := range map[string]int{
		" DONE ": 2, " ERROR: boom\n": 2, " half a line\n": 4, " sha256:aa 10B / 10B ": 4, " error 7\n": 4, " \n": 2000,
	} {
		if got := strings.Count(out.String(), want); got != n {
			t.Errorf("%d times %q, want %d", got, want, n)
		}
	}
	for line := range strings.Lines(out.String()) {
		if line != "\n" && !strings.HasPrefix(line, "#") {
			t.Fatalf("line %q has no step", line)
		}
	}
}

// TestLogIsBounded: the log keeps the beginning and the end of what a step prints, and is no longer.
func TestLogIsBounded(t *testing.T) {
	var text counter
	log := NewLog(&text)
	s := Start(log, vertex("RUN yes"))
	line := strings.Repeat("y", 1023) + "\n"
	for range 2*LogLimits.Size/1024 - 1 {
		io.WriteString(s.Stdout(), line)
	}
	io.WriteString(s.Stdout(), "the last line\n")
	s.Done(nil)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if most := int(LogLimits.Size + LogLimits.Size/32 + tailSize); text.n > most || text.n < int(LogLimits.Size) {
		t.Errorf("%d bytes, want %d at most", text.n, most)
	}
	end := string(text.last)
	if !strings.Contains(end, " the last line\n") || !strings.Contains(end, " DONE ") {
		t.Errorf("it ends %q", end)
	}
	if text.clipped != 1 {
		t.Errorf("it says %d times that it is clipped", text.clipped)
	}
}

// TestLogOfALineWithoutEnd: what waits for the end of a line is bounded.
func TestLogOfALineWithoutEnd(t *testing.T) {
	var out bytes.Buffer
	log := NewLog(&out)
	s := Start(log, vertex("RUN yes"))
	for range 64 {
		io.WriteString(s.Stdout(), strings.Repeat("x", maxLine/4))
	}
	if n := len(log.steps[vertex("RUN yes").Digest].partial[1].text); n > maxLine {
		t.Errorf("%d bytes wait", n)
	}
	s.Done(nil)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "x"); n != 16*maxLine {
		t.Errorf("%d bytes, want %d", n, 16*maxLine)
	}
}

func TestLogReportsWriteError(t *testing.T) {
	r, w := io.Pipe()
	r.CloseWithError(errors.New("disk full"))
	log := NewLog(w)
	Start(log, vertex("a")).Done(nil)
	if err := log.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Close: %v", err)
	}
}

// counter counts what is written and keeps the end.
type counter struct {
	n, clipped int
	last       []byte
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	c.clipped += bytes.Count(p, []byte("[output clipped, log limit 64MiB reached]\n"))
	c.last = append(c.last[:0], p[max(0, len(p)-1000):]...)
	return len(p), nil
}
