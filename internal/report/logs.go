package report

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/processes"
)

// What a page has of the log of a step: the first and the last lines. history logs shows all of it.
const (
	firstLines = 100
	lastLines  = 400
	maxLogLine = 2000 // bytes
	maxLogs    = 2000 // steps
	maxMost    = 200  // processes
)

// stepLog is what a step has printed.
type stepLog struct {
	Number string // in the log
	Name   string
	First  []string
	Last   []string
	lines  int
}

// Left is how many lines are left out between the first and the last ones.
func (l *stepLog) Left() int { return l.lines - len(l.First) - len(l.Last) }

// Lines is how many it has.
func (l *stepLog) Lines() int { return l.lines }

// add adds a line, which is kept whole as long as the step has few.
func (l *stepLog) add(line string) {
	l.lines++
	line = plainLine(line)
	if len(l.First) < firstLines {
		l.First = append(l.First, line)
		return
	}
	if l.Last = append(l.Last, line); len(l.Last) > 2*lastLines {
		l.Last = slices.Clone(l.Last[len(l.Last)-lastLines:])
	}
}

// stepLogs reads the log of a record: each of its lines begins with the number of its step, whose first line is the name.
func stepLogs(r io.Reader) (all []stepLog, err error) {
	of := map[string]int{}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		addLog(&all, of, string(line[:min(len(line), maxLogLine)]))
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // the build runs
			break
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range all {
		all[i].Last = all[i].Last[max(0, len(all[i].Last)-lastLines):]
	}
	return slices.DeleteFunc(all, func(l stepLog) bool { return l.lines == 0 }), nil
}

// addLog adds a line of the log to its step's.
func addLog(all *[]stepLog, of map[string]int, line string) {
	number, rest, ok := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	if !ok || !strings.HasPrefix(number, "#") {
		return
	}
	i, known := of[number]
	switch {
	case known:
		if word, _, _ := strings.Cut(rest, " "); word != "DONE" && word != "CACHED" && word != "CANCELED" {
			(*all)[i].add(rest)
		}
	case len(*all) < maxLogs:
		of[number] = len(*all)
		*all = append(*all, stepLog{Number: number, Name: plainLine(rest)})
	}
}

// longestProcesses are those that used most of the processors.
func longestProcesses(all []processes.Process) []processes.Process {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b processes.Process) int { return cmp.Compare(b.User+b.System, a.User+a.System) })
	return all[:min(len(all), maxMost)]
}
