package advise

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// ErrOther says that an image was not built of a Dockerfile as it is now.
var ErrOther = errors.New("the Dockerfile is not the one that the image was built of: build it again")

// instruction is one of the stages that the image is made of.
type instruction struct {
	node    *parser.Node
	keyword string
	index   int // in the image's history
}

// text is the instruction without line breaks.
func (i *instruction) text() string { return i.node.Original }

// dockerfile is one whose instructions are known in the image's history.
type dockerfile struct {
	name   string // as patches have it
	lines  []string
	ignore IgnoreFile
	report *imagesize.Report
	tree   layer.Tree
	from   *parser.Node // of the last stage
	single bool         // it has one stage alone
	steps  []*instruction
	nodes  map[int]*parser.Node // all instructions, by their first lines
	built  *graph               // nil: it is not known
}

// of is the instruction that made an entry of the history, or nil for one of the base image.
func (d *dockerfile) of(index int) *instruction {
	for _, s := range d.steps {
		if s.index == index {
			return s
		}
	}
	return nil
}

// align finds the instructions in the history: it ends with them.
func align(in Input) (*dockerfile, error) {
	res, err := parser.Parse(strings.NewReader(in.Text))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	d := &dockerfile{name: in.Name, ignore: in.Ignore, lines: splitLines(in.Text), report: in.Report, tree: in.Tree, nodes: map[int]*parser.Node{}}
	for _, n := range res.AST.Children {
		d.nodes[n.StartLine] = n
	}
	chain, err := d.chain(res.AST.Children, in.Target)
	if err != nil {
		return nil, err
	}
	history := in.Report.Instructions
	first := len(history) - len(chain)
	if first < 0 {
		return nil, ErrOther
	}
	for i, n := range chain {
		step := &instruction{node: n, keyword: strings.ToUpper(n.Value), index: first + i}
		by := history[step.index].CreatedBy
		if !strings.HasPrefix(by, step.keyword) && !(step.keyword == "RUN" && (strings.HasPrefix(by, "/bin/sh -c ") || strings.HasPrefix(by, "|"))) &&
			step.keyword != "MAINTAINER" {
			return nil, ErrOther
		}
		d.steps = append(d.steps, step)
	}
	d.built = d.graph(in.Built)
	return d, nil
}

// chain are the instructions of the target's stage, and before them those of the stages that it is based on.
func (d *dockerfile) chain(nodes []*parser.Node, target string) ([]*parser.Node, error) {
	type stage struct {
		name, base string
		from       *parser.Node
		nodes      []*parser.Node
	}
	var stages []*stage
	for _, n := range nodes {
		if strings.EqualFold(n.Value, "FROM") && n.Next != nil {
			s := &stage{base: n.Next.Value, from: n}
			if as := n.Next.Next; as != nil && as.Next != nil {
				s.name = as.Next.Value
			}
			stages = append(stages, s)
		} else if len(stages) > 0 {
			stages[len(stages)-1].nodes = append(stages[len(stages)-1].nodes, n)
		}
	}
	find := func(name string, before int) int {
		for i := before - 1; i >= 0; i-- {
			if strings.EqualFold(stages[i].name, name) && name != "" {
				return i
			}
		}
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < before {
			return i
		}
		return -1
	}
	at := len(stages) - 1
	if target != "" {
		at = find(target, len(stages))
	}
	if at < 0 {
		return nil, ErrOther
	}
	d.from, d.single = stages[at].from, len(stages) == 1
	var all []*parser.Node
	for ; at >= 0; at = find(stages[at].base, at) {
		all = append(append([]*parser.Node{}, stages[at].nodes...), all...)
	}
	return all, nil
}
