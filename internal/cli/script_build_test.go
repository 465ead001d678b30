package cli_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// ownRegistry is the command `registry`, a registry that belongs to one script. Its address is in
// $OWN; it has the images base:v1 and other:v1.
//
//	registry start      with base:v1, of which /version holds "one"
//	registry update     base:v1 is another image now: /version holds "two"
//	registry break N    the next N downloads of blobs end in the middle
//	registry damage     blobs have other bytes than they should
//	registry push DIR NAME   the image of an OCI layout
//	registry forge NAME OF   an image with a file /foreign, whose config names the diffIDs of OF, an image of $REGISTRY
//	registry copy NAME OF    OF itself
//	registry stop
//	registry asked RE [N]   it was asked for "METHOD /path" since the last time, so many times; `!`: it was not
func ownRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: registry start|update|break|damage|stop|asked")
	}
	if args[0] == "start" {
		r := &scriptRegistry{Registry: registrytest.New()}
		ts.Defer(r.Close)
		ts.Setenv("OWN", r.Host)
		scriptRegistries.Store(r.Host, r)
		r.push("base:v1", "one")
		r.push("other:v1", "other")
		return
	}
	v, ok := scriptRegistries.Load(ts.Getenv("OWN"))
	if !ok {
		ts.Fatalf("no registry was started")
	}
	r := v.(*scriptRegistry)
	switch args[0] {
	case "update":
		r.push("base:v1", "two")
	case "break":
		n, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		r.cut(n)
	case "damage":
		r.Use(damage)
	case "push":
		r.pushLayout(ts, ts.MkAbs(args[1]), args[2])
	case "forge":
		r.forge(ts, args[1], fetchImage(ts, ts.Getenv("REGISTRY")+"/"+args[2]))
	case "copy":
		img := fetchImage(ts, ts.Getenv("REGISTRY")+"/"+args[2])
		to, err := name.ParseReference(r.Host + "/" + args[1])
		ts.Check(err)
		ts.Check(remote.Write(to, img))
	case "stop":
		r.Close()
	case "asked":
		re := regexp.MustCompile(args[1])
		all := r.Requests()
		if len(args) > 2 {
			n := 0
			for _, req := range all {
				if re.MatchString(req) {
					n++
				}
			}
			if fmt.Sprint(n) != args[2] {
				ts.Fatalf("%d requests of %s, want %s: the registry had %q", n, args[1], args[2], all)
			}
			return
		}
		if slices.ContainsFunc(all, re.MatchString) == neg {
			ts.Fatalf("requests of %s: %v, the registry had %q", args[1], !neg, all)
		}
	default:
		ts.Fatalf("unknown: registry %s", args[0])
	}
}

type scriptRegistry struct{ *registrytest.Registry }

// scriptRegistries are the registries of all scripts by their host.
var scriptRegistries sync.Map

// push makes an image whose second layer is long enough to be broken off, and different each time
// only by its seed.
func (r *scriptRegistry) push(name, version string) {
	var seed [32]byte
	copy(seed[:], name)
	noise := make([]byte, 300_000)
	for i, rng := 0, rand.NewChaCha8(seed); i < len(noise); i++ {
		noise[i] = 'a' + byte(rng.Uint64()%26)
	}
	r.PushImage(name, registrytest.Image{Layers: []registrytest.Layer{
		{"version": version + "\n"},
		{"noise": string(noise)},
	}})
}

// pushLayout pushes the only image of an OCI layout, which go-containerregistry reads and checks.
func (r *scriptRegistry) pushLayout(ts *testscript.TestScript, dir, ref string) {
	index, err := layout.ImageIndexFromPath(dir)
	ts.Check(err)
	manifest, err := index.IndexManifest()
	ts.Check(err)
	img, err := index.Image(manifest.Manifests[0].Digest)
	ts.Check(err)
	layers, err := img.Layers()
	ts.Check(err)
	kind, err := layers[len(layers)-1].MediaType()
	ts.Check(err)
	if !strings.HasSuffix(string(kind), "gzip") {
		ts.Check(validate.Image(img, validate.Fast)) // the slow way knows gzip only
	} else {
		ts.Check(validate.Index(index))
	}
	to, err := name.ParseReference(r.Host + "/" + ref)
	ts.Check(err)
	ts.Check(remote.Write(to, img))
}

// forge pushes an image of as many layers as another one has, whose config claims that they are those.
func (r *scriptRegistry) forge(ts *testscript.TestScript, ref string, of v1.Image) {
	config, err := of.ConfigFile()
	ts.Check(err)
	var forged registrytest.Image
	for i, id := range config.RootFS.DiffIDs {
		forged.DiffIDs = append(forged.DiffIDs, digest.Digest(id.String()))
		forged.Layers = append(forged.Layers, registrytest.Layer{"foreign": fmt.Sprintln("layer", i)})
	}
	r.PushImage(ref, forged)
}

func fetchImage(ts *testscript.TestScript, ref string) v1.Image {
	parsed, err := name.ParseReference(ref)
	ts.Check(err)
	img, err := remote.Image(parsed)
	ts.Check(err)
	return img
}

// cut ends the next n downloads of blobs in the middle.
func (r *scriptRegistry) cut(n int64) {
	var left atomic.Int64
	left.Store(n)
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") || left.Add(-1) < 0 {
			next.ServeHTTP(w, req)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, req)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		body := rec.Body.Bytes()
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
}

// damage changes a byte of every blob.
func damage(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
		next.ServeHTTP(w, req)
		return
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, req)
	body := bytes.Clone(rec.Body.Bytes())
	if len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	w.Write(body)
}
