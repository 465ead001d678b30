package secrets

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// redacted writes text through a redactor in pieces of size bytes, or of random ones for 0.
func redacted(t *testing.T, text string, size int, secrets ...string) string {
	t.Helper()
	var values [][]byte
	for _, s := range secrets {
		values = append(values, []byte(s))
	}
	var out bytes.Buffer
	w, flush := Redact(&out, values)
	for rest := text; rest != ""; {
		n := size
		if n == 0 {
			n = 1 + rand.IntN(9)
		}
		n = min(n, len(rest))
		if got, err := w.Write([]byte(rest[:n])); err != nil || got != n {
			t.Fatalf("Write: %d, %v", got, err)
		}
		rest = rest[n:]
	}
	flush()
	return out.String()
}

func TestRedact(t *testing.T) {
	for _, tc := range []struct {
		text    string
		secrets []string
		want    string
	}{
		{"nothing here", nil, "nothing here"},
		{"a pass, a password, pas", []string{"password\n"}, "a pass, a ****, pas"},
		{"the password", []string{"pass", "password"}, "the ****"},
		{"the passwo", []string{"pass", "password"}, "the ****wo"},
		{"papapassword", []string{"password"}, "papa****"},
		{"aaaab", []string{"aaab"}, "a****"},
		{"passwordpassword", []string{"password"}, "********"},
		{"abc", []string{"abc", ""}, "abc"}, // too short
		{"first line\nsecond line\n", []string{"first line\nsecond line\n"}, "****\n"},
		{"x second line x first line\nother", []string{"first line\nsecond line\n"}, "x **** x ****\nother"},
		{"a short\n", []string{"a long line\nshort\n"}, "a short\n"},
		{"first line\r\nsecond", []string{"first line\r\nsecond line"}, "****\r\nsecond"},
	} {
		for _, size := range []int{1, 2, 3, 7, 1000, 0} {
			if got := redacted(t, tc.text, size, tc.secrets...); got != tc.want {
				t.Errorf("Redact(%q, %q) in pieces of %d = %q, want %q", tc.text, tc.secrets, size, got, tc.want)
			}
		}
	}
}

// TestRedactAtOnce: what cannot be the beginning of a secret is not held back.
func TestRedactAtOnce(t *testing.T) {
	var out bytes.Buffer
	w, flush := Redact(&out, [][]byte{[]byte("password")})
	for _, step := range []struct{ write, want string }{{"Name? ", "Name? "}, {"pas", "Name? "}, {"ta\n", "Name? pasta\n"}, {"pass", "Name? pasta\n"}} {
		if _, err := w.Write([]byte(step.write)); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != step.want {
			t.Errorf("after %q: got %q, want %q", step.write, got, step.want)
		}
	}
	flush()
	if got := out.String(); got != "Name? pasta\npass" {
		t.Errorf("at the end: got %q", got)
	}
}

func BenchmarkRedact(b *testing.B) {
	var secret [][]byte
	for range 30 {
		secret = append(secret, []byte(strings.Repeat("x", 8)+string(rune('a'+len(secret)))))
	}
	text := bytes.Repeat([]byte("compiling some/file.go xx\n"), 1<<12)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		w, flush := Redact(&bytes.Buffer{}, secret)
		_, _ = w.Write(text)
		flush()
	}
}
