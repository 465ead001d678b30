package view

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

func TestParseCacheFilter(t *testing.T) {
	for in, out := range map[string]string{
		"":                         "",
		"type=exec.cachemount":     `type=="exec.cachemount"`,
		"type==regular":            `type=="regular"`,
		"type!=regular":            `type!="regular"`,
		"type~=reg.*":              `type~="reg.*"`,
		"id=a.b":                   `id~="a\\.b"`,
		"inuse":                    "inuse",
		"shared description=a,b=c": `shared,description=="a,b=c"`,
		"id!=x private":            `id!="x",private`,
	} {
		f, err := ParseCacheFilter(strings.Fields(in))
		if err != nil || f.Unused != 0 {
			t.Errorf("%s: %+v, %v", in, f, err)
		}
		want(t, in, f.By, out)
	}
	for _, key := range []string{"until", "unused-for"} {
		if f, err := ParseCacheFilter([]string{key + "=24h", "mutable"}); err != nil || f.Unused != 24*time.Hour || len(f.By) != 1 || f.By[0] != "mutable" {
			t.Errorf("%s: %+v, %v", key, f, err)
		}
	}
	for in, message := range map[string]string{
		"nonsense=1": "want one of until, id, parents", "until=2006-01-02": "invalid filter 'until=2006-01-02'", "type=layer": "use regular, exec.cachemount",
	} {
		if _, err := ParseCacheFilter([]string{in}); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v, want %q in it", in, err, message)
		}
	}
}

func TestCacheRecords(t *testing.T) {
	l := newLab(t)
	ages := []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour}
	for i, age := range ages {
		l.mount(strings.Repeat("x", i+1), 1000, time.Now().Add(-age))
	}
	list := func(f CacheFilter) string {
		t.Helper()
		all, err := CacheRecords(t.Context(), l.s, f)
		must(t, err)
		var hours []string
		for _, r := range all {
			hours = append(hours, time.Since(r.LastUsed).Truncate(time.Hour).String())
		}
		return strings.Join(hours, " ")
	}
	want(t, "least recently used first", list(CacheFilter{}), "3h0m0s 2h0m0s 1h0m0s")
	want(t, "not used for some time", list(CacheFilter{Unused: 90 * time.Minute}), "3h0m0s 2h0m0s")
	want(t, "cache mounts", list(CacheFilter{By: []string{"type==regular", "type==exec.cachemount"}, Unused: 150 * time.Minute}), "3h0m0s")
	want(t, "layers", list(CacheFilter{By: []string{"type==regular"}}), "")
	if _, err := CacheRecords(t.Context(), l.s, CacheFilter{By: []string{"type="}}); err == nil {
		t.Error("a filter that is none is accepted")
	}
}

func TestDiskUsage(t *testing.T) {
	l := newLab(t)
	base := l.layer(strings.Repeat("b", 50_000))
	one := l.name(l.image("one", "amd64", 0, base), "one")
	l.name(one, "uno")
	two := l.name(l.image("two", "amd64", time.Hour, base, l.layer(strings.Repeat("t", 20_000))), "two")
	for i, name := range []string{"stopped", "runs"} {
		c := l.container(name, one, 0, container.Config{}, container.State{})
		must(t, os.WriteFile(l.s.ContainerDir(c.ID)+"/fs/own", make([]byte, 10+i), 0o644))
		if name == "runs" {
			l.run(c)
			must(t, os.WriteFile(l.s.ContainerDir(c.ID)+"/state.json", []byte(`{"pid":1,"started":"2026-01-01T00:00:00Z"}`), 0o600))
		}
	}
	l.mount("x", 30_000, time.Now())
	l.build("2026-01", time.Now())
	running, err := l.s.NewBuild("2026-02")
	must(t, err)
	defer running.Close()
	must(t, os.WriteFile(running.Path+"/log", []byte("log"), 0o600))

	u, err := DiskUsage(t.Context(), l.m)
	must(t, err)
	if s := u.ImageSum(); s.Total != 2 || s.Active != 1 || s.Size < 70_000 || s.Reclaimable < 20_000 || s.Reclaimable > s.Size-50_000 {
		t.Errorf("images: %+v", s)
	}
	if s := u.ContainerSum(); s != (Sum{Total: 2, Active: 1, Size: 21, Reclaimable: 10}) {
		t.Errorf("containers: %+v", s)
	}
	if s := u.CacheSum(); s.Total != len(u.Cache) || s.Active != 0 || s.Size < 30_000 || s.Size > 50_000 || s.Reclaimable != s.Size {
		t.Errorf("build cache: %+v of %+v", s, u.Cache)
	}
	if s := u.BuildSum(); s.Total != 2 || s.Active != 1 || s.Reclaimable <= 0 || s.Reclaimable >= s.Size {
		t.Errorf("builds: %+v", s)
	}
	for _, img := range u.Images.Images {
		if img.ID == two.ID && (img.Containers != 0 || img.Shared < 50_000 || img.Disk-img.Shared < 20_000) || img.ID == one.ID && img.Containers != 2 {
			t.Errorf("image %s: %+v", img.Name, img)
		}
	}
	cache, allCache, everything := u.GivesBack()
	if cache < 30_000 || allCache != cache+u.BuildSum().Reclaimable || everything != allCache+u.ImageSum().Reclaimable+10 {
		t.Errorf("pruning gives back %d, %d, %d", cache, allCache, everything)
	}
	u.Cache = append(u.Cache, store.CacheRecord{Size: 7, Shared: true}, store.CacheRecord{Size: 7, InUse: true}, store.CacheRecord{Size: 5, Type: store.TypeInternal}, store.CacheRecord{Size: 5, Base: true})
	if c, a, e := u.GivesBack(); c != cache || a != allCache+10 || e != everything+10 {
		t.Errorf("with more of the cache %d, %d, %d", c, a, e)
	}
	if s := u.CacheSum(); s.Active != 1 || s.Total != len(u.Cache) {
		t.Errorf("more of the cache: %+v", s)
	}
}

func TestWorker(t *testing.T) {
	l := newLab(t)
	disk, _, err := l.s.Disk()
	must(t, err)
	w, err := NewWorker(l.s, WorkerOptions{Version: "v1", Labels: map[string]string{"a": "b"}, Policies: []store.Policy{{All: true, KeepDuration: time.Hour, Filters: []string{"mutable"}, MaxUsedSpace: store.Space{Percent: 10}, MinFreeSpace: store.Space{Bytes: 5}}}})
	must(t, err)
	if p := w.Policies; len(p) != 1 || !p[0].All || p[0].KeepDuration != time.Hour || p[0].Filter[0] != "mutable" || p[0].MaxUsedSpace != disk/100*10 || p[0].MinFreeSpace != 5 || p[0].ReservedSpace != 0 {
		t.Errorf("policies %+v", p)
	}
	host, _ := os.Hostname()
	want(t, "labels", w.Labels, "map[a:b org.mobyproject.buildkit.worker.executor:slipway org.mobyproject.buildkit.worker.hostname:"+host+
		" org.mobyproject.buildkit.worker.oci.process-mode:sandbox org.mobyproject.buildkit.worker.selinux.enabled:false"+
		" org.mobyproject.buildkit.worker.snapshotter:overlayfs slipway.store:"+l.s.Root()+" slipway.version:v1")
}
