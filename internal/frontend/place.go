package frontend

import (
	"bytes"
	"errors"
	"fmt"
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

// maxStages is how many stages an error names.
const maxStages = 20

// withStages adds the stages that there are to an error about a target that is none of them, and like none of them.
func (c *Client) withStages(err error) error {
	target := c.attrs["target"]
	if err == nil || target == "" || err.Error() != fmt.Sprintf("target stage %q could not be found", target) {
		return err
	}
	c.mu.Lock()
	text := c.dockerfile
	c.mu.Unlock()
	res, perr := parser.Parse(bytes.NewReader(text))
	if perr != nil {
		return err
	}
	var names []string
	for _, n := range res.AST.Children {
		if !strings.EqualFold(n.Value, "from") {
			continue
		}
		if as := n.Next; as != nil && as.Next != nil && as.Next.Next != nil {
			names = append(names, as.Next.Next.Value)
		}
	}
	switch {
	case len(names) == 0:
		return fmt.Errorf("%w\n  no stage has a name: give one with FROM ... AS %s", err, target)
	case len(names) > maxStages:
		names = append(names[:maxStages], "...")
	}
	return fmt.Errorf("%w\n  the stages are %s", err, strings.Join(names, ", "))
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
