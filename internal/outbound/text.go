package outbound

import (
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// In addresses of web servers a name alone may be a token, and so in those of git://, which has no users and with kaniko stands for https://; elsewhere it
// is part of the address. (The user
// of an address ends at its last "@" before what net/url takes for the end of a host.)
var (
	webUser  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`((?:https?|git)://)[^/?#\s"<>]*@`) })
	password = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/?#:\s"<>]*:[^/?#\s"<>]*@`) })
)

// Redact takes names and passwords out of the addresses in a text.
func Redact(s string) string {
	if !strings.Contains(s, "@") || !strings.Contains(s, "://") {
		return s
	}
	s = webUser().ReplaceAllStringFunc(s, func(found string) string {
		scheme, user, _ := strings.Cut(found, "://")
		if strings.Contains(user, ":") {
			return scheme + "://xxxxx:xxxxx@" // BuildKit's mask
		}
		return scheme + "://xxxxx@"
	})
	return password().ReplaceAllString(s, "${1}xxxxx:xxxxx@")
}

// Clean takes out of a text of another machine's what it may have to command a terminal, all
// control characters but line ends and tabs, and names and passwords in addresses.
func Clean(s string) string {
	return Redact(strings.Map(visible, s))
}

func visible(r rune) rune {
	if unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) {
		return -1
	}
	return r
}

// CleanWriter cleans what it passes on.
func CleanWriter(w io.Writer) io.Writer { return &cleanWriter{w: w} }

type cleanWriter struct {
	w    io.Writer
	held string // the beginning of a character that may be a control character
}

// Write implements io.Writer.
func (c *cleanWriter) Write(p []byte) (int, error) {
	text := c.held + string(p)
	c.held = ""
	const first = "\xc2" // of the two bytes of U+0080 to U+009F
	if strings.HasSuffix(text, first) {
		text, c.held = text[:len(text)-1], first
	}
	if _, err := io.WriteString(c.w, Clean(text)); err != nil {
		return 0, err
	}
	return len(p), nil
}
