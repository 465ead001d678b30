package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Handler answers the read-only half of the registry protocol for what has been made. Official
// images have the repository prefix "library/", as on the public registry.
//
// The registry of go-containerregistry is not used because it refuses open-ended ranges, with
// which clients resume a broken download, and hashes a blob each time it is asked for.
func (l *Library) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.Write([]byte("{}"))
	})
	mux.HandleFunc("GET /v2/{prefix}/{repo}/tags/list", l.serveTags)
	mux.HandleFunc("GET /v2/{prefix}/{repo}/manifests/{ref}", l.serveManifest)
	mux.HandleFunc("GET /v2/{prefix}/{repo}/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		hash, err := v1.NewHash(r.PathValue("digest"))
		if err != nil {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
			return
		}
		l.serveBlob(w, r, hash, "application/octet-stream", "BLOB_UNKNOWN")
	})
	return mux
}

// serveTags lists the tags of a repository.
func (l *Library) serveTags(w http.ResponseWriter, r *http.Request) {
	names, err := l.Names()
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	var tags []string
	for name := range names {
		if tag, ok := strings.CutPrefix(name, r.PathValue("repo")+":"); ok {
			tags = append(tags, tag)
		}
	}
	if len(tags) == 0 || r.PathValue("prefix") != "library" {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no base image "+r.PathValue("repo"))
		return
	}
	slices.Sort(tags)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"name": "library/" + r.PathValue("repo"), "tags": tags})
}

// serveManifest answers for a tag or a digest.
func (l *Library) serveManifest(w http.ResponseWriter, r *http.Request) {
	ref := r.PathValue("ref")
	hash, err := v1.NewHash(ref)
	if err != nil {
		names, err := l.Names()
		if err != nil {
			fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
		name := r.PathValue("repo") + ":" + ref
		found, ok := names[name]
		if !ok || r.PathValue("prefix") != "library" {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no base image "+name)
			return
		}
		hash = found
	}
	kind, err := l.mediaType(hash)
	if err != nil {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
		return
	}
	l.serveBlob(w, r, hash, kind, "MANIFEST_UNKNOWN")
}

// mediaType tells what a manifest is. Digests that are no manifest's give an error.
func (l *Library) mediaType(hash v1.Hash) (string, error) {
	all, err := l.descriptors()
	if err != nil {
		return "", err
	}
	for _, d := range all {
		if d.Digest == hash {
			return string(d.MediaType), nil
		}
		index, err := l.oci.ImageIndex()
		if err != nil {
			return "", err
		}
		child, err := index.ImageIndex(d.Digest)
		if err != nil {
			return "", err
		}
		manifest, err := child.IndexManifest()
		if err != nil {
			return "", err
		}
		for _, m := range manifest.Manifests {
			if m.Digest == hash {
				return string(m.MediaType), nil
			}
		}
	}
	return "", fmt.Errorf("no manifest %s", hash)
}

// serveBlob sends a file of the layout, or the range of it that was asked for.
func (l *Library) serveBlob(w http.ResponseWriter, r *http.Request, hash v1.Hash, mediaType, code string) {
	f, err := os.Open(filepath.Join(l.dir, "blobs", hash.Algorithm, hash.Hex))
	if err != nil {
		fail(w, http.StatusNotFound, code, "no blob "+hash.String())
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", hash.String())
	w.Header().Set("Etag", strconv.Quote(hash.String()))
	http.ServeContent(w, r, "", time.Time{}, f)
}

// fail answers with an error in the protocol's form.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// Server is a running registry.
type Server struct {
	Addr string // host:port
	http *http.Server
	done chan error
}

// Serve starts the registry on addr (loopback; port 0 takes a free one) and writes
// certs/docker.io/hosts.toml, by which clients with that directory find it in place of the
// public registry.
func (l *Library) Serve(addr, certs string) (*Server, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("reading address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("serving on %s: the base images are for this machine only, use a loopback address", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serving base images: %w", err)
	}
	s := &Server{Addr: listener.Addr().String(), done: make(chan error, 1)}
	if err := writeHosts(certs, s.Addr); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s.http = &http.Server{Handler: l.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// Wait returns when ctx ends, after the server has stopped, or when the server fails.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-s.done:
		return fmt.Errorf("serving base images: %w", err)
	}
}

// Close stops the server and its connections.
func (s *Server) Close() error { return s.http.Close() }

// writeHosts writes the file by which containerd's and slipway's resolvers replace docker.io.
// What is not served here is still looked for at the public registry.
func writeHosts(certs, addr string) error {
	dir := filepath.Join(certs, "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing hosts.toml: %w", err)
	}
	text := strings.Join([]string{
		`server = "https://registry-1.docker.io"`,
		``,
		`[host."http://` + addr + `"]`,
		`  capabilities = ["pull", "resolve"]`,
		``,
	}, "\n")
	tmp := filepath.Join(dir, ".hosts.toml.tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing hosts.toml: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, "hosts.toml"))
}
