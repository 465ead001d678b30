package outbound

import (
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"ADD http://me:pw@h/f /":                 "ADD http://xxxxx:xxxxx@h/f /",
		"https://token@github.com/a/b.git#main":  "https://xxxxx@github.com/a/b.git#main",
		`{"uri":"https://a:b\u0026c@h/x","y":1}`: `{"uri":"https://xxxxx:xxxxx@h/x","y":1}`,
		"http://a:b@c@h/ and http://d:e@h":       "http://xxxxx:xxxxx@h/ and http://xxxxx:xxxxx@h",
		"http://:pw@h/":                          "http://xxxxx:xxxxx@h/",
		"git://token@h/a.git":                    "git://xxxxx@h/a.git",
		"ssh://git@h/a and git@h:a":              "ssh://git@h/a and git@h:a",
		"ssh://git:pw@h/a":                       "ssh://xxxxx:xxxxx@h/a",
		"http://h/a@sha256:1 http://h?x@y":       "http://h/a@sha256:1 http://h?x@y",
		"http://h:80/ me@example.com":            "http://h:80/ me@example.com",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
		if got := Redact(want); got != want {
			t.Errorf("%s becomes %s", want, got)
		}
	}
}

func TestClean(t *testing.T) {
	const in = "a\x1b[2Jb\x00\x07\x7f\u009b5n\xc2\xa0\tc\r\nhttp://u:p@h/ ä"
	const want = "a[2Jb5n\u00a0\tc\r\nhttp://xxxxx:xxxxx@h/ ä"
	if got := Clean(in); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for size := range len(in) - 22 { // however it is cut, but for the address
		var b strings.Builder
		w := CleanWriter(&b)
		for rest := in; rest != ""; {
			n := min(size+1, len(rest))
			if strings.Contains(rest[n:], "@") && !strings.Contains(rest[n:], "http://") {
				n = len(rest)
			}
			if _, err := w.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got := strings.ToValidUTF8(b.String(), ""); strings.ContainsAny(got, "\x1b\x00\x07\x7f\u009b") {
			t.Errorf("in parts of %d: %q", size+1, got)
		}
	}
}
