package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/build"
)

// parseOutput reads one value of -o: "type=oci,dest=app.tar,name=app", or a directory, or "-" for
// a tar on standard output.
func parseOutput(value string, stdout io.Writer) (build.Output, error) {
	if value == "" {
		return build.Output{}, errors.New("parsing --output: the value is empty: give a directory, or type=TYPE")
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return build.Output{}, fmt.Errorf("parsing --output %q: %w", value, err)
	}
	if len(fields) == 1 && fields[0] == value && !strings.Contains(value, "type=") {
		if value == "-" {
			return toStdout(build.Output{Type: build.OutputTar}, value, stdout)
		}
		return build.Output{Type: build.OutputLocal, Dest: value}, nil
	}
	out := build.Output{Attrs: map[string]string{}}
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if !ok {
			return out, fmt.Errorf("parsing --output %q: %q is not key=value", value, field)
		}
		switch key = strings.ToLower(strings.TrimSpace(key)); key {
		case "type":
			out.Type = build.OutputType(val)
		case "dest":
			out.Dest = val
		default:
			out.Attrs[key] = val
		}
	}
	return checkOutput(out, value, stdout)
}

// checkOutput finds what is missing or not there yet in an output.
func checkOutput(out build.Output, value string, stdout io.Writer) (build.Output, error) {
	switch out.Type {
	case build.OutputImage:
		if out.Dest != "" {
			return out, fmt.Errorf("parsing --output %q: type=image goes to the local store and takes no dest: use type=oci or type=docker for a file", value)
		}
	case build.OutputDocker:
		if out.Dest == "-" { // without a destination buildx loads it into the engine
			return toStdout(out, value, stdout)
		}
	case build.OutputOCI, build.OutputTar:
		if out.Dest == "" || out.Dest == "-" {
			if out.Attrs["tar"] == "false" {
				return out, fmt.Errorf("parsing --output %q: dest is missing: with tar=false it is a directory", value)
			}
			return toStdout(out, value, stdout)
		}
	case build.OutputLocal:
		if out.Dest == "" {
			return out, fmt.Errorf("parsing --output %q: dest is missing: the directory to write to", value)
		}
	case "":
		return out, fmt.Errorf("parsing --output %q: type is missing: image, registry, oci, docker, tar, local or cacheonly", value)
	case "registry":
		// As with buildx's own builders, such an image is in the registry alone; --push keeps it as
		// Docker does.
		out.Type, out.Attrs["push"] = build.OutputImage, "true"
		if _, ok := out.Attrs["store"]; !ok {
			out.Attrs["store"] = "false"
		}
	case build.OutputCacheOnly:
	default:
		return out, fmt.Errorf("parsing --output %q: unknown type %q: use image, registry, oci, docker, tar, local or cacheonly", value, out.Type)
	}
	return out, nil
}

// toStdout makes an output write to standard output, unless that is a terminal.
func toStdout(out build.Output, value string, stdout io.Writer) (build.Output, error) {
	if isTerminal(stdout) {
		return out, fmt.Errorf("--output %q would write a tar to the terminal: redirect standard output, or name a file with dest=", value)
	}
	out.Dest, out.Writer = "", stdout
	return out, nil
}
