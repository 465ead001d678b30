//go:build !linux || (!amd64 && !arm64)

package heap

func populate(_, _ uintptr) {}

func madvise(_, _ uintptr) {}
