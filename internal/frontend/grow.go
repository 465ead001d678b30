package frontend

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// maxGrown is how long the values of a Dockerfile may become together: as long as the file may be. A
// process cannot even be started with a variable of more than 128 KiB.
const maxGrown = 16 << 20

// grown is an upper bound of the lengths of a stage's variables.
type grown struct {
	own  map[string]int
	base *grown // of the stage that it stands on
}

func (g *grown) length(name string) int {
	for ; g != nil; g = g.base {
		if n, ok := g.own[name]; ok {
			return n
		}
	}
	return 0 // of an image, or nothing
}

// checkGrowth adds up how long variables and labels become, without expanding them, and finds the
// instruction at which that is too much. What is not seen here (base images, ONBUILD) is left to
// [guarded], which cannot tell the line.
func checkGrowth(filename string, text []byte, args map[string]string) error {
	if !bytes.Contains(text, []byte("$")) {
		return nil
	}
	res, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil // the frontend will say what is wrong
	}
	var (
		total  int
		global = &grown{own: map[string]int{}}
		stages = map[string]*grown{}
		at     = global
	)
	for _, n := range res.AST.Children {
		switch strings.ToLower(n.Value) {
		case "from":
			at = &grown{own: map[string]int{}}
			if name := n.Next; name != nil {
				at.base = stages[strings.ToLower(name.Value)]
				if as := name.Next; as != nil && as.Next != nil {
					stages[strings.ToLower(as.Next.Value)] = at
				}
			}
		case "env", "label":
			set := map[string]int{}
			for kv := n.Next; kv != nil && kv.Next != nil && kv.Next.Next != nil; kv = kv.Next.Next.Next {
				set[kv.Value] = expanded(kv.Next.Value, at)
				total = add(total, add(set[kv.Value], expanded(kv.Value, at)))
			}
			if !strings.EqualFold(n.Value, "label") {
				for name, length := range set { // all see what was before the instruction
					at.own[name] = length
				}
			}
		case "arg":
			for kv := n.Next; kv != nil; kv = kv.Next {
				name, value, given := strings.Cut(kv.Value, "=")
				length := expanded(value, at)
				if !given {
					length = global.own[name]
				}
				at.own[name] = max(at.length(name), length, len(args["build-arg:"+name]))
				total = add(total, length)
			}
		}
		if total > maxGrown {
			return errdefs.WithSource(
				fmt.Errorf("the values of variables and labels take more than %s from here on: a variable grows with each line that uses it", units.BytesSize(maxGrown)),
				&errdefs.Source{
					Info:   &pb.SourceInfo{Filename: filename, Data: text, Language: "Dockerfile"},
					Ranges: []*pb.Range{{Start: &pb.Position{Line: int32(n.StartLine)}, End: &pb.Position{Line: int32(n.EndLine)}}},
				})
		}
	}
	return nil
}

// maxNested is how deep expansions of a word are looked into.
const maxNested = 8

// expanded is an upper bound of a word's length when its variables are expanded.
func expanded(word string, vars *grown) int { return expandedIn(word, vars, 0) }

func expandedIn(word string, vars *grown, depth int) int {
	if depth > maxNested {
		return maxGrown + 1
	}
	length := len(word)
	for {
		i := strings.IndexByte(word, '$')
		if i < 0 {
			return length
		}
		word = word[i+1:]
		name, braced := strings.CutPrefix(word, "{")
		end := strings.IndexFunc(name, func(r rune) bool { return !isNameRune(r) })
		if end < 0 {
			end = len(name)
		}
		n := vars.length(name[:end])
		word = name[end:]
		if braced && strings.HasPrefix(word, "/") {
			// ${name/pattern/text} has the text in place of each letter, at worst.
			inner := untilBrace(word)
			n = multiply(n+1, add(1, expandedIn(inner, vars, depth+1)))
			word = word[len(inner):]
		}
		length = add(length, n)
	}
}

func isNameRune(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// untilBrace cuts a text before the brace that ends the expansion which it is in.
func untilBrace(s string) string {
	depth := 0
	for i, c := range s {
		switch c {
		case '{':
			depth++
		case '}':
			if depth--; depth < 0 {
				return s[:i]
			}
		}
	}
	return s
}

// add and multiply stay where lengths can be added up without end.
func add(a, b int) int { return min(a+b, maxGrown+1) }

func multiply(a, b int) int {
	a, b = min(a, maxGrown+1), min(b, maxGrown+1)
	return min(a*b, maxGrown+1)
}
