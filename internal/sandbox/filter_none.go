//go:build !cgo || !seccomp

package sandbox

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// seccompCompiled reports whether this program can compile seccomp filters.
const seccompCompiled = false

func compileFilter(*specs.LinuxSeccomp) ([]byte, error) {
	return nil, errors.New("compiling a seccomp filter: this program was built without seccomp")
}
