package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDataIsPopulated looks at the initialized data of this program, of which Go alone writes to a part.
func TestDataIsPopulated(t *testing.T) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	if err := unix.Madvise(page, unix.MADV_POPULATE_WRITE); err != nil {
		t.Skipf("this kernel does not populate (%v)", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, data := false, false
	var size int
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if f := strings.Fields(line); strings.Contains(f[0], "-") {
			data = len(f) == 6 && f[1] == "rw-p" && f[5] == self
			continue
		}
		if !data {
			continue
		}
		fmt.Sscanf(line, "Size: %d kB", &size)
		var dirty int
		if n, _ := fmt.Sscanf(line, "Private_Dirty: %d kB", &dirty); n == 1 {
			found = true
			if dirty != size {
				t.Errorf("%d kB of %d kB of initialized data are this process's", dirty, size)
			}
		}
	}
	if !found {
		t.Fatal("no initialized data is mapped")
	}
}
