package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newFilter returns what gives the compiled default seccomp profile. To compile it takes longer
// than to start a container: this is done once, and file keeps the outcome for the next process.
// Without a file ("") it is not kept.
func newFilter(file string) func() ([]byte, error) {
	return sync.OnceValues(func() ([]byte, error) {
		profile, err := seccompProfile()
		if err != nil {
			return nil, err
		}
		return cachedFilter(file, profile)
	})
}

// cachedFilter compiles a profile unless file has the outcome. The file is a hash of what went in
// and came out, and the program. It is as trustworthy as its directory, which is that of the
// layers; the hash finds files of another program or profile, and damaged ones.
func cachedFilter(file string, profile *specs.LinuxSeccomp) ([]byte, error) {
	if file == "" {
		return compileFilter(profile)
	}
	key, err := filterKey(profile)
	if err != nil {
		return nil, fmt.Errorf("compiling the seccomp filter: %w", err)
	}
	const size = sha256.Size
	if data, err := os.ReadFile(file); err == nil && len(data) > size && bytes.Equal(data[:size], filterHash(key, data[size:])) {
		return data[size:], nil
	}
	program, err := compileFilter(profile)
	if err != nil {
		return nil, err
	}
	// Who cannot write it compiles it again the next time, and so does who reads it half-written: the hash tells. Written
	// in its place, it leaves nothing behind when the program is killed.
	if f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600); err == nil {
		_, _ = f.Write(append(filterHash(key, program), program...))
		_ = f.Close()
	}
	return program, nil
}

// filterKey identifies a profile and the program that compiles it.
func filterKey(profile *specs.LinuxSeccomp) ([]byte, error) {
	self, err := selfKey()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "filter 1\n%sprofile %s\n", self, text), nil
}

// selfKey identifies this program by its file.
func selfKey() (string, error) {
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &self); err != nil {
		return "", fmt.Errorf("looking at the own program: %w", err)
	}
	return fmt.Sprintf("size %d\nmtime %d\n", self.Size, self.Mtim.Nano()), nil
}

func filterHash(key, program []byte) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(key), key, program))
	return sum[:]
}
