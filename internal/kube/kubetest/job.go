package kubetest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"
)

// Jobs gives the Jobs that there are.
func (s *Server) Jobs() (all []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		all = append(all, j)
	}
	return all
}

// dryRun answers with the pod that would be made.
func (s *Server) dryRun(w http.ResponseWriter, r *http.Request) {
	p, ok := read(w, r)
	switch {
	case !ok:
		return
	case r.URL.Query().Get("dryRun") != "All":
		refuse(w, http.StatusForbidden, "Forbidden", "nobody makes pods by hand here")
		return
	}
	if why := s.violates(p); why != "" {
		refuse(w, http.StatusForbidden, "Forbidden", fmt.Sprintf("pods \"slipway-x\" is forbidden: violates PodSecurity %q: %s", s.opt.Level+":latest", why))
		return
	}
	if s.opt.NoUserNamespaces {
		delete(p["spec"].(dict), "hostUsers")
	}
	answer(w, http.StatusCreated, p)
}

// violates is a part of PodSecurity's rules.
func (s *Server) violates(p dict) string {
	const of = "spec.containers.0.securityContext."
	if s.opt.Level == "" || s.opt.Level == "privileged" {
		return ""
	}
	if At(p, of+"capabilities.add.0") != nil {
		return `non-default capabilities (container "slipway" must not include "SYS_ADMIN")`
	}
	if At(p, of+"seccompProfile.type") == "Unconfined" || At(p, of+"privileged") == true {
		return "seccompProfile (container must not set it to Unconfined)"
	}
	if s.opt.Level == "restricted" && (At(p, of+"runAsNonRoot") != true || At(p, of+"allowPrivilegeEscalation") != false || At(p, of+"capabilities.drop.0") != "ALL") {
		return "allowPrivilegeEscalation != false, runAsNonRoot != true"
	}
	return ""
}

func (s *Server) makeJob(w http.ResponseWriter, r *http.Request) {
	j, ok := read(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _ := At(j, "metadata.name").(string)
	if s.jobs[name] != nil {
		if s.opt.LostAnswers < 0 {
			s.answerMaker(w, http.StatusConflict, nil)
			return
		}
		refuse(w, http.StatusConflict, "AlreadyExists", name+" already exists")
		return
	}
	s.fill(j)
	s.jobs[name], s.made = j, s.made+1
	s.makePod(name)
	s.answerMaker(w, http.StatusCreated, j)
}

// answerMaker answers who makes a Job, or loses the answer; mu is held.
func (s *Server) answerMaker(w http.ResponseWriter, code int, v any) {
	if s.opt.LostAnswers == 0 {
		answer(w, code, v)
		return
	}
	s.opt.LostAnswers--
	refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "the answer is lost")
}

// dryRunJob answers with the Job that would be made.
func (s *Server) dryRunJob(w http.ResponseWriter, r *http.Request) {
	j, ok := read(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fill(j)
	answer(w, http.StatusCreated, j)
}

// fill adds what the server says of a Job; mu is held.
func (s *Server) fill(j dict) {
	name, _ := At(j, "metadata.name").(string)
	s.serial++
	uid := fmt.Sprintf("uid-%s-%d", name, s.serial)
	meta := j["metadata"].(dict)
	meta["uid"], meta["creationTimestamp"], j["status"] = uid, now(), dict{}
	spec := j["spec"].(dict)
	spec["selector"] = dict{"matchLabels": dict{"batch.kubernetes.io/controller-uid": uid}}
	spec["suspend"], spec["completionMode"] = false, "NonIndexed"
	labels := At(spec, "template.metadata.labels").(dict)
	labels["batch.kubernetes.io/controller-uid"], labels["batch.kubernetes.io/job-name"] = uid, name
}

// now is the time, as objects have it.
func now() string { return time.Now().UTC().Format(time.RFC3339) }

// Made is how many Jobs were made so far.
func (s *Server) Made() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made
}

// Edit changes Jobs.
func (s *Server) Edit(change func(job map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		change(j)
	}
}

// deleteJob deletes a Job as who asks for "Foreground" has it deleted: after all that it owns.
func (s *Server) deleteJob(w http.ResponseWriter, r *http.Request, name string) {
	options, _ := read(httptest.NewRecorder(), r) // it may have none
	s.mu.Lock()
	j := s.jobs[name]
	if j == nil {
		s.mu.Unlock()
		refuse(w, http.StatusNotFound, "NotFound", name+" not found")
		return
	}
	uid := At(j, "metadata.uid")
	if want := At(options, "preconditions.uid"); want != nil && want != uid {
		s.mu.Unlock()
		refuse(w, http.StatusConflict, "Conflict", "the UID in the precondition is another one")
		return
	}
	j["metadata"].(dict)["deletionTimestamp"] = now()
	for secret, v := range s.secrets {
		if At(v, "metadata.ownerReferences.0.uid") == uid {
			delete(s.secrets, secret)
		}
	}
	var of []*Pod
	for _, p := range s.pods {
		if At(p.Object, "metadata.ownerReferences.0.uid") == uid {
			of = append(of, p)
		}
	}
	s.mu.Unlock()
	for _, p := range of {
		p.Delete()
	}
	s.mu.Lock()
	if !s.opt.Lingering {
		delete(s.jobs, name)
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	answer(w, http.StatusOK, dict{})
}
