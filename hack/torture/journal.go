package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// journal is a file with what was done in a run, so that one that was stopped goes on where it was: JSON, a line for the
// program that is tortured, one a round, and one a planted defect. A nil journal remembers nothing.
type journal struct {
	mu     sync.Mutex
	file   *os.File
	rounds map[string]map[uint64]entry // by kind and seed
	plants map[string]entry            // by name of the defect
}

// entry is a line of a journal.
type entry struct {
	Slipway string  `json:"slipway,omitempty"` // the first line: SHA-256 of the program
	Kind    string  `json:"kind,omitempty"`    // of a round
	Seed    uint64  `json:"seed,omitempty"`
	Count   int64   `json:"count,omitempty"` // of what the kind counts
	Planted string  `json:"planted,omitempty"`
	Rounds  int64   `json:"rounds,omitempty"` // that it took to find what was planted
	Told    string  `json:"told,omitempty"`   // by the round that found it
	Failed  string  `json:"failed,omitempty"` // why the round failed, or what was planted was not found
	Seconds float64 `json:"seconds"`
}

// openJournal reads a journal, or begins one. A journal of another program is an error.
func openJournal(path, slipway string) (_ *journal, err error) {
	if path == "" {
		return nil, nil
	}
	program, err := digestOf(slipway)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, rounds: map[string]map[uint64]entry{}, plants: map[string]entry{}}
	if err := j.read(path, program); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// read reads all lines, and takes away one that is not whole, which nobody was told of.
func (j *journal) read(path, program string) error {
	data, err := io.ReadAll(j.file)
	if err != nil {
		return err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	if err := errors.Join(j.file.Truncate(int64(len(whole))), seekEnd(j.file)); err != nil {
		return err
	}
	if len(whole) == 0 {
		return j.add(entry{Slipway: program})
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n")) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, i+1, err)
		}
		if i == 0 && e.Slipway != program {
			return fmt.Errorf("%s is the journal of a run with another slipway: remove it to begin anew", path)
		}
		j.keep(e)
	}
	return nil
}

func (j *journal) keep(e entry) {
	if e.Planted != "" {
		j.plants[e.Planted] = e
		return
	}
	if j.rounds[e.Kind] == nil {
		j.rounds[e.Kind] = map[uint64]entry{}
	}
	j.rounds[e.Kind][e.Seed] = e
}

// add writes a line.
func (j *journal) add(e entry) error {
	if j == nil {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// round is what came of a round, if it was done.
func (j *journal) round(kind string, seed uint64) (entry, bool) {
	if j == nil {
		return entry{}, false
	}
	e, ok := j.rounds[kind][seed]
	return e, ok
}

// plant is what came of a defect, if it was planted.
func (j *journal) plant(name string) (entry, bool) {
	if j == nil {
		return entry{}, false
	}
	e, ok := j.plants[name]
	return e, ok
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}

// took is how long what an entry tells of took.
func (e entry) took() time.Duration { return time.Duration(e.Seconds * float64(time.Second)) }

// failure is the failure of an entry, or nil.
func (e entry) failure() error {
	if e.Failed == "" {
		return nil
	}
	return errors.New(e.Failed)
}

// failed is the text of an error, or "".
func failed(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d, err := digest.SHA256.FromReader(f)
	if err != nil {
		return "", err
	}
	return d.Encoded(), nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}
