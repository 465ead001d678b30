package kubernetes

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is wanted of the scaling, where steps wait.
const (
	wantFaster       = 7.2  // with 8 workers in place of one
	wantBusiest      = 1.25 // the busiest place for a Job, to the mean of all
	wantCoordination = 0.05 // of the wall clock
)

// scaled is a build, or several, whose steps wait.
type scaled struct {
	kind   string
	parts  int  // that need nothing of each other
	last   bool // one more has the results of all
	wait   time.Duration
	flags  func(*testing.T, *scaled, int) []string // with a number of workers
	args   map[int][]string
	meter  map[int]*meter
	result map[int]*measured
}

// measured is what one run of it took.
type measured struct {
	wall         time.Duration
	coordination time.Duration // the wall clock in which a place stood empty while a Job might have been in it, and the client's own at the end
	busiest      float64       // place, to the mean
	starts, ends time.Duration // of a pod, in the mean: until its container runs; besides that and the wait
	*meter
}

// TestScale builds with 1, 2, 4 and 8 workers what waits, and prints a table: docs/kubernetes.md tells what it means. The run with one worker takes as long
// as the others one after the other, beside which it goes.
func TestScale(t *testing.T) {
	c := newCluster(t)
	all := []*scaled{
		{kind: "stages", parts: 24, last: true, wait: seconds(t, "SLIPWAY_SCALE_STAGES", 90), flags: c.stages},
		{kind: "builds", parts: 64, wait: seconds(t, "SLIPWAY_SCALE_BUILDS", 33), flags: c.builds},
	}
	if only := os.Getenv("SLIPWAY_SCALE_ONLY"); only != "" {
		all = slices.DeleteFunc(all, func(s *scaled) bool { return s.kind != only })
	}
	counts := []int{1, 2, 4, 8}
	if only := os.Getenv("SLIPWAY_SCALE_WORKERS"); only != "" { // to look at it: nothing is compared
		counts = slices.DeleteFunc(counts, func(n int) bool { return strconv.Itoa(n) != only })
	}
	var g sync.WaitGroup
	for i, s := range all {
		s.args, s.meter, s.result = map[int][]string{}, map[int]*meter{}, map[int]*measured{}
		for j, workers := range counts {
			s.meter[workers] = c.meter(t, 7000+os.Getpid()%1000*10+5*i+j)
			c.namespace(t, s.name(workers), "privileged")
			s.args[workers] = s.flags(t, s, workers)
		}
		var mu sync.Mutex
		for _, series := range [][]int{{1}, {8, 4, 2}} {
			g.Go(func() {
				for _, workers := range slices.DeleteFunc(series, func(n int) bool { return !slices.Contains(counts, n) }) {
					m := c.measure(t, s, workers)
					mu.Lock()
					s.result[workers] = m
					mu.Unlock()
				}
			})
		}
	}
	g.Wait()
	for _, s := range all {
		c.report(t, s)
	}
}

func seconds(t *testing.T, name string, usual int) time.Duration {
	if text := os.Getenv(name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		usual = n
	}
	return time.Duration(usual) * time.Second
}

// name is the one of the namespace, and part of the one of the repository.
func (s *scaled) name(workers int) string { return fmt.Sprintf("%s-%d", s.kind, workers) }

// stages is a build of stages that do not need each other, and of one that has files of all. A machine runs one of them at a time, as if that filled it: with
// one worker all are in one Job, which would let them wait together.
func (c *cluster) stages(t *testing.T, s *scaled, workers int) []string {
	var text, last strings.Builder
	for i := range s.parts {
		fmt.Fprintf(&text, "FROM busybox AS s%d\nRUN --mount=type=cache,id=one,sharing=locked,target=/one sleep %d && echo %d >/made-%d\n", i, int(s.wait.Seconds()), i, i)
		fmt.Fprintf(&last, "COPY --from=s%d /made-%d /\n", i, i)
	}
	dir := c.files(t, map[string]string{"Dockerfile": text.String() + "FROM busybox\n" + last.String()})
	return append([]string{"build", "--push", "--tag=" + c.repository(s, workers), "--cache-to=" + c.keys(s, workers), "--cache-from=" + c.keys(s, workers)}, dir)
}

// builds is a bake of targets that do not need each other.
func (c *cluster) builds(t *testing.T, s *scaled, workers int) []string {
	var text, names strings.Builder
	for i := range s.parts {
		fmt.Fprintf(&names, "%q,", fmt.Sprintf("t%d", i))
		fmt.Fprintf(&text, "target \"t%d\" {\n  dockerfile-inline = \"FROM busybox\\nRUN sleep %d && echo %d >/made\\n\"\n  tags = [%q]\n  cache-to = [%q]\n}\n",
			i, int(s.wait.Seconds()), i, fmt.Sprintf("%s:t%d", c.repository(s, workers), i), c.keys(s, workers))
	}
	dir := c.files(t, map[string]string{"docker-bake.hcl": "group \"default\" { targets = [" + names.String() + "] }\n" + text.String()})
	return []string{"bake", "--push", "--file=" + filepath.Join(dir, "docker-bake.hcl")}
}

func (c *cluster) repository(s *scaled, workers int) string {
	return host + "/" + c.team + "/" + s.name(workers)
}

func (c *cluster) keys(s *scaled, workers int) string {
	return "type=registry,ref=" + c.repository(s, workers) + "/cache,mode=keys,registry.insecure=true"
}

// measure runs it once.
func (c *cluster) measure(t *testing.T, s *scaled, workers int) *measured {
	m := &measured{meter: s.meter[workers]}
	flags := s.args[workers]
	args := append([]string{flags[0], "--on=kubernetes://lab/" + s.name(workers), "--on-image=" + host + "/slipway:latest", "--workers=" + strconv.Itoa(workers)}, flags[1:]...)
	began := time.Now()
	p := c.startAs(t, m.kubeconfig, nil, args...)
	select {
	case <-p.ended:
	case <-t.Context().Done():
		return m
	}
	ended := time.Now()
	if m.wall = ended.Sub(began); p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("%s with %d workers: %s", s.kind, workers, p)
		return m
	}
	jobs, want, last := m.all(), s.parts, s.last
	switch {
	case last && workers == 1: // in one Job
		want, last = 1, false
	case last:
		want++
	}
	if len(jobs) != want {
		t.Errorf("%s with %d workers: %d Jobs, want %d", s.kind, workers, len(jobs), want)
		return m
	}
	m.coordination = coordination(jobs, began, ended, workers, last)
	m.busiest = busiest(jobs, workers)
	m.ends = -time.Duration(s.parts) * s.wait
	for _, j := range jobs {
		m.starts += j.runs.Sub(j.made) / time.Duration(len(jobs))
		m.ends += j.ended.Sub(j.runs)
	}
	m.ends /= time.Duration(len(jobs))
	t.Logf("%s with %d workers: %s", s.kind, workers, m)
	return m
}

func (m *measured) String() string {
	return fmt.Sprintf("%.1f s, coordination %.2f s (%.1f %%), busiest place %.2f of the mean, pods start in %.1f s, and take %.1f s besides the wait",
		m.wall.Seconds(), m.coordination.Seconds(), 100*m.coordination.Seconds()/m.wall.Seconds(), m.busiest, m.starts.Seconds(), m.ends.Seconds())
}

// coordination is the wall clock in which a place for a Job stood empty that there was a Job for, and what was the client's own after the end of the last one. A Job
// is in its place from the answer of the API server that made it until the one that says that its container has ended; there is one for a place as long as
// not all that need nothing were made, and for the last one, when there is one, when all others have ended.
func coordination(jobs []lifetime, began, ended time.Time, places int, last bool) time.Duration {
	free := len(jobs)
	if last {
		free--
	}
	type change struct {
		at           time.Time
		there, ready int
	}
	changes := []change{{began, 0, free}}
	var over time.Time
	for i, j := range jobs {
		if last && i == free {
			changes = append(changes, change{over, 0, 1})
		}
		changes = append(changes, change{j.made, 1, -1}, change{j.ended, -1, 0})
		if j.ended.After(over) {
			over = j.ended
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return a.at.Compare(b.at) })
	sum, there, ready := ended.Sub(over), 0, 0
	for i, c := range changes {
		there, ready = there+c.there, ready+c.ready
		if i+1 < len(changes) && ready > 0 && there < places {
			sum += changes[i+1].at.Sub(c.at)
		}
	}
	return sum
}

// busiest is how long a Job was in the place that had one for longest, to the mean of all. A Job takes the place that has been empty for longest.
func busiest(jobs []lifetime, places int) float64 {
	busy, until := make([]time.Duration, places), make([]time.Time, places)
	var sum time.Duration
	for _, j := range jobs {
		at := 0
		for i := range until {
			if until[i].Before(until[at]) {
				at = i
			}
		}
		busy[at], until[at] = busy[at]+j.ended.Sub(j.made), j.ended
		sum += j.ended.Sub(j.made)
	}
	return float64(slices.Max(busy)) * float64(places) / float64(sum)
}

// report prints what was measured, as a table, and what is not as it is wanted.
func (c *cluster) report(t *testing.T, s *scaled) {
	var out strings.Builder
	fmt.Fprintf(&out, "%d %s, each of which waits for %s\n\n", s.parts, s.kind, s.wait)
	out.WriteString("| workers | wall clock | as fast | busiest place / mean | coordination | start of a pod | besides | API server: requests, bytes | registry: requests, bytes in, out |\n| --: | --: | --: | --: | --: | --: | --: | --: | --: |\n")
	one := s.result[1]
	for _, workers := range slices.Sorted(maps.Keys(s.meter)) {
		m := s.result[workers]
		if one == nil {
			one = m
		}
		if m == nil || m.busiest == 0 {
			t.Errorf("%s with %d workers: nothing was measured", s.kind, workers)
			continue
		}
		faster, share, jobs := one.wall.Seconds()/m.wall.Seconds(), m.coordination.Seconds()/m.wall.Seconds(), float64(len(m.all()))
		registry := c.requests(t, "/v2/"+c.team+"/"+s.name(workers)+"/")
		fmt.Fprintf(&out, "| %d | %.0f s | %.2f | %.2f | %.1f %% | %.1f s | %.1f s | %.1f, %.0f KB | %.1f, %.0f KB, %.0f KB |\n",
			workers, m.wall.Seconds(), faster, m.busiest, 100*share, m.starts.Seconds(), m.ends.Seconds(),
			float64(m.sum())/jobs, float64(m.in+m.out)/1e3/jobs, float64(registry.n)/jobs, float64(registry.in)/1e3/jobs, float64(registry.out)/1e3/jobs)
		if workers == 8 && s.result[1] != nil && faster < wantFaster {
			t.Errorf("%s: %.2f times as fast with 8 workers, want %.1f", s.kind, faster, wantFaster)
		}
		if share > wantCoordination {
			t.Errorf("%s with %d workers: coordination is %.1f %%, want %.0f", s.kind, workers, 100*share, 100*wantCoordination)
		}
		if m.busiest > wantBusiest {
			t.Errorf("%s with %d workers: the busiest place is %.2f of the mean, want %.2f", s.kind, workers, m.busiest, wantBusiest)
		}
	}
	if s.meter[8] == nil {
		t.Log("\n" + out.String())
		return
	}
	fmt.Fprintf(&out, "\nWith 8 workers, for each Job, of the API server (%d connections, not at the same time):\n%s", s.meter[8].connections, perJob(s.meter[8].requests, len(s.meter[8].all())))
	registry := c.requests(t, "/v2/"+c.team+"/"+s.name(8)+"/")
	fmt.Fprintf(&out, "and of the registry, %d in the second with most of them:\n%s", registry.most, perJob(registry.kinds, len(s.meter[8].all())))
	for _, base := range []string{"library", "slipway"} {
		fmt.Fprintf(&out, "All of them together, below /v2/%s:\n%s", base, perJob(c.requests(t, "/v2/"+base+"/").kinds, 1))
	}
	t.Log("\n" + out.String())
}

// sum is how many requests there were.
func (m *meter) sum() (n int) {
	for _, one := range m.requests {
		n += one
	}
	return n
}

func perJob(kinds map[string]int, jobs int) string {
	var out strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(&out, "  %6.2f  %s\n", float64(kinds[kind])/float64(jobs), kind)
	}
	return out.String()
}

// asked are requests to the registry.
type asked struct {
	n       int
	in, out int64
	most    int // in one second
	kinds   map[string]int
}

var request = regexp.MustCompile(`^(\S+)T(\S{8})\S* (\S+) (/v2/\S*) (\d+) in=(\d+) out=(\d+) (\S*)`)

// requests are those of paths that begin so.
func (c *cluster) requests(t *testing.T, prefix string) asked {
	a, second := asked{kinds: map[string]int{}}, map[string]int{}
	for _, line := range c.asked(t, " "+prefix) {
		m := request.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[4], prefix) {
			continue
		}
		in, _ := strconv.ParseInt(m[6], 10, 64) // digits
		out, _ := strconv.ParseInt(m[7], 10, 64)
		a.n, a.in, a.out = a.n+1, a.in+in, a.out+out
		second[m[1]+m[2]]++
		a.kinds[m[3]+" "+registryKind(m[4])+" "+m[5]]++
	}
	for _, n := range second {
		a.most = max(a.most, n)
	}
	return a
}

// registryKind is what a path of a registry is about.
func registryKind(path string) string {
	for _, kind := range []string{"manifests/result-", "manifests/step-", "manifests/context-", "manifests/dockerfile-", "manifests/sha256", "manifests/", "blobs/uploads", "blobs/", "tags/"} {
		if strings.Contains(path, "/"+kind) {
			return kind
		}
	}
	return "others"
}

// TestCoordination: two places, of which one stands empty for a second between two Jobs and waits for nobody at the end.
func TestCoordination(t *testing.T) {
	zero := time.Now()
	at := func(seconds ...float64) (all []lifetime) {
		for i := 0; i < len(seconds); i += 2 {
			all = append(all, lifetime{made: zero.Add(time.Duration(seconds[i] * 1e9)), ended: zero.Add(time.Duration(seconds[i+1] * 1e9))})
		}
		return all
	}
	end := zero.Add(20 * time.Second)
	for _, one := range []struct {
		jobs    []lifetime
		last    bool
		want    float64 // seconds
		busiest float64
	}{
		// Both began after 0.5 s, one second passed until the next one; the client went on for 2 s.
		{at(0.5, 10, 0.5, 12, 11, 18), false, 3.5, (9.5 + 7) * 2 / (9.5 + 11.5 + 7)},
		// The last one waits for all others, and is made half a second after them; meanwhile the other place is empty for want of anything.
		{at(0.5, 10, 0.5, 12, 12.5, 18), true, 3, (9.5 + 5.5) * 2 / (9.5 + 11.5 + 5.5)},
		// Two places are empty at the same time.
		{at(1, 10, 1, 10, 11, 19, 12, 20), false, 3, 1},
	} {
		if got := coordination(one.jobs, zero, end, 2, one.last).Seconds(); got < one.want-1e-6 || got > one.want+1e-6 {
			t.Errorf("coordination of %v: %v, want %v", one.jobs, got, one.want)
		}
		if got := busiest(one.jobs, 2); got < one.busiest-1e-6 || got > one.busiest+1e-6 {
			t.Errorf("busiest of %v: %v, want %v", one.jobs, got, one.busiest)
		}
	}
}
