package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// Pictures are SVG, whose sizes are in its units: a page scales them.
const (
	pictureWidth = 1000
	rowHeight    = 24
	maxBars      = 400 // rows of a timeline
	maxTiles     = 300
)

// timeline is when the steps ran.
type timeline struct {
	Width, Height int
	Rows          []bar
	Marks         []mark
	Left          int // steps that are left out
}

// bar is a row of a timeline: a step with when it ran.
type bar struct {
	Step    *timing.Step
	Index   int // of the step in the table
	Y       int
	X, W    float64
	Label   float64 // where the text begins
	Before  bool    // the text ends there
	Path    bool    // it is on the critical path
	Class   string
	Caption string
}

// mark is a line at a time.
type mark struct {
	X    float64
	Text string
}

func timelineOf(t *timing.Timing) (tl timeline) {
	tl.Width = pictureWidth
	path := map[digest.Digest]bool{}
	for _, s := range t.Path {
		path[s.Digest] = true
	}
	total := max(t.Took, time.Millisecond)
	for i := range t.Steps {
		s := &t.Steps[i]
		if s.State == timing.Cached && t.Total > 50 || s.State == timing.Besides && s.Took < total/500 {
			continue
		}
		if len(tl.Rows) == maxBars {
			tl.Left++
			continue
		}
		b := bar{Step: s, Index: i, Y: (len(tl.Rows) + 1) * rowHeight, Path: path[s.Digest], Class: "s-" + string(s.State), Caption: caption(s)}
		b.X = float64(s.Start) / float64(total) * pictureWidth
		b.W = max(float64(s.Took)/float64(total)*pictureWidth, 2)
		b.X = min(b.X, pictureWidth-2)
		b.W = min(b.W, pictureWidth-b.X)
		b.Label = b.X + 6
		if b.X > pictureWidth/2 {
			b.Label, b.Before = b.X-6, true
			if b.W > pictureWidth/4 {
				b.Label, b.Before = b.X+6, false
			}
		}
		tl.Rows = append(tl.Rows, b)
	}
	tl.Height = (len(tl.Rows) + 2) * rowHeight
	for i := range 5 {
		tl.Marks = append(tl.Marks, mark{float64(i) * pictureWidth / 5, timing.Seconds(total * time.Duration(i) / 5)})
	}
	return tl
}

// caption is a step in a few words.
func caption(s *timing.Step) string {
	text := []rune(clean(strings.Join(strings.Fields(s.Name), " ")))
	if len(text) > 80 {
		text = append(text[:79:79], '…')
	}
	if s.State == timing.Cached {
		return string(text) + " (cached)"
	}
	return string(text) + " " + timing.Seconds(s.Took)
}

// graph is the stages of a build with what they take of each other, from the left to the right.
type graph struct {
	Width, Height int
	Stages        []*stage
	Edges         []string // paths of SVG
}

// stage is a box of a graph.
type stage struct {
	Name   string
	X, Y   int
	Steps  int
	Cached int
	Took   time.Duration
	Class  string
	rank   int
	from   map[*stage]bool
}

// Title is the name as it fits.
func (s *stage) Title() string {
	name := []rune(clean(s.Name))
	if len(name) > 24 {
		name = append(name[:23:23], '…')
	}
	return string(name)
}

// Text says what became of its steps.
func (s *stage) Text() string {
	if s.Steps == 1 {
		return fmt.Sprintf("1 step, %d cached", s.Cached)
	}
	return fmt.Sprintf("%d steps, %d cached", s.Steps, s.Cached)
}

const (
	stageWidth  = 200
	stageHeight = 64
	stageGap    = 60
	maxStages   = 200
)

// stageOf is the stage of a step by its name: of "[build 2/4] RUN make" it is "build".
func stageOf(s *timing.Step) string {
	if s.State == timing.Besides {
		return ""
	}
	place, _, ok := strings.Cut(s.Name, "] ")
	if !ok || !strings.HasPrefix(place, "[") {
		return "steps"
	}
	words := strings.Fields(place[1:])
	if n := len(words); n > 0 && strings.Contains(words[n-1], "/") {
		words = words[:n-1]
	}
	return cmp.Or(strings.Join(words, " "), "Dockerfile")
}

// sharedImages are the images that several stages begin with, which are one step: it has the name of the first of them.
func sharedImages(t *timing.Timing) map[digest.Digest]string {
	images, shared := map[digest.Digest]*timing.Step{}, map[digest.Digest]string{}
	for i := range t.Steps {
		if s := &t.Steps[i]; strings.HasPrefix(s.Short(), "FROM ") && stageOf(s) != "" {
			images[s.Digest] = s
		}
	}
	for i := range t.Steps {
		s := &t.Steps[i]
		for _, d := range s.Inputs {
			if image := images[d]; image != nil && stageOf(s) != "" && stageOf(s) != stageOf(image) {
				shared[d] = image.Short()
			}
		}
	}
	return shared
}

func graphOf(t *timing.Timing) (g graph) {
	of, byName := map[digest.Digest]*stage{}, map[string]*stage{}
	images := sharedImages(t)
	for i := range t.Steps {
		s := &t.Steps[i]
		name := cmp.Or(images[s.Digest], stageOf(s))
		if name == "" {
			continue
		}
		st := byName[name]
		if st == nil {
			if len(g.Stages) == maxStages {
				continue
			}
			st = &stage{Name: name, from: map[*stage]bool{}, Class: "s-cached"}
			byName[name] = st
			g.Stages = append(g.Stages, st)
		}
		of[s.Digest] = st
		st.Steps++
		st.Took += s.Took
		switch s.State {
		case timing.Cached:
			st.Cached++
		case timing.Broke:
			st.Class = "s-failed"
		default:
			if st.Class != "s-failed" {
				st.Class = "s-ran"
			}
		}
	}
	for i := range t.Steps {
		s := &t.Steps[i]
		for _, d := range s.Inputs {
			if to, from := of[s.Digest], of[d]; to != nil && from != nil && to != from {
				to.from[from] = true
			}
		}
	}
	g.place()
	return g
}

// place gives each stage a place to the right of all that it takes something of, and draws what it takes.
func (g *graph) place() {
	for range g.Stages { // as long as the longest way
		for _, s := range g.Stages {
			for f := range s.from {
				s.rank = min(max(s.rank, f.rank+1), len(g.Stages)) // stages of one name, of a client, may go round
			}
		}
	}
	rows := map[int]int{}
	for _, s := range g.Stages {
		s.X, s.Y = 10+s.rank*(stageWidth+stageGap), 10+rows[s.rank]*(stageHeight+stageGap/3)
		rows[s.rank]++
		g.Width, g.Height = max(g.Width, s.X+stageWidth+10), max(g.Height, s.Y+stageHeight+10)
	}
	for _, s := range g.Stages {
		var from []*stage
		for f := range s.from {
			from = append(from, f)
		}
		slices.SortFunc(from, func(a, b *stage) int { return cmp.Compare(a.Y, b.Y) })
		for _, f := range from {
			x1, y1, x2, y2 := f.X+stageWidth, f.Y+stageHeight/2, s.X, s.Y+stageHeight/2
			g.Edges = append(g.Edges, fmt.Sprintf("M%d %d C%d %d %d %d %d %d", x1, y1, x1+stageGap/2, y1, x2-stageGap/2, y2, x2, y2))
		}
	}
}

// tile is a part of a treemap.
type tile struct {
	Part       *imagesize.Node
	X, Y, W, H float64
	Depth      int
	Text       bool // there is room for its name
}

// treemapOf lays parts out by their size: two levels of them.
func treemapOf(root *imagesize.Node) (tiles []tile) {
	if root == nil || root.Size <= 0 {
		return nil
	}
	tiles = squarify(tiles, root.Children, 0, 0, pictureWidth, pictureWidth/2, 0)
	for _, t := range slices.Clone(tiles) {
		if len(t.Part.Children) > 0 && t.W > 40 && t.H > 40 {
			tiles = squarify(tiles, t.Part.Children, t.X+3, t.Y+20, t.W-6, t.H-23, 1)
		}
	}
	return tiles[:min(len(tiles), maxTiles)]
}

// squarify fills a rectangle with parts, the largest first, so that they are close to squares (Bruls, Huizing and van Wijk).
func squarify(tiles []tile, parts []*imagesize.Node, x, y, w, h float64, depth int) []tile {
	parts = slices.DeleteFunc(slices.Clone(parts), func(s *imagesize.Node) bool { return s == nil || s.Size <= 0 })
	slices.SortStableFunc(parts, func(a, b *imagesize.Node) int { return cmp.Compare(b.Size, a.Size) })
	var left float64
	for _, p := range parts {
		left += float64(p.Size)
	}
	for len(parts) > 0 && w > 2 && h > 2 && left > 0 {
		side, n, sum := min(w, h), 1, float64(parts[0].Size)
		worst := ratio(parts[:1], sum, left, w*h, side)
		for n < len(parts) {
			next := sum + float64(parts[n].Size)
			if r := ratio(parts[:n+1], next, left, w*h, side); r > worst {
				break
			} else {
				worst = r
			}
			sum = next
			n++
		}
		thick := sum / left * w * h / side
		at := 0.0
		for _, p := range parts[:n] {
			long := float64(p.Size) / sum * side
			t := tile{Part: p, X: x + at, Y: y, W: long, H: thick, Depth: depth}
			if w >= h {
				t = tile{Part: p, X: x, Y: y + at, W: thick, H: long, Depth: depth}
			}
			t.Text = t.W > 60 && t.H > 16
			tiles = append(tiles, t)
			at += long
		}
		if w >= h {
			x, w = x+thick, w-thick
		} else {
			y, h = y+thick, h-thick
		}
		left -= sum
		parts = parts[n:]
	}
	return tiles
}

// ratio is the worst one of the sides of parts that share a strip along a side of a rectangle.
func ratio(parts []*imagesize.Node, sum, left, area, side float64) (worst float64) {
	thick := sum / left * area / side
	for _, p := range parts {
		long := float64(p.Size) / sum * side
		worst = max(worst, thick/long, long/thick)
	}
	return worst
}
