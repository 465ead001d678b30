package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// environment begins the lines of a key that have values in them: build arguments and the environment of
// processes. A record of such a line has the name, and instead of the value a code that tells whether
// another one is the same. The code is made with a key of the store's own: without it nobody can try
// what the value may have been.
const environment = "environment "

var coded = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^environment (.*) ~[0-9a-f]{16}$`) })

// Masked returns the lines of a key as they are recorded, without the values in them. Lines that were
// masked stay as they are.
func (s *Store) Masked(lines []string) ([]string, error) {
	var out []string
	for _, line := range lines {
		name, value, ok := valued(line)
		if !ok {
			out = append(out, line)
			continue
		}
		key, err := s.maskKey()
		if err != nil {
			return nil, fmt.Errorf("reading the store's key: %w", err)
		}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s=%s", name, value)
		out = append(out, fmt.Sprintf("%s%s ~%s", environment, name, hex.EncodeToString(mac.Sum(nil)[:8])))
	}
	return out, nil
}

// Tellable returns the lines of a key as records of builds have them, which later builds are compared with: masked, but for values that
// look like a version, a number, a switch or a platform, of a variable whose name is none of a secret.
func (s *Store) Tellable(lines []string) ([]string, error) {
	out, err := s.Masked(lines)
	for i := range out {
		if name, value, ok := valued(lines[i]); ok && tellable(name, value) {
			out[i] = lines[i]
		}
	}
	return out, err
}

// The shapes of values that are told. A word that is not known may be a password, and so may a long number.
var plain = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^(?:|true|false|yes|no|on|off|debug|release|production|development|staging|test|dev|prod|main|master|latest|stable|none|auto|default` +
		`|[0-9]{1,5}` + // numbers
		`|[0-9]{4}-[0-9]{2}-[0-9]{2}` + // dates
		`|v?[0-9]{1,5}(?:\.[0-9]{1,5}){0,3}(?:[-+.~]?(?:alpha|beta|rc|pre|dev|slim|bookworm|bullseye|trixie|noble|jammy)[0-9]{0,3}|[-+.~][0-9]{1,5}){0,4}` + // versions
		`|(?:linux|windows|darwin|freebsd)(?:/(?:amd64|arm64|arm|386|riscv64|ppc64le|s390x)(?:/v[0-9])?)?` +
		`|amd64|arm64|arm|386|riscv64|ppc64le|s390x|x86_64|aarch64)$`)
})

// The words in names of what is nobody's business: those of BuildKit's check of secrets in arguments, and more.
var secretName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)key|auth|cred|pass|pword|pwd|secret|token|private|cert|salt|seed|cookie|session|login|user|license|(?:^|_)(?:pw|pin|otp|mfa|pat|sig)(?:_|$)`)
})

// tellable reports whether the value of a variable may be told.
func tellable(name, value string) bool {
	return plain().MatchString(value) && !secretName().MatchString(name)
}

// valued splits a line that has a value.
func valued(line string) (name, value string, ok bool) {
	if line, ok = strings.CutPrefix(line, environment); !ok {
		return "", "", false
	}
	name, value, ok = strings.Cut(line, "=")
	return strings.TrimPrefix(name, `"`), value, ok
}

// WithoutValues returns lines of a key with names alone: what the user is shown, and what other machines
// are given. The lines may be masked.
func WithoutValues(lines ...string) []string {
	var out []string
	for _, line := range lines {
		if name, _, ok := valued(line); ok {
			line = environment + name
		} else if m := coded().FindStringSubmatch(line); m != nil {
			line = environment + m[1]
		}
		out = append(out, line)
	}
	return out
}

// readMaskKey reads the key that values are masked with, and makes it where it is missing or damaged: values that
// were masked with another one only look changed.
func (s *Store) readMaskKey() ([]byte, error) {
	path := filepath.Join(s.root, "mask")
	key, err := os.ReadFile(path)
	if err == nil && len(key) == sha256.Size {
		return key, nil
	}
	if err == nil || errors.Is(err, unix.EISDIR) {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := s.makeMaskKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if key, err = os.ReadFile(path); err == nil && len(key) != sha256.Size {
		err = fmt.Errorf("%s has %d bytes, want %d: remove it", path, len(key), sha256.Size)
	}
	return key, err
}

// makeMaskKey makes a key, unless another process is quicker.
func (s *Store) makeMaskKey(path string) (err error) {
	l, err := s.current()
	if err != nil {
		return err
	}
	key := make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(l.dir, l.name()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil { // after a crash it is whole or missing
		return err
	}
	return os.Link(f.Name(), path)
}
