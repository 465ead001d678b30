package layertest

import (
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

var waiting = regexp.MustCompile(`^goroutine \d+ \[(sync\.|chan |semacquire|select)`)

// WaitBlocked returns when n goroutines at least wait for another one inside of a function, which is named as in
// a stack trace, such as "store.(*Store).once". It is for tests in which somebody has to wait before the
// next thing happens.
func WaitBlocked(t testing.TB, function string, n int) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		found := 0
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if waiting.MatchString(g) && strings.Contains(g, function+"(") {
				found++
			}
		}
		if found >= n {
			return
		}
	}
	t.Fatalf("no %d goroutines wait in %s:\n%s", n, function, buf[:runtime.Stack(buf, true)])
}
