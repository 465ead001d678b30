package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	for live, want := range map[uint64]int{0: 600, 4 << 20: 600, 8 << 20: 300, 24 << 20: 100, 1 << 30: 100} {
		if got := pace(live); got != want {
			t.Errorf("pace(%d) = %d, want %d", live, got, want)
		}
	}
}

// A large heap must not be allowed to grow by a multiple of its size.
func TestCollectorIsTunedAgain(t *testing.T) {
	old := debug.SetGCPercent(100)
	defer debug.SetGCPercent(old)
	t.Setenv("GOGC", "")
	tuneCollector()
	large := make([]byte, 64<<20)
	percent := 0
	for range 100 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
		percent = debug.SetGCPercent(100) // the only way to read it
		if percent == 100 {
			break
		}
		debug.SetGCPercent(percent)
	}
	runtime.KeepAlive(large)
	if percent != 100 {
		t.Errorf("with %d bytes alive the percentage is %d, want 100", len(large), percent)
	}
}
