// Package hostfiles keeps apart those in this process who use files of the machine by their paths, programs above all, and the
// steps that run in place, while which other files are at those paths.
package hostfiles

import "sync"

var gate sync.RWMutex

// Use has what is at paths of the machine be its own until done is called. It waits for a step that runs in place, and is not to
// be called again before done.
func Use() (done func()) {
	gate.RLock()
	return gate.RUnlock
}

// Hide waits until nobody uses the machine's files, and has others be at their paths until show is called.
func Hide() (show func()) {
	gate.Lock()
	return gate.Unlock
}
