// Package heap makes memory that is about to be used.
//
// A short command takes fresh memory for all that it makes, and each page of it for a page fault. Where a hypervisor keeps the page tables
// a fault takes 20 µs, and a page that is made together with others 1 µs.
package heap

import (
	"os"
	"unsafe"
)

// most is how much can be made at once: what the frame of populate has, but for what is lost by aligning.
const most = 3 << 20

// cached is how much each of Go's processors takes of the heap at once, aligned, for small objects (runtime/mpagecache.go).
const cached = 512 << 10

// near is an object of what this processor has taken.
var near *[32 << 10]byte

// Populate has the kernel make the memory that objects will be in, so many bytes of it. What is there already counts, so
// it is for who will take as much as that. A kernel before Linux 5.14 does nothing.
//
// Who knows where the heap grows to is the runtime alone. So a goroutine has its stack made as large as that, which is taken where
// objects would be next, makes the memory of it, and ends: its stack is free for objects then, without a collection. What this processor has
// taken before is where a new object is.
func Populate(bytes int) {
	near = new([32 << 10]byte)
	madvise(uintptr(unsafe.Pointer(near))&^(cached-1), cached)
	near = nil
	done := make(chan struct{})
	go func() {
		defer close(done)
		populate(uintptr(min(max(bytes, 0), most)), uintptr(os.Getpagesize()))
	}()
	<-done
}
