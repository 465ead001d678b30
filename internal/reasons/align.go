package reasons

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// place is where a vertex stands in a Dockerfile: "[linux/arm64 builder 2/4] RUN make" is the second of the stage "linux/arm64 builder".
// A name without that is one of the stage "".
type place struct {
	stage  string
	number int
	text   string
}

var placed = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\[(?:(.+) )?(\d{1,9})/\d+\] *`) })

func placeOf(name string) place {
	m := placed().FindStringSubmatchIndex(name)
	if m == nil {
		return place{text: name}
	}
	p := place{stage: "0", text: name[m[1]:]} // no stage has that name
	if m[2] >= 0 {
		p.stage = name[m[2]:m[3]]
	}
	p.number, _ = strconv.Atoi(name[m[4]:m[5]])
	return p
}

// Step is the instruction of a name: "RUN make" of "[builder 2/4] RUN make".
func Step(name string) string { return placeOf(name).text }

// keyword is the first word of an instruction.
func keyword(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}

// step is a vertex with its place.
type step struct {
	place
	vertex int
}

// stages are the steps of a build by their stages, each in its order, and the names of the stages in the order of the first of them.
func stages(b *Build) (all map[string][]step, order []string) {
	all = map[string][]step{}
	for i, v := range b.Vertices {
		p := placeOf(v.Name)
		if all[p.stage] == nil {
			order = append(order, p.stage)
		}
		all[p.stage] = append(all[p.stage], step{p, i})
	}
	for _, steps := range all {
		slices.SortStableFunc(steps, func(a, b step) int { return a.number - b.number })
	}
	return all, order
}

// align finds which vertices of two builds are the same step: the number of that of before by the number of that of now.
func align(before, now *Build) map[int]int {
	pairs := map[int]int{}
	was, wasOrder := stages(before)
	is, isOrder := stages(now)
	match := func(from, to string) {
		alignSteps(was[from], is[to], pairs)
		delete(was, from)
		delete(is, to)
	}
	for _, name := range isOrder {
		if was[name] != nil {
			match(name, name)
		}
	}
	// A stage may have another name now; one of several platforms has that of the platform before its own.
	for _, same := range []func(a, b string) bool{
		func(a, b string) bool { return withoutPlatform(a) == withoutPlatform(b) },
		func(a, b string) bool { return (a == "") == (b == "") && !before.Other },
	} {
		for _, name := range isOrder {
			i := slices.IndexFunc(wasOrder, func(old string) bool { return was[old] != nil && same(old, name) })
			if is[name] != nil && i >= 0 {
				match(wasOrder[i], name)
			}
		}
	}
	return pairs
}

// withoutPlatform is the name of a stage without the platform that stands before it.
func withoutPlatform(stage string) string {
	first, rest, more := strings.Cut(stage, " ")
	switch {
	case !strings.Contains(first, "/"):
		return stage
	case more:
		return rest
	}
	return "0"
}

// maxTable bounds what is compared each with each.
const maxTable = 1 << 20

// alignSteps pairs the steps of a stage: those with the same text in the same order, as many as possible, and between those what may have
// been changed into each other.
func alignSteps(was, is []step, pairs map[int]int) {
	for len(was) > 0 && len(is) > 0 && was[0].text == is[0].text {
		pairs[is[0].vertex] = was[0].vertex
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && was[len(was)-1].text == is[len(is)-1].text {
		pairs[is[len(is)-1].vertex] = was[len(was)-1].vertex
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	i, j := 0, 0
	for _, c := range common(was, is) {
		alignChanged(was[i:c[0]], is[j:c[1]], pairs)
		pairs[is[c[1]].vertex] = was[c[0]].vertex
		i, j = c[0]+1, c[1]+1
	}
	alignChanged(was[i:], is[j:], pairs)
}

// common finds a longest common subsequence of texts: pairs of places, in order. Where there is too much to compare there is none.
func common(was, is []step) (pairs [][2]int) {
	if len(was)*len(is) > maxTable {
		return nil
	}
	width := len(is) + 1
	length := make([]int32, (len(was)+1)*width) // of the rests
	for i := len(was) - 1; i >= 0; i-- {
		for j := len(is) - 1; j >= 0; j-- {
			if was[i].text == is[j].text {
				length[i*width+j] = length[(i+1)*width+j+1] + 1
			} else {
				length[i*width+j] = max(length[(i+1)*width+j], length[i*width+j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(was) && j < len(is); {
		switch {
		case was[i].text == is[j].text:
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case length[(i+1)*width+j] >= length[i*width+j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}

// alignChanged pairs steps none of which has the text of another: as they stand if they are as many, or else those of a kind in their order.
func alignChanged(was, is []step, pairs map[int]int) {
	for k, s := range is {
		i := slices.IndexFunc(was, func(old step) bool { return keyword(old.text) == keyword(s.text) })
		if len(was) == len(is)-k && keyword(was[0].text) == keyword(s.text) {
			i = 0
		}
		if i < 0 {
			continue
		}
		pairs[s.vertex] = was[i].vertex
		was = was[i+1:]
	}
}
