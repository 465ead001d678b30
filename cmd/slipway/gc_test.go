package main

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// What the user sets holds.
func TestTuneCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(77))
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(name, "77")
		tuneCollector()
		if p := debug.SetGCPercent(77); p != 77 {
			t.Errorf("with %s set by the user the pace became %d", name, p)
		}
	}
}

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: gcPercent, 1 << 20: gcPercent, heapTarget / 2: 100, heapTarget: gcLeast, 1 << 30: gcLeast} {
		if got := percentFor(live); got != want {
			t.Errorf("with %d bytes in use the heap grows by %d %%, want %d", live, got, want)
		}
	}
}

// The pace follows what is in use, in a process of its own.
func TestPaceFollows(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_PACE") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPaceFollows$")
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_PACE=1", "GOGC=", "GOMEMLIMIT=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	tuneCollector()
	used := make([]byte, 2*heapTarget)
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		runtime.GC()
		p := debug.SetGCPercent(gcPercent)
		debug.SetGCPercent(p)
		if p == gcLeast {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pace stays %d %%", p)
		}
	}
	runtime.KeepAlive(used)
}
