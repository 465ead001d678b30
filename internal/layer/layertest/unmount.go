package layertest

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts what is at a path when nothing of it is open any more. The kernel closes files of processes that have ended, and of others that
// look at them, a little later than anybody is told.
func Unmount(t testing.TB, path string) {
	t.Helper()
	err := error(unix.EBUSY)
	for end := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		err = unix.Unmount(path, 0)
	}
	if err != nil {
		t.Errorf("unmounting %s: %v", path, err)
	}
}
