//go:build cgo && seccomp

package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func smallProfile(calls ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{{Names: calls, Action: specs.ActAllow}}}
}

func TestCachedFilter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seccomp")
	get := func(calls ...string) []byte {
		t.Helper()
		program, err := cachedFilter(file, smallProfile(calls...))
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	read := func() []byte {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want, err := compileFilter(smallProfile("read"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get("read"), want) {
		t.Error("the first one is not the compiled filter")
	}
	kept := read()
	long := time.Unix(1e9, 0)
	if err := os.Chtimes(file, long, long); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get("read"), want) {
		t.Error("the kept one is not the compiled filter")
	}
	if after, err := os.Stat(file); err != nil || !after.ModTime().Equal(long) {
		t.Errorf("the file was written again (%v)", err)
	}
	if bytes.Equal(get("read", "mount"), want) {
		t.Error("another profile got the filter of the first")
	}
	if bytes.Equal(read(), kept) {
		t.Error("the file still has the filter of another profile")
	}
	for name, damaged := range map[string][]byte{
		"flipped bit": append(bytes.Clone(kept[:len(kept)-1]), kept[len(kept)-1]^1),
		"cut off":     kept[:len(kept)-8],
		"only a hash": kept[:32],
		"empty":       nil,
	} {
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(get("read"), want) {
			t.Errorf("%s: got a damaged filter", name)
		}
		if !bytes.Equal(read(), kept) {
			t.Errorf("%s: the file was not repaired", name)
		}
	}
}

func TestCachedFilterWithoutDirectory(t *testing.T) {
	if _, err := cachedFilter(filepath.Join(t.TempDir(), "missing", "seccomp"), smallProfile("read")); err != nil {
		t.Errorf("a filter that cannot be kept is an error: %v", err)
	}
}

// A store may have been made by somebody else: a link in the file's place does not lead to a file of the host.
func TestCachedFilterLink(t *testing.T) {
	dir := t.TempDir()
	file, host := filepath.Join(dir, "seccomp"), filepath.Join(dir, "host")
	if err := os.WriteFile(host, []byte("host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, file); err != nil {
		t.Fatal(err)
	}
	if _, err := cachedFilter(file, smallProfile("read")); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(host); err != nil || string(data) != "host's" {
		t.Errorf("the host's file has %d bytes (%v)", len(data), err)
	}
}
