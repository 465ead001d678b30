package build

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/progress"
)

// processesFile is the file of a record that has the processes of a build that was traced.
const processesFile = "processes.json"

// trace begins to listen for the processes of the steps, if a build wants that. The function that it returns ends it, and writes
// them to the records of these builds. Where it is not possible a step of the display says so.
func (j *job) trace() (end func()) {
	wants := func(b *building) bool { return b.req.TraceProcesses && b.req.Call == "" }
	i := slices.IndexFunc(j.all, wants)
	if i < 0 {
		return func() {}
	}
	first := j.all[i]
	w, err := processes.Start()
	if err != nil {
		first.say(fmt.Sprintf("WARNING: processes are not traced: %v", err))
		return func() {}
	}
	return func() {
		of := map[*building][]int{}
		var roots []int
		for _, b := range j.all {
			if wants(b) && b.run != nil {
				of[b] = firstProcesses(b.run.Records())
				roots = append(roots, of[b]...)
			}
		}
		all, lost, err := w.Close(roots...)
		if lost > 0 {
			first.say(fmt.Sprintf("WARNING: %d times processes ended too fast to be traced", lost))
		}
		for b, mine := range of {
			if err == nil {
				err = b.record.putProcesses(slices.DeleteFunc(slices.Clone(all), func(p processes.Process) bool { return !slices.Contains(mine, p.Root) }))
			}
			if err != nil {
				b.say(fmt.Sprintf("WARNING: processes are not traced: %v", err))
			}
		}
	}
}

// firstProcesses are those of steps.
func firstProcesses(steps []engine.StepRecord) (pids []int) {
	for _, s := range steps {
		if s.Process != nil && s.Process.Usage != nil {
			pids = append(pids, s.Process.Usage.PID)
		}
	}
	return pids
}

// say shows a line as a step.
func (b *building) say(line string) {
	progress.Start(b.sink, progress.Vertex{Digest: digest.FromString(line), Name: line}).Done(nil)
}

func (r *record) putProcesses(all []processes.Process) error {
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.path, processesFile), data, 0o600)
}

// Processes are those that the steps have run, as they began, if the build was traced.
func (r *Recorded) Processes() (all []processes.Process, err error) {
	err = readJSON(filepath.Join(r.dir, processesFile), &all)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the processes of build %s: %w", r.ID, err)
	}
	return all, nil
}
