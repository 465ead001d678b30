// Command slipway builds container images from multi-stage Dockerfiles, without a daemon.
package main

import (
	"os"

	"github.com/slipway-build/slipway/internal/cli"
	"github.com/slipway-build/slipway/internal/sandbox"
)

func main() {
	sandbox.Init() // a container's first process becomes that here and never returns
	tuneCollector()
	os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
