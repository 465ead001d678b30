package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

func TestComplaints(t *testing.T) {
	c := complaints()
	for line, want := range map[string]string{
		"/bin/sh: foo: not found":                                                   "command foo",
		"/bin/sh: 1: foo: not found":                                                "command foo",
		"/bin/sh: line 0: ./run.sh: not found":                                      "command ./run.sh",
		"/bin/bash: line 1: gcc: command not found":                                 "command gcc",
		"env: can't execute 'python3': No such file or directory":                   "command python3",
		"/usr/bin/env: ‘python3’: No such file or directory":                        "command python3",
		"cat: can't open '/etc/nosuch': No such file or directory":                  "file /etc/nosuch",
		"cat: /etc/nosuch: No such file or directory":                               "file /etc/nosuch",
		"ls: cannot access '/x y': No such file or directory":                       "",
		"open ./conf.yml: no such file or directory":                                "file ./conf.yml",
		"python3: can't open file '/app/x.py': [Errno 2] No such file or directory": "file /app/x.py",
		"FileNotFoundError: [Errno 2] No such file or directory: 'conf/x'":          "behind conf/x",
		"Error: ENOENT: no such file or directory, open '/app/package.json'":        "behind /app/package.json",
		"bash: ./x.sh: /bin/zsh: bad interpreter: No such file or directory":        "file /bin/zsh",
		"/bin/bash: line 1: /app/x: cannot execute: required file not found":        "file /app/x",
		"E: Unable to locate package foo":                                           "",
		"404 page not found":                                                        "",
	} {
		got := ""
		if m := c.command.FindStringSubmatch(line); m != nil {
			got = "command " + m[1]
		} else if m := c.file.FindStringSubmatch(line); m != nil {
			got = "file " + m[1]
		} else if m := c.behind.FindStringSubmatch(line); m != nil {
			got = "behind " + m[1]
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestTail(t *testing.T) {
	var end tail
	if lines := end.lines(3); lines != nil {
		t.Errorf("of nothing: %q", lines)
	}
	for i := range 5000 {
		fmt.Fprintf(&end, "line %d\n", i)
	}
	if got := strings.Join(end.lines(3), ","); got != "line 4997,line 4998,line 4999" {
		t.Errorf("the last lines are %q", got)
	}
	if len(end.text) > 2*tailSize {
		t.Errorf("%d bytes are kept", len(end.text))
	}
	_, _ = end.Write(bytes.Repeat([]byte("x"), 1<<20))
	if got := end.lines(3); len(got) != 1 || len(got[0]) != tailSize {
		t.Errorf("of a long line: %d lines", len(got))
	}
}

// elf64 is the head of a program with a loader.
func elf64(loader string) []byte {
	head := make([]byte, 64+56, 512)
	copy(head, "\x7fELF\x02\x01")
	binary.LittleEndian.PutUint64(head[32:], 64)
	binary.LittleEndian.PutUint16(head[54:], 56)
	binary.LittleEndian.PutUint16(head[56:], 1)
	binary.LittleEndian.PutUint32(head[64:], 3)
	binary.LittleEndian.PutUint64(head[64+8:], 120)
	binary.LittleEndian.PutUint64(head[64+32:], uint64(len(loader)+1))
	return append(append(head, loader...), 0)
}

func TestLoader(t *testing.T) {
	whole := elf64("/lib/ld.so")
	if got := loaderOf(whole); got != "/lib/ld.so" {
		t.Errorf("the loader is %q", got)
	}
	if got := loaderOf([]byte("#!/bin/sh\n")); got != "" {
		t.Errorf("of a script: %q", got)
	}
	for i := range whole { // what is cut, or says anything else, is read as far as it goes
		_ = loaderOf(whole[:i])
		for _, b := range []byte{0, 1, 2, 3, 127, 128, 255} {
			odd := bytes.Clone(whole)
			odd[i] = b
			_ = loaderOf(odd)
			if i+8 <= len(odd) {
				copy(odd[i:], bytes.Repeat([]byte{b}, 8))
				_ = loaderOf(odd)
			}
		}
	}
}
