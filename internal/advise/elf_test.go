package advise

import (
	"os"
	"testing"
)

func TestStaticELF(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	header := func(bits, kind, program byte) []byte {
		b := make([]byte, 128)
		copy(b, "\x7fELF")
		b[4], b[5], b[16] = bits, 1, kind
		if bits == 2 {
			b[32], b[54], b[56] = 64, 56, 1
		} else {
			b[28], b[42], b[44] = 64, 32, 1
		}
		b[64] = program
		return b
	}
	far := header(2, 2, 1)
	for i := range 8 {
		far[32+i] = 0xff
	}
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"static": {header(2, 2, 1), true}, "dynamic": {header(2, 3, 3), false}, "32 bits": {header(1, 2, 1), true}, "32 bits, dynamic": {header(1, 3, 3), false},
		"object": {header(2, 1, 1), false}, "script": {[]byte("#!/bin/sh\n"), false}, "cut": {self[:40], false}, "hostile": {far, false},
	} {
		if got := staticELF(c.b); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
