package frontend

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	csvvalue "github.com/tonistiigi/go-csvvalue"
)

// placed gives an error about an image that cannot be resolved its place: the first instruction that names the image.
// BuildKit's frontend gives the place of any, and none for `RUN --mount=from=IMAGE`. Other errors stay as they are.
func (c *Client) placed(err error) error {
	c.mu.Lock()
	text, failed, refused := c.dockerfile, c.unresolved, c.refused
	c.mu.Unlock()
	if err != nil && refused != nil {
		return refused
	}
	if err == nil || failed == "" {
		return err
	}
	res, perr := parser.Parse(bytes.NewReader(text))
	if perr != nil {
		return err
	}
	at, words := line(err), []string{failed}
	for _, n := range res.AST.Children {
		if names := imagesOf(n); n.StartLine == int(at) && len(names) == 1 {
			words = append(words, names...) // as it is written, with variables
		}
	}
	for _, n := range res.AST.Children {
		if at > 0 && n.StartLine >= int(at) {
			return err
		}
		if !slices.ContainsFunc(imagesOf(n), func(name string) bool { return slices.Contains(words, name) || slices.Contains(words, fullName(name)) }) {
			continue
		}
		ranges := []*pb.Range{{Start: &pb.Position{Line: int32(n.StartLine)}, End: &pb.Position{Line: int32(n.EndLine)}}}
		if at > 0 {
			var src *errdefs.SourceError
			if errors.As(err, &src) {
				src.Ranges = ranges
			}
			return err
		}
		return errdefs.WithSource(err, &errdefs.Source{
			Info: &pb.SourceInfo{Filename: c.attrs["filename"], Data: text, Language: "Dockerfile"}, Ranges: ranges,
		})
	}
	return err
}

// fullName is a reference with its registry and its tag.
func fullName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

// imagesOf are the images, or stages, that an instruction takes something from, as they are written.
func imagesOf(n *parser.Node) []string {
	var names []string
	if strings.EqualFold(n.Value, "from") && n.Next != nil {
		names = append(names, n.Next.Value)
	}
	for _, f := range n.Flags {
		if name, ok := strings.CutPrefix(f, "--from="); ok {
			names = append(names, name)
		}
		value, ok := strings.CutPrefix(f, "--mount=")
		if !ok {
			continue
		}
		fields, err := csvvalue.Fields(value, nil)
		if err != nil {
			continue
		}
		for _, field := range fields {
			if key, name, _ := strings.Cut(field, "="); strings.EqualFold(key, "from") {
				names = append(names, name)
			}
		}
	}
	return names
}
