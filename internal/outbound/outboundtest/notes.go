// Package outboundtest has what the servers of tests have in common.
package outboundtest

import (
	"net/http"
	"slices"
	"sync"
)

// Notes are what a server was asked, and what of that no client may ask. They are safe for concurrent use.
type Notes struct {
	mu              sync.Mutex
	asked, problems []string
}

// Ask notes a request.
func (n *Notes) Ask(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, line)
}

// Asked lists the requests since the last time.
func (n *Notes) Asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.asked
	n.asked = nil
	return all
}

// Problem notes what was wrong with a request.
func (n *Notes) Problem(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problems = append(n.problems, text)
}

// Problems lists what was wrong.
func (n *Notes) Problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.problems)
}

// Forgive forgets the problems: they were wanted.
func (n *Notes) Forgive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problems = nil
}

// Broken is an answer of which half arrives.
type Broken struct{ http.ResponseWriter }

// Write sends half of what is written first, and ends the connection.
func (b Broken) Write(p []byte) (int, error) {
	b.ResponseWriter.Write(p[:len(p)/2]) //nolint:errcheck // it is broken off
	b.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
