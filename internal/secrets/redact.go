package secrets

import (
	"bytes"
	"io"
	"slices"
	"sync"
)

// Secrets shorter than this, and lines of secrets shorter than that, are not looked for in what a
// step prints: they would be found everywhere.
const (
	minHidden     = 4
	minHiddenLine = 8
)

// mask stands where a secret was; BuildKit shows secrets in variables of a RUN so.
const mask = "****"

// redactor replaces secrets in what is written through it. What may be the beginning of one is
// held back until more is written, or until Close.
type redactor struct {
	mu     sync.Mutex
	w      io.Writer
	hidden [][]byte  // longest first
	first  [256]bool // bytes that one of them begins with
	held   []byte
}

// Redact returns a writer to w that hides secrets in what a process prints, and what must be called at the end. Without secrets it is w.
func Redact(w io.Writer, secrets [][]byte) (io.Writer, func()) {
	hidden := patterns(secrets)
	if len(hidden) == 0 {
		return w, func() {}
	}
	r := &redactor{w: w, hidden: hidden}
	for _, h := range hidden {
		r.first[h[0]] = true
	}
	return r, r.flush
}

// patterns are what is looked for of secrets: a value without the line breaks around it, and each
// line of it.
func patterns(secrets [][]byte) (all [][]byte) {
	add := func(p []byte, least int) {
		if len(p) >= least && !slices.ContainsFunc(all, func(q []byte) bool { return bytes.Equal(p, q) }) {
			all = append(all, p)
		}
	}
	for _, s := range secrets {
		add(bytes.TrimSpace(s), minHidden)
		for line := range bytes.Lines(s) {
			add(bytes.TrimSpace(line), minHiddenLine)
		}
	}
	slices.SortStableFunc(all, func(a, b []byte) int { return len(b) - len(a) })
	return all
}

// Write implements io.Writer.
func (r *redactor) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	data := append(r.held, p...)
	var out []byte
	for len(data) > 0 {
		if i := slices.IndexFunc(data, func(b byte) bool { return r.first[b] }); i != 0 {
			if i < 0 {
				i = len(data)
			}
			out, data = append(out, data[:i]...), data[i:]
			continue
		}
		rest, found := r.cut(data)
		if found {
			out = append(out, mask...)
		} else if r.begins(data) {
			break
		} else {
			out = append(out, data[0])
			rest = data[1:]
		}
		data = rest
	}
	r.held = bytes.Clone(data)
	if len(out) > 0 {
		if _, err := r.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// cut takes a secret off the beginning of data, unless data may be the beginning of a longer one.
func (r *redactor) cut(data []byte) (rest []byte, found bool) {
	for _, h := range r.hidden {
		if bytes.HasPrefix(data, h) {
			return data[len(h):], true
		}
		if bytes.HasPrefix(h, data) {
			return nil, false
		}
	}
	return nil, false
}

// begins reports whether data may be the beginning of a secret.
func (r *redactor) begins(data []byte) bool {
	return slices.ContainsFunc(r.hidden, func(h []byte) bool { return bytes.HasPrefix(h, data) })
}

// flush writes what is held back. It may hold a shorter secret than the one that it was held back
// for.
func (r *redactor) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.held
	r.held = nil
	for _, h := range r.hidden {
		out = bytes.ReplaceAll(out, h, []byte(mask))
	}
	if len(out) > 0 {
		_, _ = r.w.Write(out) // a step's log never fails
	}
}
