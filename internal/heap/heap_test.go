package heap

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const child = "SLIPWAY_TEST_POPULATE"

// TestPopulate counts the page faults that objects take which are made after it, in a process that has made none.
func TestPopulate(t *testing.T) {
	page := os.Getpagesize()
	probe, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(probe)
	if err := unix.Madvise(probe, unix.MADV_POPULATE_WRITE); err != nil || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skipf("nothing is populated here (%v)", err)
	}
	if os.Getenv(child) != "" {
		makeObjects(t, page)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPopulate$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "page faults") {
		t.Errorf("%v\n%s", err, out)
	}
}

var objects [][]byte

func makeObjects(t *testing.T, page int) {
	debug.SetGCPercent(-1)
	const bytes = 2 << 20
	Populate(bytes)
	before := faults(t)
	for range bytes / (32 << 10) * 3 / 4 {
		object := make([]byte, 32<<10)
		for i := 0; i < len(object); i += page {
			object[i] = 1
		}
		objects = append(objects, object)
	}
	n, pages := faults(t)-before, int64(bytes/page*3/4)
	t.Logf("%d pages of new objects took %d page faults", pages, n)
	if n > pages/2 {
		t.Error("they were not there")
	}
}

// faults are the page faults of this process.
func faults(t *testing.T) int64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return ru.Minflt
}
