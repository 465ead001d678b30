// Command init is the first process of a container and nothing else: what it imports does its
// work. `make build` puts it into slipway, see internal/sandbox/program.
package main

import (
	"fmt"
	"os"

	_ "github.com/slipway-build/slipway/internal/sandbox/initproc"
)

func main() {
	fmt.Fprintln(os.Stderr, "this program is started by slipway only")
	os.Exit(255)
}
