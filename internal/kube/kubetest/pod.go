package kubetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pod is a pod. What it has is guarded by its server's mu.
type Pod struct {
	Name, UID string
	Object    map[string]any

	server *Server
	job    string
	lines  []logLine
	part   []byte
	cmd    *exec.Cmd
	ended  bool
	lost   bool // its node is gone: it stays until its Job is deleted
	dir    string
}

type logLine struct {
	at   time.Time
	text []byte
}

// makePod makes a pod of a Job; mu is held.
func (s *Server) makePod(job string) {
	s.serial++
	name := fmt.Sprintf("%s-%d", job, s.serial)
	spec, _ := json.Marshal(At(s.jobs[job], "spec.template.spec"))
	p := &Pod{Name: name, UID: "uid-" + name, server: s, job: job, dir: filepath.Join(s.opt.Dir, name)}
	labels := At(s.jobs[job], "spec.template.metadata.labels")
	p.Object = dict{"metadata": dict{
		"name": name, "uid": p.UID, "labels": labels, "ownerReferences": []any{dict{"kind": "Job", "name": job, "uid": At(s.jobs[job], "metadata.uid")}},
	}, "spec": dict{}, "status": dict{"phase": "Pending"}}
	var copied dict
	_ = json.Unmarshal(spec, &copied)
	p.Object["spec"] = copied
	s.pods[name] = p
	p.tell("ADDED")
	go p.run()
}

// Disown has the pod be another object's, and another one be its Job's.
func (p *Pod) Disown() {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	p.Object["metadata"].(dict)["ownerReferences"] = []any{dict{"kind": "Job", "name": p.job, "uid": "another"}}
	p.tell("MODIFIED")
	p.server.makePod(p.job)
}

// encoded is the pod as JSON; mu is held.
func (p *Pod) encoded() []byte {
	data, err := json.Marshal(p.Object)
	if err != nil {
		panic(err)
	}
	return data
}

// tell tells those who watch; mu is held.
func (p *Pod) tell(kind string) {
	s := p.server
	s.version++
	p.Object["metadata"].(dict)["resourceVersion"] = fmt.Sprint(s.version)
	s.log = append(s.log, change{s.version, kind, p.job, p.encoded()})
	s.changed.Broadcast()
}

// Set sets the pod's status.
func (p *Pod) Set(status map[string]any) {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	p.set(status)
}

func (p *Pod) set(status dict) {
	p.Object["status"] = status
	p.tell("MODIFIED")
}

// State is a status in which the container has a state.
func State(phase, state string, of map[string]any) map[string]any {
	return dict{"phase": phase, "containerStatuses": []any{dict{"name": "slipway", "state": dict{state: of}}}}
}

// Delete deletes the pod: its process is killed.
func (p *Pod) Delete() {
	p.Kill(unix.SIGTERM)
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[p.Name] == p {
		p.end()
		delete(s.pods, p.Name)
		p.tell("DELETED")
	}
}

// end says that nothing is printed any more; mu is held.
func (p *Pod) end() {
	p.ended = true
	p.server.changed.Broadcast()
}

// Kill sends the container's process a signal.
func (p *Pod) Kill(sig unix.Signal) {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	if p.cmd != nil && p.cmd.Process != nil {
		_ = unix.Kill(-p.cmd.Process.Pid, sig) // it may have ended
	}
}

// Strand has the pod's node be gone: it is to be deleted, which nobody does.
func (p *Pod) Strand() {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	p.lost = true
	meta := p.Object["metadata"].(dict)
	meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = time.Now().UTC().Format(time.RFC3339), 0
	p.tell("MODIFIED")
}

// Running gives the pods whose containers run.
func (s *Server) Running() (all []*Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pods {
		if p.cmd != nil && !p.ended {
			all = append(all, p)
		}
	}
	return all
}

// run runs the container, and when it has ended what a Job's controller does.
func (p *Pod) run() {
	if p.server.opt.Pod != nil && !p.server.opt.Pod(p.server, p) {
		return
	}
	code, message := p.exec()
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	p.end()
	if s.pods[p.Name] != p {
		return
	}
	phase := "Succeeded"
	if code != 0 {
		phase = "Failed"
	}
	p.set(State(phase, "terminated", dict{"exitCode": code, "message": message, "reason": "Error"}))
	switch job := s.jobs[p.job]; {
	case job == nil || At(job, "metadata.deletionTimestamp") != nil:
	case code == 137 || code == 143:
		s.makePod(p.job)
	default:
		kind := map[bool]string{true: "Complete", false: "Failed"}[code == 0]
		job["status"] = dict{"conditions": []any{dict{"type": kind, "status": "True"}}}
	}
}

// exec runs the container's process.
func (p *Pod) exec() (code int, message string) {
	const files, termination = "/.slipway/job", "/dev/termination-log"
	own := strings.NewReplacer(files, filepath.Join(p.dir, "files"), termination, filepath.Join(p.dir, "termination"))
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return 128, err.Error()
	}
	if bytes.Contains(p.encoded(), []byte(files)) {
		if err := p.server.files(p, filepath.Join(p.dir, "files")); err != nil {
			return 128, err.Error()
		}
	}
	var args []string
	all, _ := At(p.Object, "spec.containers.0.args").([]any)
	for _, a := range all {
		args = append(args, strings.ReplaceAll(own.Replace(a.(string)), "$$", "$"))
	}
	cmd := exec.Command(p.server.opt.Program, args...)
	cmd.Env = append(os.Environ(), p.server.opt.Env...)
	env, _ := At(p.Object, "spec.containers.0.env").([]any)
	for _, e := range env {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s", At(e, "name"), strings.ReplaceAll(own.Replace(At(e, "value").(string)), "$$", "$")))
	}
	cmd.Env = append(cmd.Env, "SLIPWAY_ROOT="+filepath.Join(p.dir, "store"))
	cmd.Stdout, cmd.Stderr = p, p
	cmd.WaitDelay = time.Second // what it has started may be left
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.server.mu.Lock()
	err := cmd.Start()
	if err == nil {
		p.cmd = cmd
		p.set(State("Running", "running", dict{}))
	}
	p.server.mu.Unlock()
	if err != nil {
		return 128, err.Error()
	}
	err = cmd.Wait()
	text, _ := os.ReadFile(filepath.Join(p.dir, "termination")) // it may have left none
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, string(text)
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), string(text)
	case errors.As(err, &exit):
		return exit.ExitCode(), string(text)
	}
	return 128, err.Error()
}

// Write takes what the container prints.
func (p *Pod) Write(b []byte) (int, error) {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	p.part = append(p.part, b...)
	for {
		line, rest, ok := bytes.Cut(p.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		p.lines = append(p.lines, logLine{time.Now(), bytes.Clone(line)})
		p.part = bytes.Clone(rest)
		p.server.changed.Broadcast()
	}
}

// Print has the pod print a line.
func (p *Pod) Print(line string) { _, _ = p.Write([]byte(line + "\n")) }

func (s *Server) readLog(w http.ResponseWriter, r *http.Request, name string) {
	s.mu.Lock()
	p := s.pods[name]
	s.mu.Unlock()
	if p == nil {
		refuse(w, http.StatusNotFound, "NotFound", name+" not found")
		return
	}
	since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("sinceTime"))
	follow := r.URL.Query().Get("follow") == "true"
	flush := w.(http.Flusher).Flush
	flush()
	gone := false
	stop := s.wakeAtEnd(r, &gone)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; ; {
		for ; i < len(p.lines); i++ {
			if l := p.lines[i]; !l.at.Before(since) {
				fmt.Fprintf(w, "%s %s\n", l.at.UTC().Format(time.RFC3339Nano), l.text)
			}
		}
		flush()
		if gone || !follow || p.ended && !s.opt.LogsStay {
			return
		}
		s.changed.Wait()
	}
}
