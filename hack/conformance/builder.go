package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Builder is BuildKit or slipway.
type Builder interface {
	// Build builds with the options of the frontend, writes the output ("oci", "docker", "tar" or "local", and further attributes) to
	// dest, and returns what it said on stderr with --progress=rawjson. failed: it gave an error.
	Build(dir *Dir, dockerfile string, options []string, output, dest string) (stderr []byte, failed bool, err error)
}

// Build lets a builder build one Dockerfile of a case. scratch is an empty directory.
func (c *Case) Build(b Builder, dockerfile, scratch string, bases map[string]bool) (*Record, error) {
	dir, err := c.Unpack(scratch)
	if err != nil {
		return nil, fmt.Errorf("setting up: %w", err)
	}
	r := &Record{}
	output, options := "oci", []string{}
	for _, o := range c.Options(dockerfile) {
		if kind, ok := strings.CutPrefix(o, "output="); ok {
			output = kind
		} else {
			options = append(options, o)
		}
	}
	dest := filepath.Join(scratch, "output")
	if _, err := r.build(b, dir, dockerfile, options, output, dest); err != nil || r.Error != "" {
		return r, err
	}
	switch kind, attrs, _ := strings.Cut(output, ","); kind {
	case "oci", "docker":
		err = r.ReadOCI(dest, kind == "docker" || attrs != "", bases)
	case "tar":
		err = r.ReadTar(dest)
	default:
		err = r.ReadDir(dest)
	}
	if err != nil || !c.HasAgain() {
		return r, err
	}
	for _, command := range c.Again() {
		if command = strings.TrimSpace(command); command != "build" {
			r.Again = append(r.Again, "> "+command)
			if err := dir.Run([]string{command}, false); err != nil {
				return nil, err
			}
			continue
		}
		again := &Record{}
		status, err := again.build(b, dir, dockerfile, options, output, dest)
		if err != nil {
			return nil, err
		}
		if again.Error != "" {
			return nil, fmt.Errorf("building again: %s", again.Error)
		}
		r.Again = append(r.Again, status.Cached()...)
	}
	return r, nil
}

// build sets what does not come from the output.
func (r *Record) build(b Builder, dir *Dir, dockerfile string, options []string, output, dest string) (*Status, error) {
	if err := os.RemoveAll(dest); err != nil {
		return nil, err
	}
	stderr, failed, err := b.Build(dir, dockerfile, options, output, dest)
	if err != nil {
		return nil, err
	}
	s, err := ParseStatus(stderr)
	if err != nil {
		return nil, err
	}
	r.Warnings = s.Warnings
	if !failed {
		r.Steps = s.Names()
		return s, nil
	}
	if s.Error == "" {
		return nil, fmt.Errorf("failed without an error: %s", stderr)
	}
	r.Error, r.Excerpt = s.Error, s.Excerpt
	return s, nil
}
