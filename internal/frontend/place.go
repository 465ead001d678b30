package frontend

import (
	"bytes"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	csvvalue "github.com/tonistiigi/go-csvvalue"
)

// placed adds the place to an error that BuildKit's frontend gives none: an image that cannot be
// resolved, of `RUN --mount=from=IMAGE`. Other errors stay as they are.
func (c *Client) placed(err error) error {
	c.mu.Lock()
	refused := c.refused
	c.mu.Unlock()
	if err != nil && refused != nil {
		return refused
	}
	if err == nil || slices.ContainsFunc(errdefs.Sources(err), func(s *errdefs.Source) bool { return len(s.Ranges) > 0 }) {
		return err
	}
	c.mu.Lock()
	text, failed := c.dockerfile, c.unresolved
	c.mu.Unlock()
	if failed == "" {
		return err
	}
	res, perr := parser.Parse(bytes.NewReader(text))
	if perr != nil {
		return err
	}
	for _, n := range res.AST.Children {
		if !strings.EqualFold(n.Value, "run") || !mountsFrom(n.Flags, failed) {
			continue
		}
		return errdefs.WithSource(err, &errdefs.Source{
			Info: &pb.SourceInfo{Filename: c.attrs["filename"], Data: text, Language: "Dockerfile"},
			Ranges: []*pb.Range{{
				Start: &pb.Position{Line: int32(n.StartLine)}, End: &pb.Position{Line: int32(n.EndLine)},
			}},
		})
	}
	return err
}

// mountsFrom reports whether one of an instruction's flags mounts the image ref.
func mountsFrom(flags []string, ref string) bool {
	for _, f := range flags {
		value, ok := strings.CutPrefix(f, "--mount=")
		if !ok {
			continue
		}
		fields, err := csvvalue.Fields(value, nil)
		if err != nil {
			continue
		}
		for _, field := range fields {
			key, name, _ := strings.Cut(field, "=")
			if !strings.EqualFold(key, "from") {
				continue
			}
			named, err := reference.ParseNormalizedNamed(name)
			if err == nil && reference.TagNameOnly(named).String() == ref {
				return true
			}
		}
	}
	return false
}
