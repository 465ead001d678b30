package frontend

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// cut serves `--target NUMBER`, which Docker's reference has and BuildKit's frontend has not: it
// leaves out the stages after that one, so that it is the last. A stage only ever uses stages
// before it. A Dockerfile that cannot be read stays whole: the frontend says what is wrong.
func cut(dockerfile []byte, target int) ([]byte, error) {
	res, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return dockerfile, nil //nolint:nilerr // the frontend reports it with its place
	}
	stage := -1
	for _, n := range res.AST.Children {
		if !strings.EqualFold(n.Value, "from") {
			continue
		}
		if stage++; stage == target+1 {
			lines := bytes.SplitAfter(dockerfile, []byte("\n"))
			return bytes.Join(lines[:n.StartLine-1], nil), nil
		}
	}
	if stage < target {
		return nil, fmt.Errorf("target stage \"%d\" could not be found: the Dockerfile has %d stages, the first is 0", target, stage+1)
	}
	return dockerfile, nil
}
