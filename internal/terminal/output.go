package terminal

import (
	"bytes"
	"unicode/utf8"
)

// maxSequence bounds what is kept of a sequence that may be a colour.
const maxSequence = 64

// Output cleans what a program prints, piece by piece. What stays is letters, line feeds, tabs,
// carriage returns, backspaces, colours and attributes of letters (SGR), and erasing within a line
// (EL). Everything else that a terminal would obey is dropped, with its parameters: titles, the
// clipboard, reports, moves of the cursor, other character sets. Letters that are not UTF-8 are
// replaced, as a terminal may take their bytes for control characters.
type Output struct {
	state state
	seq   []byte // since the escape
	held  []byte // the beginning of a letter
}

// state is where in a sequence the last byte was.
type state byte

const (
	ground    state = iota
	escape          // after ESC
	function        // after ESC and bytes that announce one more
	parameter       // after ESC [
	text            // of a sequence that has one: a title, the clipboard
	textEnd         // after ESC in a text
)

const esc = 0x1b

// Clean returns what is shown of p, and how many sequences are in that. What may be the beginning of
// one is held back until more comes. The result is p itself when there is nothing to clean.
func (o *Output) Clean(p []byte) (shown []byte, sequences int) {
	if o.state == ground && len(o.held) == 0 && plain(p) {
		return p, 0
	}
	p, rest := cutLetter(append(o.held, p...))
	o.held = bytes.Clone(rest)
	shown = make([]byte, 0, len(p))
	for i := 0; i < len(p); {
		n, kept := 1, false
		if o.state == ground {
			shown, n = o.letter(shown, p[i:])
		} else if shown, n, kept = o.inSequence(shown, p[i]); kept {
			sequences++
		}
		i += n
	}
	return shown, sequences
}

// letter shows the first letter of p, or begins a sequence, and returns how many bytes that took.
func (o *Output) letter(shown, p []byte) ([]byte, int) {
	r, n := utf8.DecodeRune(p)
	switch {
	case r == esc:
		o.state, o.seq = escape, o.seq[:0]
	case r == '\n' || r == '\t' || r == '\r' || r == '\b':
		shown = append(shown, byte(r))
	case r < ' ' || r == 0x7f || commands(r):
	case r == utf8.RuneError && n == 1:
		shown = utf8.AppendRune(shown, r)
	default:
		shown = append(shown, p[:n]...)
	}
	return shown, n
}

// inSequence goes on in a sequence by one byte; n is 0 when that does not belong to it. kept says that
// the sequence ended here and is shown.
func (o *Output) inSequence(shown []byte, c byte) (_ []byte, n int, kept bool) {
	if o.state == text || o.state == textEnd {
		return shown, o.inText(c), false
	}
	if c < ' ' || c >= 0x7f { // damaged
		o.state = ground
		return shown, 0, false
	}
	switch o.state {
	case escape, function:
		switch {
		case c < '0': // intermediate bytes
			o.state = function
		case o.state == function:
			o.state = ground
		case c == '[':
			o.state = parameter
		case bytes.IndexByte([]byte("]PX^_"), c) >= 0:
			o.state = text
		default:
			o.state = ground
		}
	case parameter:
		if c < '@' {
			if len(o.seq) < maxSequence {
				o.seq = append(o.seq, c)
			}
			return shown, 1, false
		}
		o.state = ground
		if harmless(o.seq, c) {
			return append(append(append(shown, esc, '['), o.seq...), c), 1, true
		}
	}
	return shown, 1, false
}

// inText goes on in the text of a sequence. A line feed ends it: no such text has one, and it must not
// hide what a program prints after it.
func (o *Output) inText(c byte) (n int) {
	switch {
	case c == '\n':
		o.state = ground
		return 0
	case c == '\a' || o.state == textEnd && c == '\\':
		o.state = ground
	case c == esc:
		o.state = textEnd
	default:
		o.state = text
	}
	return 1
}

// harmless reports whether a control sequence only colours letters, or erases in its line.
func harmless(parameters []byte, final byte) bool {
	switch final {
	case 'm':
		return len(parameters) < maxSequence && len(bytes.Trim(parameters, "0123456789;:")) == 0
	case 'K':
		return len(parameters) == 0 || len(parameters) == 1 && parameters[0] <= '2' && parameters[0] >= '0'
	}
	return false
}
