package isolation

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moby/sys/user"
)

// TestSubordinate: what a file says counts, and else what getsubids does.
func TestSubordinate(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("getsubids", `#!/bin/sh
case "$*" in
ann) echo "0: ann 100000 65536"; echo "1: ann 300000 10"; echo "2: ann -1 -1"; echo "no line" ;;
"-g ann") echo "0: ann 200000 65536" ;;
*) echo "Error fetching ranges" >&2; exit 1 ;;
esac
`, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := write("subuid", "bob:400000:65536\n1001:500000:5\n", 0o644)
	for _, c := range []struct {
		name  string
		uid   int
		flags []string
		want  []user.SubID
	}{
		{"ann", 1000, nil, []user.SubID{{Name: "ann", SubID: 100000, Count: 65536}, {Name: "ann", SubID: 300000, Count: 10}}},
		{"ann", 1000, []string{"-g"}, []user.SubID{{Name: "ann", SubID: 200000, Count: 65536}}},
		{"bob", 1002, nil, []user.SubID{{Name: "bob", SubID: 400000, Count: 65536}}},
		{"carl", 1001, nil, []user.SubID{{Name: "1001", SubID: 500000, Count: 5}}},
		{"dora", 1003, nil, nil},
	} {
		if got := subordinate(file, c.name, c.uid, c.flags); !slices.Equal(got, c.want) {
			t.Errorf("%s %v: got %v, want %v", c.name, c.flags, got, c.want)
		}
	}
}

// TestRoom: as much as is left of the smallest of all memories, without what the kernel gives back, in two parts.
func TestRoom(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroup":   {map[string]string{"meminfo": "MemTotal: 9 kB\nMemAvailable:    8192 kB\n"}, 4 * mb},
		"no limit":    {map[string]string{"meminfo": "MemAvailable: 8192 kB\n", "memory.max": "max\n", "memory.current": "1\n"}, 4 * mb},
		"version 2":   {map[string]string{"meminfo": "MemAvailable: 8192 kB\n", "memory.max": "6291456\n", "memory.current": "4194304\n", "memory.stat": "anon 1\nfile 3145728\nshmem 1048576\n"}, 2 * mb},
		"version 1":   {map[string]string{"memory/memory.limit_in_bytes": "4194304\n", "memory/memory.usage_in_bytes": "2097152\n", "memory/memory.stat": "cache 9\ntotal_cache 1048576\n"}, 3 * mb / 2},
		"none at all": {map[string]string{"memory.max": "4194304\n", "memory.current": "4194304\n"}, 1},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(dir, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := roomIn(filepath.Join(dir, "meminfo"), dir); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
