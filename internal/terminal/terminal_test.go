package terminal

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":        "plain\ttext\n",
		"größe 字 \u200f":       "größe 字 \u200f",
		"a\x1b]52;c;eA==\ab":   "a^[]52;c;eA==^Gb",
		"\x1b[31mred":          "^[[31mred",
		"over\rwritten":        "over^Mwritten",
		"windows\r\n":          "windows\r\n",
		"\u009b31m":            `\u009b31m`,
		"\x9b31m":              "\ufffd31m",
		"exe\u202etxt.\u2066x": `exe\u202etxt.\u2066x`,
		"del\x7f nul\x00":      "del^? nul^@",
		"latin \xe9":           "latin \ufffd",
		"real \ufffd":          "real \ufffd",
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		for i := range len(in) {
			w.Write([]byte{in[i]})
		}
		switch in {
		case "windows\r\n": // its end came separately
			want = "windows^M\n"
		case "latin \xe9": // more might have come
			want = "latin "
		}
		if got := out.String(); got != want {
			t.Errorf("%q byte by byte gives %q, want %q", in, got, want)
		}
	}
	if got := Line("RUN a\n#2 DONE"); got != "RUN a^J#2 DONE" {
		t.Errorf("Line: %q", got)
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"ten  chars":              "ten  chars",
		"a\n\tb":                  "a  b",
		"eleven chars":            "eleven...",
		"two   \\\n    lines":     "two \\ l...",
		"größe größe":             "größe g...",
		"a       b       c     d": "a b c d",
	} {
		if got := Short(in, 10); got != want {
			t.Errorf("Short(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestOutput(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n":                                   "plain\n",
		"\x1b[1;31mred\x1b[0m\x1b[38;2;1;2;3mx":     "\x1b[1;31mred\x1b[0m\x1b[38;2;1;2;3mx",
		"10%\r\x1b[K20%\b\b%":                       "10%\r\x1b[K20%\b\b%",
		"a\x1b]0;title\ab":                          "ab",
		"a\x1b]52;c;eA==\x1b\\b":                    "ab",
		"a\x1bP+q544e\x1b\\b\x1b_x\x1b\\c":          "abc",
		"\x1b]0;never ended\nshown":                 "\nshown",
		"\x1b[6n\x1b[5n\x1b[c\x1b[>c\x1b[21t":       "",
		"\x1b[2J\x1b[H\x1b[10A\x1b[?1049h\x1b[3Kup": "up",
		"\x1bc\x1b7\x1b8\x1b(0q\x1b#8\x1b%Gz":       "qz",
		"\x1b[31\nm":                                "\nm",
		"\x1b\x1b[32mg":                             "\x1b[32mg",
		"\u009b6n\u009d0;t\u009c":                   "6n0;t",
		"\x9b6n\x90":                                "\ufffd6n\ufffd",
		"größe 字":                                   "größe 字",
		"\u202eevil\u2069":                          "evil",
		"bell\a null\x00 ff\f":                      "bell null ff",
		"\x1b[>4;1m\x1b[?4m":                        "", // xterm's keyboard, not colours
	} {
		var o Output
		if got, _ := o.Clean([]byte(in)); string(got) != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
		o = Output{}
		var got []byte
		for i := range len(in) {
			shown, _ := o.Clean([]byte{in[i]})
			got = append(got, shown...)
		}
		switch in {
		case "\x9b6n\x90":
		default:
			if string(got) != want {
				t.Errorf("%q byte by byte gives %q, want %q", in, got, want)
			}
		}
	}
}

// FuzzOutput: whatever comes, in whatever pieces, only what is allowed comes out.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\x1b]0;x\a"), 3)
	f.Add([]byte("\x1b\x1b[\x1b[3\xc2\x9b1m"), 9)
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		var o Output
		at = min(max(at, 0), len(in))
		first, _ := o.Clean(in[:at])
		got := bytes.Clone(first)
		second, _ := o.Clean(in[at:])
		got = append(got, second...)
		if !utf8.Valid(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		for rest := got; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			if r == esc {
				end := bytes.IndexAny(rest, "mK")
				if end < 2 || rest[1] != '[' || !harmless(rest[2:end], rest[end]) {
					t.Fatalf("%q has a sequence that is not harmless", got)
				}
				rest = rest[end+1:]
				continue
			}
			if r < ' ' && !bytes.ContainsRune([]byte("\n\t\r\b"), r) || commands(r) {
				t.Fatalf("%q has %q", got, r)
			}
			rest = rest[n:]
		}
	})
}
