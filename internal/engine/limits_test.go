package engine

import "testing"

func TestMaxProcesses(t *testing.T) {
	for asked, want := range map[int64]int64{0: defaultMaxProcesses, 7: 7, -1: 0} { // 0 is none for the sandbox
		r := &Run{opt: RunOptions{MaxProcesses: asked}}
		if got := r.maxProcesses(); got != want {
			t.Errorf("asked for %d: got %d, want %d", asked, got, want)
		}
	}
}
