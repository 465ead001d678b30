package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"lines", "a\r\nb\r\n", "a\nb\n"},
		{"over", "12345\rab", "ab345\n"},
		{"up and erased", "one\r\ntwo\r\n\x1b[1A\x1b[2Kx\r\n", "one\nx\n"},
		{"the rest of a line", "abcdef\r\x1b[2C\x1b[K", "ab\n"},
		{"below", "a\r\nb\r\nc\r\n\x1b[2A\x1b[J", "a\n"},
		{"wrapped", "0123456789ab", "0123456789\nab\n"},
		{"colours and the cursor", "\x1b[?25l\x1b[1;32mok\x1b[0m!\x1b[?25h", "ok!\n"},
		{"tabs", "a\tb", "a       b\n"},
		{"characters", "é→", "é→\n"},
	} {
		for _, size := range []int{1, len(c.in)} { // also in single bytes
			s := &screen{columns: 10}
			for rest := []byte(c.in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				_, _ = s.Write(rest[:min(size, len(rest))])
			}
			if got := s.text(); got != c.want {
				t.Errorf("%s, %d bytes at once: %q, want %q", c.name, size, got, c.want)
			}
		}
	}
}

func TestPerformAndDraw(t *testing.T) {
	s, err := perform(`printf '\033[31m<red> & co\033[0m\n'; test -t 1 && stty size`, 80)
	if err != nil {
		t.Fatal(err)
	}
	if want := "<red> & co\n50 80\n"; s.text() != want {
		t.Errorf("it showed %q, want %q", s.text(), want)
	}
	svg := draw([]entry{{"# first", nil}, {"echo", s.lines()}}, 80)
	for _, want := range []string{`fill="#f87171">&lt;red&gt; &amp; co<`, ">50 80<", "># first<"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("there is no %s in\n%s", want, svg)
		}
	}
	for dec := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := perform("exit 3", 80); err == nil {
		t.Error("a command that failed is no error")
	}
}
