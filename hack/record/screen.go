package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// cell is a character with its colour: one of the eight of ECMA-48, or 0; bold and faint are told apart.
type cell struct {
	char        rune
	colour      int // 30 to 37, or 0
	bold, faint bool
}

// screen is a terminal without an end, of which it knows what progress displays use: moving up and to a column, erasing, colours.
type screen struct {
	columns  int
	rows     [][]cell
	row, col int
	style    cell
	rest     string // the begin of a sequence
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	text := s.rest + string(p)
	s.rest = ""
	for text != "" {
		if text[0] == '\x1b' {
			n, complete := s.sequence(text)
			if !complete {
				s.rest = text
				break
			}
			text = text[n:]
			continue
		}
		if !utf8.FullRuneInString(text) {
			s.rest = text
			break
		}
		r, n := utf8.DecodeRuneInString(text)
		s.put(r)
		text = text[n:]
	}
	return len(p), nil
}

func (s *screen) put(r rune) {
	switch r {
	case '\n':
		s.row++
	case '\r':
		s.col = 0
	case '\t':
		s.col = min(s.col/8*8+8, s.columns-1)
	case '\b':
		s.col = max(s.col-1, 0)
	default:
		if r < ' ' {
			return
		}
		if s.col >= s.columns {
			s.row, s.col = s.row+1, 0
		}
		c := s.style
		c.char = r
		s.grow()
		s.rows[s.row][s.col] = c
		s.col++
	}
}

// grow has the row of the cursor be there, with as many columns.
func (s *screen) grow() {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
	for len(s.rows[s.row]) <= s.col {
		s.rows[s.row] = append(s.rows[s.row], cell{char: ' '})
	}
}

// sequence obeys the escape sequence that text begins with, and returns its length.
func (s *screen) sequence(text string) (n int, complete bool) {
	if len(text) < 2 {
		return 0, false
	}
	if text[1] != '[' {
		return 2, true
	}
	for n = 2; n < len(text); n++ {
		if text[n] >= '@' && text[n] <= '~' {
			s.control(text[2:n], text[n])
			return n + 1, true
		}
	}
	return 0, false
}

func (s *screen) control(parameters string, final byte) {
	var numbers []int
	for _, p := range strings.Split(parameters, ";") {
		n, _ := strconv.Atoi(p) // 0 where there is none
		numbers = append(numbers, n)
	}
	count := max(numbers[0], 1)
	switch final {
	case 'A':
		s.row = max(s.row-count, 0)
	case 'B':
		s.row += count
	case 'C':
		s.col = min(s.col+count, s.columns-1)
	case 'D':
		s.col = max(s.col-count, 0)
	case 'G':
		s.col = count - 1
	case 'J', 'K':
		if s.row < len(s.rows) {
			if numbers[0] == 2 || s.col == 0 {
				s.rows[s.row] = nil
			} else if numbers[0] == 0 && s.col < len(s.rows[s.row]) {
				s.rows[s.row] = s.rows[s.row][:s.col]
			}
			if final == 'J' {
				s.rows = s.rows[:s.row+1]
			}
		}
	case 'm':
		s.sgr(numbers)
	}
}

func (s *screen) sgr(numbers []int) {
	for _, n := range numbers {
		switch {
		case n == 0:
			s.style = cell{}
		case n == 1:
			s.style.bold = true
		case n == 2:
			s.style.faint = true
		case n == 22:
			s.style.bold, s.style.faint = false, false
		case n >= 30 && n <= 37:
			s.style.colour = n
		case n >= 90 && n <= 97:
			s.style.colour = n - 60
		case n == 39:
			s.style.colour = 0
		}
	}
}

// lines are the rows without empty ones at the end.
func (s *screen) lines() [][]cell {
	rows := s.rows
	for len(rows) > 0 && len(rows[len(rows)-1]) == 0 {
		rows = rows[:len(rows)-1]
	}
	return rows
}

// text is what is on it without colours.
func (s *screen) text() string {
	var b strings.Builder
	for _, row := range s.lines() {
		for _, c := range row {
			b.WriteRune(c.char)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
