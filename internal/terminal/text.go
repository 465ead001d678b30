// Package terminal makes what comes from outside safe to be shown on a terminal: a terminal obeys
// what is written to it, and what is written may be the name of a file, a label of an image, an
// error of a registry or the output of a step.
//
// # Structure
//
// [Text] and [Writer] are for what is only words: whatever a terminal would obey, or what changes the
// order in which it shows letters, is made visible. [Output] is for what programs print: it keeps
// their colours and lines that are written over, and drops the rest.
package terminal

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// Text makes a text of one or more lines harmless: a control character is written as "^X", or as its
// number.
func Text(s string) string {
	if plain(s) {
		return s
	}
	return string(visible(nil, []byte(s)))
}

// Line does the same with what is one line: a line break in it is made visible as well.
func Line(s string) string {
	s = Text(s)
	if !bytes.ContainsRune([]byte(s), '\n') {
		return s
	}
	return string(bytes.ReplaceAll([]byte(s), []byte("\n"), []byte("^J")))
}

// Short is a text in one line of so many letters at most: what is more becomes "...". Only a text that is cut, or has
// several lines, has its blanks changed.
func Short(s string, most int) string {
	if utf8.RuneCountInString(s) > most {
		s = strings.Join(strings.Fields(s), " ")
	}
	s = blanks.Replace(s)
	for i, n := 0, 0; i < len(s); n++ {
		if n == most-len("...") && utf8.RuneCountInString(s[i:]) > len("...") {
			return strings.TrimRight(s[:i], " ") + "..."
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	return s
}

// blanks makes a text one line.
var blanks = strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ")

// plain reports whether s has nothing but ASCII that is shown, which is what most texts are.
func plain[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\n' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

// visible appends p to out, made harmless.
func visible(out, p []byte) []byte {
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRune(p[i:])
		switch {
		case r == '\n' || r == '\t':
			out = append(out, byte(r))
		case r == '\r' && i+1 < len(p) && p[i+1] == '\n':
			out = append(out, '\r')
		case r < ' ' || r == 0x7f:
			out = append(out, '^', byte(r)^0x40)
		case r == utf8.RuneError && n == 1:
			out = utf8.AppendRune(out, utf8.RuneError)
		case commands(r):
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, p[i:i+n]...)
		}
		i += n
	}
	return out
}

// commands reports whether r is something that a terminal obeys, beyond ASCII: a control character of
// the second set, or one that changes the direction of writing.
func commands(r rune) bool {
	return r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// Writer writes to a terminal what is made harmless. It is safe for concurrent use.
type Writer struct {
	w    io.Writer
	mu   sync.Mutex
	held []byte // the beginning of a letter
}

// NewWriter returns a writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write implements io.Writer.
func (t *Writer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := p
	if len(t.held) > 0 || !plain(p) {
		whole, rest := cutLetter(append(t.held, p...))
		t.held = bytes.Clone(rest)
		out = visible(nil, whole)
	}
	if _, err := t.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// cutLetter cuts off the beginning of a letter at the end of p.
func cutLetter(p []byte) (whole, rest []byte) {
	for i := len(p) - 1; i >= 0 && i >= len(p)-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if p[i] >= utf8.RuneSelf && !utf8.FullRune(p[i:]) {
				return p[:i], p[i:]
			}
			break
		}
	}
	return p, nil
}
