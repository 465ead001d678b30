// Package longlife tests that a process which lives long holds nothing of what is over.
package longlife

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// holding is what this process holds.
type holding struct{ goroutines, files, objects int }

// Flat fails the test if n lives leave more than there was before them: goroutines, open files, and more than each objects of each
// life. live(k) lives k times and waits for their ends.
func Flat(t *testing.T, live func(k int), n, each int) {
	t.Helper()
	before := held()
	live(n)
	after := held()
	const files = 5  // that the runtime and libraries have at times
	for range 1000 { // what was ended closes what it had soon after it, and so do finalizers
		if after.goroutines <= before.goroutines && after.files <= before.files+files {
			break
		}
		time.Sleep(time.Millisecond)
		after = held()
	}
	t.Logf("%+v, and after %d lives %+v", before, n, after)
	if after.goroutines > before.goroutines || after.files > before.files+files || after.objects > before.objects+n*each {
		t.Errorf("it holds %+v, and after %d lives %+v", before, n, after)
	}
}

func held() (h holding) {
	for range 3 { // what has a finalizer takes several
		runtime.GC()
		runtime.Gosched()
	}
	h.goroutines = runtime.NumGoroutine()
	files, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && !strings.Contains(to, "/layers/") && !strings.Contains(to, "/meta.db") { // of these the store keeps some open
			h.files++
		}
	}
	objects := []metrics.Sample{{Name: "/gc/heap/objects:objects"}}
	metrics.Read(objects)
	h.objects = int(objects[0].Value.Uint64())
	return h
}
